"""A student learns from a teacher with fewer completions than GRPO needs from the same start."""

import keras
import numpy as np
import pytest
from token_toys import GROUP, TOYS, WINDOW, algorithm, policy

from artifex_keras import rl
from artifex_keras.optimizers import create_optimizer

pytestmark = [pytest.mark.slow, pytest.mark.backends("jax")]
TOY = TOYS["ECHO, GRPO"]


def batches(prompts, seed):
    random = np.random.default_rng(seed)
    while True:
        yield (TOY.prompts(random, prompts),)


def reward_of(network):
    """The mean reward of 1000 sampled completions."""
    model = rl.REINFORCE(network, TOY.reward, max_new_tokens=1, seed=99)
    model.compile("sgd")
    prompts = TOY.prompts(np.random.default_rng(5), 1000)
    return model.evaluate(prompts, batch_size=1000, verbose=0, return_dict=True)["reward"]


def completions_until(model, reward, data, completions, windows):
    """The completions sampled until the model's policy reaches a reward."""
    for window in range(1, windows + 1):
        model.fit(data, steps_per_epoch=WINDOW, shuffle=False, verbose=0)
        if reward_of(model.policy) >= reward:
            return window * WINDOW * completions
    raise AssertionError(f"not reached in {windows} windows of {WINDOW} steps")


def distillation(student, teacher, seed):
    keras.utils.set_random_seed(seed)
    model = rl.Distillation(student, teacher, beta=0.5, max_new_tokens=1, seed=seed)
    optimizer = create_optimizer("adamw", 1e-3, gradient_clip_norm=1.0)
    model.compile(optimizer, steps_per_execution=WINDOW)
    return model


# Measured with seeds 0, 1, 2: GRPO 14,720, 15,360, 14,080; distillation in batches of 32 prompts
# 4,000, 3,840, 3,840, in batches of 128 as many as GRPO, since both then take as many steps.
def test_distillation_of_echo_needs_fewer_completions_than_grpo():
    teacher = algorithm(TOY, seed=10)
    prompts = TOY.completions // GROUP
    teacher.fit(batches(prompts, 10), steps_per_epoch=300, shuffle=False, verbose=0)
    wanted = 0.98 * reward_of(teacher.policy)

    alone = algorithm(TOY, seed=0)
    student = policy()
    student.set_weights(alone.policy.get_weights())
    by_reward = completions_until(alone, wanted, batches(prompts, 0), TOY.completions, windows=40)
    taught = distillation(student, teacher.policy, seed=0)
    by_teacher = completions_until(taught, wanted, batches(32, 0), 32, windows=60)
    assert by_teacher <= by_reward / 2
