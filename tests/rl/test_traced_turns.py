"""Environments of tensors: the whole step with its turns is one program, with Python's numbers."""

import keras
import numpy as np
import pytest
from algorithms import ENDS, PAD, bigrams, prompts
from games import HIGHER, LOWER, NO_NUMBER, RIGHT, HigherLower, numbers, placed
from keras import ops

from artifex_keras.networks import CausalTransformer
from artifex_keras.rl import GRPO, traceable

COMMON = {
    "num_generations": 4,
    "max_new_tokens": 4,
    "end_token_id": list(ENDS),
    "pad_token_id": PAD,
    "seed": 0,
}


def grpo(environment=None, policy=None, optimizer="sgd", **options):
    model = GRPO(policy or bigrams(), environment=environment, **{**COMMON, **options})
    model.compile(optimizer)
    return model


@traceable
class TracedHigherLower:
    """`HigherLower` in tensors."""

    def reset(self, number):
        return ops.cast(number, "int32"), None

    def step(self, number, completions, mask):
        guess = completions[:, 0]
        answer = ops.where(guess < number, HIGHER, ops.where(guess == number, RIGHT, LOWER))
        known = ops.logical_and(guess >= 1, guess <= 7)
        answer = ops.where(known, answer, NO_NUMBER)[:, None]
        return number, answer, -ops.ones_like(ops.cast(guess, "float32")), guess == number


@traceable
class TracedCounting:
    """Answers with two ids, three times; the reward is a share of large ids."""

    def reset(self, prompt):
        return ops.zeros_like(prompt[:, 0]), None

    def step(self, turn, completions, mask):
        ids = ops.broadcast_to(ops.convert_to_tensor([[11, 12, -1]], "int32"), (len(mask), 3))
        largest = ops.max(ops.where(mask > 0, completions, 0), axis=1)
        return turn + 1, ids, largest > 7, turn == 2


@traceable
class TracedOneTurn:
    """`sevens` in tensors, as an environment."""

    traced = []

    def reset(self):
        return (), None

    def step(self, state, completions, mask):
        self.traced.append(completions.shape)
        rewards = traced_sevens(None, completions, mask)
        return state, None, rewards, ops.ones_like(rewards)


@traceable
def traced_sevens(prompts, completions, completion_mask):
    return ops.sum(ops.cast(completions == 7, "float32") * completion_mask, axis=1)


def opening_of(model, x):
    return model.actor.unpack(keras.tree.map_structure(ops.convert_to_tensor, x))


def episodes_of(model, x, seed=0):
    """The `Episodes` of a batch with a Python environment, outside of `fit`."""
    with model.drawing_from(seed):
        opening = model._begin_for_table(opening_of(model, x))
    return model.play(model._turn_for_table, opening, model.episode_columns(x, opening, "train"))


def traced_rollout(model, x, seed=0):
    unpacked = opening_of(model, x)
    with model.drawing_from(seed):
        shapes = tuple(tuple(each.shape) for each in unpacked.values())
        x = x if isinstance(x, dict) else {}
        return model._traced_for_table(x, unpacked, shapes=shapes)


def players(max_turns, **options):
    """Two models of the same weights, with the Python and the traceable game."""
    made = []
    for game in (HigherLower, TracedHigherLower):
        keras.utils.set_random_seed(0)
        policy = CausalTransformer(12, 16, num_layers=1, num_heads=2, width=8)
        options = {"max_new_tokens": 1, "end_token_id": None, "pad_token_id": 0} | options
        made.append(grpo(game, policy, max_turns=max_turns, **options))
    return made


@pytest.mark.seam
def test_the_episodes_are_those_of_python():
    """Also of those that the context of 16 ends, which has no room for the tenth turn."""
    first, second = players(10)
    x = numbers(2)
    episodes, found = episodes_of(first, x), traced_rollout(second, x)
    expected = episodes.rollout()
    for name in ("ended", "turns", "start"):
        got = ops.convert_to_numpy(getattr(found, name))
        np.testing.assert_array_equal(got, getattr(expected, name))
    np.testing.assert_array_equal(ops.convert_to_numpy(found.rewards), episodes.values()[:, 0])
    for name in ("mask", "completion", "log_probs", "sequence"):
        a, b = getattr(expected, name), ops.convert_to_numpy(getattr(found, name))
        width = min(a.shape[1], b.shape[1])
        np.testing.assert_allclose(a[:, :width], b[:, :width], atol=1e-5)
        assert not a[:, width:].any() and not b[:, width:].any()
    assert 0 < expected.ended.mean() < 1
    python, traced = (model.table(x, count=56) for model in (first, second))
    for ours, theirs in zip(traced, python, strict=True):
        assert theirs["completion"].startswith(ours["completion"])  # the last answer isn't read
        assert (ours["prompt"], ours["reward"]) == (theirs["prompt"], theirs["reward"])


@pytest.mark.seam
def test_it_learns_what_python_learns():
    histories = []
    for model in players(2, loss_type="dr_grpo"):
        fit = {"batch_size": 7, "shuffle": False, "verbose": 0}
        histories.append(model.fit(numbers(1), **fit).history)
    python, traced = histories
    for name, values in python.items():
        np.testing.assert_allclose(values, traced[name], rtol=1e-4, atol=1e-5)


@pytest.mark.seam
def test_one_turn_is_a_traceable_reward_to_the_bit():
    options = {"num_iterations": 2, "num_minibatches": 2}
    TracedOneTurn.traced.clear()
    models = [
        grpo(None, optimizer="adam", reward_fn=traced_sevens, **options),
        grpo(TracedOneTurn, optimizer="adam", max_turns=1, **options),
    ]
    fit = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    asked, played = (model.fit(prompts(8), **fit).history for model in models)
    assert played.pop("turns") == [1.0, 1.0] and played.pop("truncated") == [0.0, 0.0]
    asked.pop("truncated")
    if keras.backend.backend() == "jax":  # one program for all steps
        assert len(TracedOneTurn.traced) == 1
    assert asked == played and max(asked["reward_std"]) > 0
    for a, b in zip(models[0].policy.weights, models[1].policy.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


@traceable
@keras.saving.register_keras_serializable(package="tests")
def traced_one_turn():
    return TracedOneTurn()


@pytest.mark.backends("jax")
def test_a_registered_environment_is_saved_and_another_is_set_again(tmp_path):
    fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
    model = grpo(traced_one_turn, optimizer="adam", max_turns=1)
    model.fit(prompts(8), **fit)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.environment is traced_one_turn and not loaded.rewards.on_host
    model.environment = TracedOneTurn
    model.save(tmp_path / "another.keras")
    another = keras.saving.load_model(tmp_path / "another.keras")
    with pytest.raises(ValueError, match="`model.environment` again"):
        another.fit(prompts(8), **fit)
    another.environment = TracedOneTurn
    histories = [each.fit(prompts(8), **fit).history for each in (model, loaded, another)]
    assert histories[0] == histories[1] == histories[2]


@pytest.mark.seam
def test_tokens_of_the_environment_have_no_gradient():
    """As with `Counting`: one token a turn, and two are read between them."""
    sgd = keras.optimizers.SGD(1.0)
    model = grpo(TracedCounting, placed(), optimizer=sgd, max_new_tokens=1, max_turns=4)
    model.fit(prompts(4, (1,)), batch_size=4, verbose=0)
    moved = ops.convert_to_numpy(model.policy.get_layer("places").table)
    assert (np.abs(moved[[0, 3, 6]]).max(axis=1) > 1e-3).all()
    np.testing.assert_array_equal(np.delete(moved, [0, 3, 6], axis=0), 0.0)


def game(reset=lambda self: ((), None), step=None):
    """A traceable environment of these two methods."""

    def over(self, state, completions, mask):
        return state, None, mask[:, 0], mask[:, 0] > 0

    return traceable(type("Game", (), {"reset": reset, "step": step or over}))


WRONG = {
    "reset": (game(lambda self: None), r"'Game' must give \(state, ids\) from `reset`.*NoneType"),
    "ids": (game(lambda self: ((), [1, 2])), r"ids \(8, K\), integers from `reset`.*shape \(2,\)"),
    "step": (
        game(step=lambda self, state, ids, mask: (state, None, 0.0)),
        r"\(state, ids, rewards, done\) from `step`",
    ),
    "rewards": (
        game(step=lambda self, state, ids, mask: (state, None, mask, mask[:, 0])),
        r"rewards \(8,\) from `step`.*shape \(8, 4\)",
    ),
    "column": (game(lambda self, number: ((), None)), "'Game' needs the column 'number'"),
    "room": (
        game(lambda self, prompt: ((), ops.ones((8, 30), "int32"))),
        "32 tokens before the first turn from 'Game'",
    ),
}


@pytest.mark.backends("jax")  # TensorFlow rewrites lambdas
@pytest.mark.parametrize("name", sorted(WRONG))
def test_what_it_must_not_give(name):
    wrong, message = WRONG[name]
    policy = CausalTransformer(13, 24, num_layers=1, num_heads=1, width=4)
    with pytest.raises(ValueError, match=message):
        traced_rollout(grpo(wrong, policy), prompts(2, (2,)))


def test_ids_outside_the_vocabulary_and_rewards_that_are_no_number_are_seen():
    """An infinite reward makes the loss no number, which ends `fit`; NaN would be no reward."""

    def wrong(self, state, completions, mask):
        odd = ops.arange(8) % 2 == 1
        ids = ops.where(odd, 99, 1)[:, None]
        return state, ids, ops.where(odd, 0.0, np.nan), ops.zeros((8,), "bool")

    model = grpo(game(step=wrong), max_turns=2)
    found = ops.convert_to_numpy(traced_rollout(model, prompts(2, (2,))).rewards)
    np.testing.assert_array_equal(found, -np.inf)
