"""Process reward models: the loss in float64, what steps reduce to, what is learned and refused."""

import keras
import numpy as np
import pytest
from algorithms import network
from tables import TABLE, policy

from artifex_keras.rl import GRPO, ProcessRewardModel

END = 4
WEIGHTS = np.array([0.7, -1.1, 0.4, 0.9, -0.3])
ROWS = [
    {"prompt": [2], "completions": [[3], [1, 1]], "labels": [True, False]},
    {"prompt": [1, 3], "completions": [[2]], "labels": [0]},
]


def model_of(backbone=None, **options):
    """A model whose scores are written down: the row of the table of the id, times the weights."""
    model = ProcessRewardModel(policy() if backbone is None else backbone, separator_token_id=END,
                               **{"seed": 0, **options})  # fmt: skip
    if backbone is None:
        model.head.set_weights([np.float32(WEIGHTS)[:, None], np.float32([0.2])])
    model.compile(keras.optimizers.SGD(0.1))
    return model


@pytest.mark.seam
def test_the_loss_is_the_mean_over_steps_in_float64():
    z = TABLE[END] @ WEIGHTS + 0.2
    right, wrong = np.log1p(np.exp(-z)), np.log1p(np.exp(z))
    logs = model_of().evaluate(ROWS, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx((right + 2 * wrong) / 3, rel=1e-5)
    assert logs["step_accuracy"] == pytest.approx((1 if z > 0 else 2) / 3)


def test_rows_become_arrays_with_a_separator_after_each_step():
    arrays = model_of().as_arrays(ROWS)
    np.testing.assert_array_equal(arrays["tokens"][0, :6], [2, 3, END, 1, 1, END])
    np.testing.assert_array_equal(arrays["tokens_mask"][0, :6], [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(arrays["label"][:, :6], [[0, 0, 1, 0, 0, 0], [0] * 6])
    np.testing.assert_array_equal(arrays["tokens_mask"].sum(1), [2, 1])


@pytest.mark.parametrize(
    ("reduction", "reduce"), [("min", np.min), ("product", np.prod), ("last", lambda p: p[-1])]
)
def test_rewards_are_what_the_steps_reduce_to(reduction, reduce):
    model = model_of(network(), reduction=reduction)
    model.head.set_weights([np.linspace(-1, 1, 16)[:, None], np.zeros(1)])
    rows = [[2, 3, END, 1, 1, END, 5, END], [7, END], [3, 2, END, 6, 6]]
    steps = model.step_rewards(rows)
    assert [len(p) for p in steps] == [3, 1, 1]
    assert len({round(float(p), 4) for p in steps[0]}) == 3
    np.testing.assert_allclose(model.reward(rows), [reduce(p) for p in steps], rtol=1e-5)
    assert model.reward([[2, 3]])[0] == 0.0  # no step has ended
    alone = model.step_rewards([rows[2][:3]])[0]  # what follows and other rows change nothing
    np.testing.assert_allclose(alone, steps[2], rtol=1e-5)


def learned(epochs=30):
    """A model that has learned that steps of even ids are right, and the rows it did not see."""
    random = np.random.default_rng(0)

    def rows(count):
        made = []
        for _ in range(count):
            steps = [5 + random.integers(0, 8, 1) for _ in range(3)]
            labels = [int(step[0] % 2 == 0) for step in steps]
            made.append({"prompt": [2], "completions": steps, "labels": labels})
        return made

    model = model_of(network())
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(rows(128), batch_size=32, epochs=epochs, verbose=0)
    return model, rows(64)


def test_it_learns_and_is_a_reward_and_is_saved(tmp_path):
    model, held_out = learned()
    assert model.evaluate(held_out, verbose=0, return_dict=True)["step_accuracy"] >= 0.98
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    rows = [[2, 6, END, 8, END], [2, 6, END, 7, END]]
    good, bad = model.reward(rows)
    assert good > 0.9 and bad < 0.1
    np.testing.assert_array_equal(loaded.reward(rows), model.reward(rows))
    assert loaded.separator_token_id == END and loaded.reduction == "min"

    grpo = GRPO(network(1), loaded, num_generations=8, max_new_tokens=2, seed=0)
    grpo.compile(keras.optimizers.Adam(1e-2))
    rewards = grpo.fit(np.full((64, 1), 2), batch_size=8, epochs=4, verbose=0).history["reward"]
    assert rewards[-1] > rewards[0] + 0.15


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"labels": [True]}, "one for each"),
        ({"completions": "text"}, "list of steps"),
        ({"completions": []}, "list of steps"),
        ({"labels": [True, 0.5]}, "True for a right step"),
        ({"completions": [[3], [END]]}, "in 'completions' of row 0"),
        ({"prompt": [END]}, "in 'prompt' of row 0"),
        ({"completions": [["a"], ["b"]]}, "token ids"),
        ({"labels": None}, "has no 'labels'"),
    ],
)
def test_rows_that_can_not_be_used_are_refused(row, words):
    with pytest.raises(ValueError, match=words):
        model_of().fit([ROWS[0] | row])


def test_arrays_and_rows_to_score_are_checked():
    model = model_of()
    x = model.as_arrays(ROWS)
    with pytest.raises(ValueError, match="separators alone"):
        model.fit(x | {"tokens_mask": np.roll(x["tokens_mask"], -1, axis=1)})
    with pytest.raises(ValueError, match="1 for a right step"):
        model.fit(x | {"label": x["label"] * 0.5})
    with pytest.raises(ValueError, match="none in row 1"):
        model.step_rewards([[2, END], [2, 3]])
    with pytest.raises(ValueError, match="separator_token_id"):
        ProcessRewardModel(policy(), separator_token_id=9)
