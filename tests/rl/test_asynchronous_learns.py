"""What it costs to learn that each batch is sampled one update before it is learned from."""

import keras
import numpy as np
import pytest
from token_toys import GROUP, TOYS, policy

from artifex_keras import create_optimizer
from artifex_keras.rl import GRPO

pytestmark = [pytest.mark.slow, pytest.mark.backends("jax")]

UPDATES, PROMPTS = 10, 16  # of an epoch, of an update


def echoed(prompts, completions):
    """ECHO in Python: 1 for the prompt's digit."""
    return [float(c[0] == p[1]) for p, c in zip(prompts, completions, strict=True)]


def completions_until(bar, seed, **options):
    """How many completions are sampled until the mean reward of an epoch is `bar`."""
    keras.utils.set_random_seed(seed)
    model = GRPO(policy(), echoed, seed=seed, max_new_tokens=1, num_generations=GROUP, **options)
    model.compile(create_optimizer("adamw", 1e-3, gradient_clip_norm=1.0))
    x = TOYS["ECHO, GRPO"].prompts(np.random.default_rng(seed), UPDATES * PROMPTS)
    for epoch in range(1, 41):
        if model.fit(x, batch_size=PROMPTS, verbose=0).history["reward"][0] >= bar:
            return epoch * UPDATES * PROMPTS * GROUP
    raise AssertionError(f"A mean reward of {bar} was not reached.")


def test_a_policy_one_update_old_learns_from_as_many_completions():
    """Measured with and without, seeds 0, 1, 2: 12,800, 12,800 and 14,080 both."""
    beside, in_turn = (
        sum(
            completions_until(0.95, seed, importance_cap=2.0, asynchronous_rewards=flag)
            for seed in range(3)
        )
        for flag in (True, False)
    )
    assert beside <= 1.15 * in_turn
