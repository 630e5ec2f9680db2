"""Reward models: the loss in float64, where preferences settle, and what they score."""

import math

import keras
import numpy as np
import pytest
from algorithms import network, pairs, prompts
from tables import TABLE, policy

from artifex_keras import Autoregressive
from artifex_keras.datasets.tokenizers import CharacterTokenizer
from artifex_keras.objectives.preference import bradley_terry
from artifex_keras.rl import GRPO, RewardModel

pytestmark = pytest.mark.backends("jax")

CHOSEN = np.array([[2, 3, 1, 0, 0], [4, 2, 2, 1, 3], [3, 3, 0, 0, 0]], "int32")
CHOSEN_MASK = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 0, 0]])
REJECTED = np.array([[2, 4, 4, 4, 1], [4, 2, 1, 0, 0], [3, 2, 2, 1, 0]], "int32")
REJECTED_MASK = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0]])
PAIRS = {
    "chosen": CHOSEN,
    "chosen_mask": CHOSEN_MASK,
    "rejected": REJECTED,
    "rejected_mask": REJECTED_MASK,
}
LAST = [1, 1, 3], [1, 1, 1]  # the last ids that the masks count
WEIGHTS = np.array([0.7, -1.1, 0.4, 0.9, -0.3])


def model_of(backbone=None, weights=WEIGHTS, bias=0.2, **options):
    """A model whose rewards are written down: those of the last id's row of the table."""
    model = RewardModel(policy() if backbone is None else backbone, **{"seed": 0, **options})
    if weights is not None:
        model.head.set_weights([np.float32(weights)[:, None], np.float32([bias])])
    model.compile(keras.optimizers.SGD(0.1))
    return model


def rewards(ids):
    return TABLE[np.array(ids)] @ WEIGHTS + 0.2


def logs_of(model, x=PAIRS):
    return {k: float(v) for k, v in model.test_on_batch(x, return_dict=True).items()}


def test_the_loss_is_that_of_bradley_and_terry_in_float64():
    margin = np.array([0.0, 0.5, 2.0])
    w, l = rewards([1, 1, 3]), rewards([1, 1, 1])  # noqa: E741
    wanted = np.log1p(np.exp(margin - (w - l))) + 0.3 * (w + l) ** 2
    logs = logs_of(model_of(centering=0.3), PAIRS | {"margin": margin})
    assert logs["loss"] == pytest.approx(wanted.mean(), rel=1e-5)
    assert logs["reward_margin"] == pytest.approx((w - l).mean(), rel=1e-5)
    assert logs["reward_accuracy"] == pytest.approx((w > l).mean())
    assert logs["confidence"] == pytest.approx((1 / (1 + np.exp(-abs(w - l)))).mean(), rel=1e-5)


def test_a_preference_of_four_in_five_ends_at_ln_4():
    """FORMULAS 9.1: r_w - r_l = 1.3863, loss .5004; the centred rewards are ± half of it."""
    better, worse = np.full((5, 2), 3), np.full((5, 2), 4)
    flipped = np.arange(5)[:, None] == 4
    mask = np.array([[0, 1]] * 5)
    x = {"chosen": np.where(flipped, worse, better), "chosen_mask": mask}
    x |= {"rejected": np.where(flipped, better, worse), "rejected_mask": mask}
    model = model_of(weights=None, centering=0.5)
    model.compile(keras.optimizers.Adam(0.1))
    loss = model.fit(x, batch_size=5, epochs=150, verbose=0).history["loss"][-1]
    high, low = model.reward([[3, 3], [3, 4]])
    assert high - low == pytest.approx(math.log(4), abs=1e-3)
    assert high + low == pytest.approx(0.0, abs=1e-3)
    assert loss == pytest.approx(0.5004, abs=1e-4)


def test_a_new_model_rewards_nothing_and_knows_nothing():
    logs = logs_of(model_of(weights=None))
    assert logs["loss"] == pytest.approx(math.log(2)) and logs["confidence"] == 0.5


@pytest.mark.parametrize("rows", [[[2, 3, 1], [4, 4]], np.array([[2, 3, 1, 0], [4, 4, 0, 0]])])
def test_the_last_token_that_counts_is_scored(rows):
    found = model_of(pad_token_id=0).reward(rows)
    np.testing.assert_allclose(found, rewards([1, 4]), rtol=1e-5)


def test_padding_on_the_left_changes_nothing():
    """Of a transformer, which would see it."""
    model = model_of(network(), np.linspace(-1, 1, 16), pad_token_id=0)
    right = model.reward(np.array([[5, 6, 7, 0, 0], [3, 4, 0, 0, 0]]))
    left = model.reward(np.array([[0, 0, 5, 6, 7], [0, 0, 0, 3, 4]]))
    np.testing.assert_array_equal(left, right)
    x = pairs(4)
    moved = {k: np.stack([np.roll(r, n) for r, n in zip(v, _room(x, k), strict=True)])
             for k, v in x.items()}  # fmt: skip
    assert logs_of(model, moved)["loss"] == pytest.approx(logs_of(model, x)["loss"], rel=1e-6)


def _room(x, key):
    """How many ids of padding are behind each row."""
    return (x[key.removesuffix("_mask")] == 0).sum(axis=1)


def test_texts_are_scored_with_their_end():
    tokenizer = CharacterTokenizer.of(".abcd")
    end = tokenizer.id_of(".")
    model = model_of(tokenizer=tokenizer, end_token_id=end)
    ids = tokenizer.encode("ab")
    np.testing.assert_array_equal(model.reward("ab"), model.reward([[*ids, end]]))
    logs = model.fit([{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1}], verbose=0)
    assert logs.history["reward_margin"] == [0.0]  # both end alike, which is all a table sees


@pytest.mark.parametrize("make", [network, lambda: Autoregressive(network())])
def test_it_is_a_reward_of_grpo_in_one_compiled_step(make):
    reward_model = model_of(make(), np.linspace(-1, 1, 16))
    options = {"max_new_tokens": 4, "num_generations": 4, "end_token_id": 1, "seed": 0}
    model = GRPO(network(1), reward_model, **options)
    model.compile("adam")
    assert not model.interrupted
    x = prompts(2)
    rows = model.table(x, count=8)
    texts = [[*row["prompt"], *row["completion"]] for row in rows]
    np.testing.assert_allclose([r["reward"] for r in rows], reward_model.reward(texts), rtol=1e-4)
    before = reward_model.get_weights()
    model.fit(x, batch_size=2, verbose=0)
    for old, new in zip(before, reward_model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_saved_model_gives_the_same_rewards(tmp_path):
    model = model_of(network(), None)
    model.fit(pairs(8), batch_size=4, verbose=0)
    model.save(tmp_path / "reward_model.keras")
    loaded = keras.models.load_model(tmp_path / "reward_model.keras")
    ids = pairs(8)["chosen"]
    np.testing.assert_array_equal(loaded.reward(ids), model.reward(ids))
    assert np.abs(model.reward(ids)).max() > 0


def test_mistakes_are_named():
    model = model_of(pad_token_id=0)
    with pytest.raises(ValueError, match="`margin` must be a finite number.*nan.*row 1"):
        model.fit(PAIRS | {"margin": np.array([0, np.nan, 1])}, verbose=0)
    with pytest.raises(ValueError, match=r"Token ids must be in \[0, 5\)"):
        model.reward([[7]])
    with pytest.raises(ValueError, match="at least one token"):
        model.reward([[1], []])
    with pytest.raises(AttributeError, match=r"scores texts, by `reward\(x\)`: it has no `sample`"):
        model.sample(1)
    with pytest.raises(ValueError, match="isn't exported yet"):
        model.export("folder")
    with pytest.raises(ValueError, match="`x` must have at least one row"):
        model.reward([])
    with pytest.raises(ValueError, match="`centering`"):
        RewardModel(policy(), centering=-1.0)
    with pytest.raises(ValueError, match="context of 24 tokens"):
        model_of(network(), None).reward([[3] * 25])


@pytest.mark.seam
@pytest.mark.backends("jax", "tensorflow", "torch")
def test_a_step_on_each_backend():
    model = model_of(centering=0.3)
    loss = model.fit(PAIRS, batch_size=3, verbose=0).history["loss"][0]
    w, l = rewards([1, 1, 3]), rewards([1, 1, 1])  # noqa: E741
    wanted = np.log1p(np.exp(l - w)) + 0.3 * (w + l) ** 2
    assert loss == pytest.approx(wanted.mean(), rel=1e-5)
    assert np.abs(model.reward([[2]]) - rewards([2])).max() > 1e-3


@pytest.mark.seam
@pytest.mark.backends("jax", "tensorflow", "torch")
def test_the_loss_of_a_pair_on_each_backend():
    loss = bradley_terry(np.array([1.0, -2.0]), np.array([0.5, 1.0]), 0.25, 0.1)
    wanted = np.log1p(np.exp(0.25 - np.array([0.5, -3.0]))) + 0.1 * np.array([1.5, -1.0]) ** 2
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss), wanted, rtol=1e-6)
