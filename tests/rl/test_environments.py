"""Episodes of several turns with an environment: what is played, what is learned, what is refused."""

import threading
import time

import keras
import numpy as np
import pytest
from algorithms import ENDS, PAD, bigrams, network, prompts, sevens
from keras import ops

from artifex_keras.networks import CausalTransformer
from artifex_keras.rl import GRPO, PPO, REINFORCE, RLOO

COMMON = {
    "num_generations": 4,
    "max_new_tokens": 4,
    "end_token_id": list(ENDS),
    "pad_token_id": PAD,
    "seed": 0,
}


class OneTurn:
    """`sevens` as an environment."""

    def reset(self, prompt):
        return prompt  # which the policy has read already

    def step(self, ids):
        return [3, 4, 5], sevens(None, [ids])[0], True


class Counting:
    """Answers with two ids, three times; the reward is a share of large ids, the last one 1."""

    def reset(self, **columns):
        self.turn = 0
        return []

    def step(self, ids):
        self.turn += 1
        return [11, 12], float(max(ids) > 7), self.turn == 3


def grpo(environment=None, policy=None, cls=GRPO, optimizer="sgd", **options):
    model = cls(policy or bigrams(), environment=environment, **{**COMMON, **options})
    model.compile(optimizer)
    return model


def numbers(model):
    return [
        np.array(ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)
    ]


def assert_same(first, second):
    for a, b in zip(numbers(first), numbers(second), strict=True):
        np.testing.assert_array_equal(a, b)


def episodes_of(model, x, seed=0):
    """The `Episodes` of a batch, outside of `fit`."""
    begun = model.actor.unpack(keras.tree.map_structure(ops.convert_to_tensor, x))
    with model.drawing_from(seed):
        begun = model._begin_for_table(begun)
    return model.play(model._turn_for_table, begun, model.episode_columns(x, begun, "train"))


# One turn


@pytest.mark.seam
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (GRPO, {"beta": 0.1, "num_iterations": 2, "num_minibatches": 2}),
        (RLOO, {}),
        (PPO, {"num_epochs": 1, "value": None}),
    ],
    ids=["grpo", "rloo", "ppo"],
)
def test_one_turn_is_a_reward_function_to_the_bit(cls, options):
    make = network if cls is PPO else bigrams
    models = [
        grpo(None, make(), cls, "adam", reward_fn=sevens, **options),
        grpo(OneTurn, make(), cls, "adam", max_turns=1, **options),
    ]
    fit = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    told, played = (model.fit(prompts(8), **fit).history for model in models)
    assert played.pop("turns") == [1.0, 1.0]
    assert played.pop("truncated") == [0.0, 0.0]  # an episode that is over isn't cut off
    told.pop("truncated")
    assert told == played and max(told["reward_std"]) > 0
    for a, b in zip(models[0].policy.weights, models[1].policy.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    optimizers = (model.optimizer.variables for model in models)
    for a, b in zip(*optimizers, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


# Several turns


def test_what_the_environment_writes_is_read_and_not_counted():
    model = grpo(Counting, network(), max_turns=3)
    episodes = episodes_of(model, prompts(2, (1, 3)))
    rollout = episodes.rollout()
    assert rollout.completion.shape == (8, 16) and rollout.sequence.shape == (8, 19)
    np.testing.assert_array_equal(rollout.start, [1] * 4 + [3] * 4)
    for row in range(8):
        completion, mask = rollout.completion[row], rollout.mask[row]
        start = rollout.start[row]
        np.testing.assert_array_equal(rollout.sequence[row, start : start + 16], completion)
        written = [ids for ids in episodes.transcripts[row][::2]]
        expected = [*written[0], 11, 12, *written[1], 11, 12, *written[2]]
        own = (
            [1] * len(written[0]) + [0, 0] + [1] * len(written[1]) + [0, 0] + [1] * len(written[2])
        )
        np.testing.assert_array_equal(completion[: len(expected)], expected)
        np.testing.assert_array_equal(mask[: len(own)], own)
        assert not mask[len(own) :].any() and (completion[len(own) :] == PAD).all()
        assert episodes.rewards[row] == sum(max(ids) > 7 for ids in written)
    assert rollout.turns.tolist() == [3] * 8 and rollout.ended.tolist() == [1] * 8
    tensors = keras.tree.map_structure(ops.convert_to_tensor, rollout, none_is_leaf=False)
    scores = ops.convert_to_numpy(model.actor.score(tensors).log_probs)
    own = rollout.mask > 0
    np.testing.assert_allclose(scores[own], rollout.log_probs[own], atol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class Places(keras.layers.Layer):
    """Adds a number for each place and id."""

    def build(self, shape):
        self.table = self.add_weight(shape=(24, shape[-1]), initializer="zeros", name="table")

    def compute_output_shape(self, shape):
        return shape

    def call(self, logits):
        return logits + self.table[: ops.shape(logits)[1]]


def placed():
    base = bigrams()
    return keras.Model(base.input, Places(name="places")(base.output))


@pytest.mark.seam
def test_tokens_of_the_environment_have_no_gradient():
    """One token a turn: places 0, 3 and 6 predict what the policy writes, the others what it
    reads. With a step of gradient descent a place moves by its gradient."""
    model = grpo(Counting, placed(), optimizer=keras.optimizers.SGD(1.0), max_new_tokens=1)
    model.fit(prompts(4, (1,)), batch_size=4, verbose=0)
    moved = ops.convert_to_numpy(model.policy.get_layer("places").table)
    assert (np.abs(moved[[0, 3, 6]]).max(axis=1) > 1e-3).all()
    np.testing.assert_array_equal(np.delete(moved, [0, 3, 6], axis=0), 0.0)
