"""KTO against the formula in float64, and what its batches must hold."""

import keras
import numpy as np
import pytest
from algorithms import judged, network
from tables import OTHER, TABLE, close, log_probs, policy, slope, table_of

from artifex_keras.rl import KTO

pytestmark = pytest.mark.backends("jax")

TOKENS = np.array([[2, 3, 1, 0, 0], [4, 2, 2, 1, 0], [3, 3, 0, 0, 0], [2, 4, 4, 4, 1]], "int32")
MASK = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 0, 0], [0, 1, 1, 1, 1]])
LABEL = np.array([1, 0, 1, 0])
ANSWERS = {"tokens": TOKENS, "tokens_mask": MASK, "label": LABEL}


def score(table, row):
    """ln p of a completion after its prompt: `row` is `(prompt, completion)`."""
    prompt, completion = row
    before = np.array([prompt[-1], *completion[:-1]])
    return log_probs(table, before, np.array(completion)).sum()


def rows():
    return [
        (TOKENS[i, : MASK[i].argmax()].tolist(), TOKENS[i][MASK[i] > 0].tolist()) for i in range(4)
    ]


def mismatched():
    """Each prompt with the completion of the row before it, as far as the rows reach."""
    own = rows()
    return [(own[i][0], own[i - 1][1][: 5 - len(own[i][0])]) for i in range(4)]


def ratios(table, pairs):
    return np.array([score(table, row) - score(OTHER, row) for row in pairs])


def loss_of(table, z, beta=0.3, good=1.0, bad=1.0):
    r = ratios(table, rows())
    distance = np.where(LABEL == 1, r - z, z - r)
    return (np.where(LABEL == 1, good, bad) * (1 - 1 / (1 + np.exp(-beta * distance)))).mean()


def kto(table=TABLE, **options):
    options = {"beta": 0.3, "seed": 0, "reference": policy(OTHER, "reference"), **options}
    model = KTO(policy(table), **options)
    model.compile(keras.optimizers.SGD(1.0))
    return model


def test_the_other_completion_of_the_first_row_is_that_of_the_last():
    """And it is cut where the row ends: 3 of its 4 tokens fit behind a prompt of two."""
    assert mismatched()[0] == ([2], [4, 4, 4, 1])
    assert mismatched()[1] == ([4, 2], [3, 1])


@pytest.mark.parametrize("table", [TABLE, 2 * OTHER - TABLE], ids=["one side", "other side"])
def test_an_update_by_the_letter(table):
    z = max(0.0, ratios(table, mismatched()).mean())
    model = kto(table, desirable_weight=1.5, undesirable_weight=0.5)
    logs = model.train_on_batch(ANSWERS, return_dict=True)
    close(float(logs["kl"]), z)
    close(float(logs["loss"]), loss_of(table, z, good=1.5, bad=0.5))
    close(table_of(model.policy), table - slope(lambda t: loss_of(t, z, good=1.5, bad=0.5), table))
    r = ratios(table, rows())
    close(float(logs["reward_accuracy"]), ((r > z) == (LABEL == 1)).mean())
    close(float(logs["reward_margin"]), 2 * 0.3 * np.where(LABEL == 1, r, -r).mean())


def test_the_reference_point_has_both_signs_in_these_tests():
    means = [ratios(t, mismatched()).mean() for t in (TABLE, 2 * OTHER - TABLE)]
    assert min(means) < 0 < max(means)


def test_the_first_loss_is_a_half():
    model = KTO(network(dropout=0.5), seed=0)
    model.compile("sgd")
    logs = model.train_on_batch(judged(6), return_dict=True)
    assert float(logs["loss"]) == pytest.approx(0.5, rel=1e-6)
    assert float(logs["kl"]) == pytest.approx(0, abs=1e-6)


def test_rows_of_ids_become_arrays():
    model = KTO(network(), end_token_id=1, seed=0)
    model.compile("sgd")
    given = [
        {"prompt": [3, 4], "completion": [5], "label": True},
        {"prompt": [3], "completion": [6, 7], "label": False},
    ]
    x = model.prepared_data(given)
    assert x["tokens"][0][x["tokens_mask"][0] > 0].tolist() == [5, 1]
    history = model.fit(given, batch_size=2, verbose=0).history
    assert history["loss"] == [pytest.approx(0.5, rel=1e-6)]


@pytest.mark.parametrize(
    ("message", "x"),
    [
        (r"'label'", {name: ANSWERS[name] for name in ("tokens", "tokens_mask")}),
        (r"'tokens_mask'", {name: ANSWERS[name] for name in ("tokens", "label")}),
        (r"none in row 0 of `tokens_mask`", {**ANSWERS, "tokens_mask": MASK * LABEL[::-1, None]}),
        (r"at least 2 answers", {name: column[:1] for name, column in ANSWERS.items()}),
        (r"label", [{"prompt": [3], "completion": [4]}] * 2),
    ],
)
def test_bad_data_is_refused(message, x):
    with pytest.raises(ValueError, match=message):
        kto().fit(x, verbose=0)


def test_batches_of_one_are_refused():
    with pytest.raises(ValueError, match="at least 2 answers"):
        kto().fit(ANSWERS, batch_size=1, verbose=0)


def test_bad_options_are_refused():
    for name, value in (("beta", 0), ("desirable_weight", -1), ("undesirable_weight", "1")):
        with pytest.raises(ValueError, match=f"`{name}`"):
            kto(**{name: value})
