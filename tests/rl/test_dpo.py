"""DPO and its relatives against the formulas in float64, where they settle, and their data."""

import math

import keras
import numpy as np
import pytest
from algorithms import network, pairs
from keras import ops
from tables import OTHER, SIZE, TABLE, close, log_probs, policy, slope, table_of

from artifex_keras.datasets.tokenizers import CharacterTokenizer
from artifex_keras.models import Autoregressive
from artifex_keras.rl import DPO

pytestmark = pytest.mark.backends("jax")

# Prompt and completion, padding behind: of several lengths, and with other ids under the padding.
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
LENGTHS = CHOSEN_MASK.sum(1), REJECTED_MASK.sum(1)


def sums(table):
    """ln p of the chosen and of the rejected completions."""
    return [
        (log_probs(table, ids[:, :-1], ids[:, 1:]) * mask[:, 1:]).sum(1)
        for ids, mask in ((CHOSEN, CHOSEN_MASK), (REJECTED, REJECTED_MASK))
    ]


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def log_odds(mean):
    return mean - np.log1p(-np.exp(mean))


def loss_of(table, loss_type, beta=0.3, *, smoothing=0.0, gamma=0.0, reference=OTHER):
    """Of each pair, by the letter."""
    w, l = sums(table)  # noqa: E741
    w_mean, l_mean = w / LENGTHS[0], l / LENGTHS[1]
    ref = [0.0, 0.0] if reference is None else sums(reference)
    h = (w - ref[0]) - (l - ref[1])
    h_avg = (w - ref[0]) / LENGTHS[0] - (l - ref[1]) / LENGTHS[1]
    right, wrong = log_sigmoid(beta * h), log_sigmoid(-beta * h)
    e = smoothing
    return {
        "sigmoid": -(1 - e) * right - e * wrong,
        "robust": (-(1 - e) * right + e * wrong) / (1 - 2 * e),
        "hinge": np.maximum(1 - beta * h, 0),
        "ipo": (h_avg - 1 / (2 * beta)) ** 2,
        "simpo": -log_sigmoid(beta * (w_mean - l_mean) - gamma),
        "orpo": -w_mean - beta * log_sigmoid(log_odds(w_mean) - log_odds(l_mean)),
    }[loss_type]


FREE = ("simpo", "orpo")


def dpo(loss_type="sigmoid", *, network=None, optimizer=None, **options):
    if loss_type not in FREE and not options.get("reference_free"):
        options = {"reference": policy(OTHER, "reference"), **options}
    made = DPO(network or policy(), loss_type=loss_type, **{"beta": 0.3, "seed": 0, **options})
    made.compile(optimizer or keras.optimizers.SGD(1.0))
    return made


def logs_of(model, x=PAIRS, **options):
    logs = model.train_on_batch(x, return_dict=True, **options)
    return {name: float(value) for name, value in logs.items()}


@pytest.mark.parametrize(
    ("loss_type", "options", "settings"),
    [
        ("sigmoid", {}, {}),
        ("sigmoid", {"label_smoothing": 0.1}, {"smoothing": 0.1}),
        ("sigmoid", {"reference_free": True}, {"reference": None}),
        ("robust", {"label_smoothing": 0.2}, {"smoothing": 0.2}),
        ("hinge", {}, {}),
        ("ipo", {}, {}),
        ("simpo", {"simpo_gamma": 0.4}, {"gamma": 0.4}),
        ("orpo", {}, {}),
    ],
    ids=str,
)
def test_each_loss_by_the_letter(loss_type, options, settings):
    model = dpo(loss_type, **options)
    logs = logs_of(model)
    expected = loss_of(TABLE, loss_type, **settings)
    close(logs["loss"], expected.mean())
    step = slope(lambda t: loss_of(t, loss_type, **settings).mean(), TABLE)
    close(table_of(model.policy), TABLE - step)
    w, l = sums(TABLE)  # noqa: E741
    if model.reference is not None:
        ref = sums(OTHER)
        w, l = w - ref[0], l - ref[1]  # noqa: E741
    close(logs["chosen_reward"], 0.3 * w.mean())
    close(logs["rejected_reward"], 0.3 * l.mean())
    close(logs["reward_margin"], 0.3 * (w - l).mean())
    close(logs["reward_accuracy"], (w > l).mean())


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("sigmoid", math.log(2)),
        ("robust", math.log(2)),
        ("hinge", 1.0),
        ("ipo", (1 / (2 * 0.3)) ** 2),
    ],
)
def test_the_first_loss_is_that_of_no_difference(loss_type, expected):
    """Dropout in the network notwithstanding."""
    model = DPO(network(dropout=0.5), beta=0.3, loss_type=loss_type, seed=0)
    model.compile("sgd")
    logs = logs_of(model, pairs(6))
    assert logs["loss"] == pytest.approx(expected, rel=1e-6)
    assert logs["reward_margin"] == pytest.approx(0, abs=1e-6)


def test_sample_weights_weigh_pairs():
    model = dpo()
    weight = np.array([2.0, 0.0, 1.0], "float32")
    logs = logs_of(model, sample_weight=weight)
    loss = loss_of(TABLE, "sigmoid")
    close(logs["loss"], (2 * loss[0] + loss[2]) / 3)
    history = dpo().fit(PAIRS, sample_weight=weight, batch_size=3, verbose=0).history
    close(history["loss"][0], logs["loss"])


def test_padding_does_not_matter():
    tables = []
    for fill in (0, 4):
        x = dict(PAIRS)
        for side in ("chosen", "rejected"):
            behind = np.cumsum(x[f"{side}_mask"][:, ::-1], axis=1)[:, ::-1] == 0
            x[side] = np.where(behind, fill, x[side])
        model = dpo()
        logs_of(model, x)
        tables.append(table_of(model.policy))
    close(*tables, rtol=1e-6)


# Where it settles: one pair of answers, preferred 80 to 20


def settled(steps=150, **options):
    """`(βh, loss)` after training on five pairs, of which one is the wrong way round."""
    chosen, rejected = np.array([[2, 3]] * 4 + [[2, 4]]), np.array([[2, 4]] * 4 + [[2, 3]])
    mask = np.array([[0.0, 1.0]] * 5, "float32")
    x = {"chosen": chosen, "chosen_mask": mask, "rejected": rejected, "rejected_mask": mask}
    x = {name: np.tile(column.astype(mask.dtype if "mask" in name else "int32"), (steps, 1))
         for name, column in x.items()}  # fmt: skip
    zeros = np.zeros((SIZE, SIZE))
    model = DPO(policy(zeros), policy(zeros, "reference"), seed=0, **options)
    model.compile(keras.optimizers.Adam(0.05))
    model.fit(x, batch_size=5, shuffle=False, verbose=0)
    first = {name: column[:5] for name, column in x.items()}
    logs = model.evaluate(first, batch_size=5, verbose=0, return_dict=True)
    h = log_probs(table_of(model.policy), np.array([2, 2]), np.array([3, 4]))
    return options["beta"] * (h[0] - h[1]), logs["loss"]


def test_dpo_settles_at_the_log_odds_of_the_preference():
    margin, loss = settled(beta=0.5)
    assert margin == pytest.approx(math.log(4), abs=5e-3)
    assert loss == pytest.approx(0.5004, abs=1e-4)


def test_ipo_settles_at_a_margin_of_its_own():
    margin, _ = settled(beta=0.5, loss_type="ipo")
    assert margin / 0.5 == pytest.approx((2 * 0.8 - 1) / (2 * 0.5), abs=5e-3)


# References


def test_without_a_reference_none_is_kept():
    plain = len(policy().variables)
    own = len([v for v in dpo("simpo").variables if "policy_table" in v.path])
    assert own == plain
    assert dpo("simpo").reference is None and dpo(reference_free=True).reference is None
    copied = DPO(policy())
    assert len(copied.variables) == len(dpo("simpo").variables) + plain


def test_the_copy_shares_no_buffer():
    model = DPO(network(), beta=0.3, seed=0)
    model.compile(keras.optimizers.SGD(0.5))
    held = [np.array(w) for w in model.reference.get_weights()]
    before = model.reference.get_weights()
    logs_of(model, pairs(6))
    for old, now, new in zip(held, before, model.policy.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
        assert np.any(new != old)
    assert not model.reference.trainable_variables


def test_references_computed_beforehand_give_the_same_run(tmp_path):
    x = pairs(6)
    asked, told = DPO(network(), seed=0), DPO(network(), reference="precomputed", seed=0)
    known = asked.precompute_reference(x, batch_size=4)
    assert set(known) == set(x) | {"reference_chosen", "reference_rejected"}
    assert told.reference == "precomputed"
    assert len(told.variables) < len(asked.variables)
    histories = []
    for model, data in ((asked, x), (told, known)):
        model.compile(keras.optimizers.SGD(0.1))
        histories.append(model.fit(data, batch_size=3, shuffle=False, verbose=0).history)
    assert histories[0]["loss"] == pytest.approx(histories[1]["loss"], rel=1e-5)
    for a, b in zip(asked.policy.get_weights(), told.policy.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(ValueError, match="needs the columns 'reference_chosen'"):
        told.fit(x, verbose=0)
    told.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.reference == "precomputed"
    loaded.fit(known, batch_size=3, verbose=0)


# Data


def test_texts_become_rows_with_an_end():
    tokenizer = CharacterTokenizer("-abc")
    model = DPO(network(), tokenizer=tokenizer, end_token_id=12, seed=0)
    model.compile("sgd")
    rows = [
        {"prompt": "a", "chosen": "bc", "rejected": "c"},
        {"prompt": "ab", "chosen": "c", "rejected": "aa"},
    ]
    x = model.prepared_data(rows)
    first = x["chosen"][0][x["chosen_mask"][0] > 0]
    assert first.tolist() == [*tokenizer.encode("bc"), 12]
    history = model.fit(rows, batch_size=2, verbose=0, validation_data=rows).history
    assert history["loss"] == [pytest.approx(math.log(2), rel=1e-6)]
    assert history["val_loss"][0] < math.log(2)
    assert model.evaluate(rows, verbose=0, return_dict=True)["loss"] == history["val_loss"][0]


def test_with_a_start_token_a_completion_may_come_first():
    model = DPO(Autoregressive(network(), start_token_id=0), seed=0)
    model.compile("sgd")
    mask = np.array([[1.0, 1.0]])
    x = {"chosen": np.array([[3, 4]]), "chosen_mask": mask}
    x |= {"rejected": np.array([[5, 4]]), "rejected_mask": mask}
    tokens = ops.convert_to_tensor(np.array([[0, 3, 4]], "int32"))
    log_p = ops.log_softmax(model.policy.network(tokens))
    scores = model.precompute_reference(x)
    expected = float(log_p[0, 0, 3] + log_p[0, 1, 4])
    assert scores["reference_chosen"][0] == pytest.approx(expected, rel=1e-5)
    assert logs_of(model, x)["loss"] == pytest.approx(math.log(2), rel=1e-6)


def changed(**columns):
    x = {**PAIRS, **columns}
    return {name: column for name, column in x.items() if column is not None}


@pytest.mark.parametrize(
    ("message", "x", "options"),
    [
        (r"no use for `y`", PAIRS, {"y": np.ones(3)}),
        (r"'rejected'", changed(rejected=None), {}),
        (r"'chosen_mask'", changed(chosen_mask=None), {}),
        (r"none in row 1 of `chosen_mask`", changed(chosen_mask=CHOSEN_MASK * [[1], [0], [1]]), {}),
        (r"`chosen_mask` must be \(B, T\) and agree", changed(chosen_mask=CHOSEN_MASK[:, 1:]), {}),
        (r"in \[0, 5\), the policy's vocabulary", changed(chosen=CHOSEN + 1), {}),
        (
            r"must have the same shape.*\(3, 4\) and \(3, 5\)",
            changed(rejected=REJECTED[:, :4], rejected_mask=REJECTED_MASK[:, :4]),
            {},
        ),
        (r"counts the first id of row 0", changed(chosen_mask=np.ones_like(CHOSEN)), {}),
        (r"tokenizer", [{"prompt": "a", "chosen": "b", "rejected": "c"}], {}),
        (r"must not be empty", [{"prompt": [2], "chosen": [], "rejected": [3]}], {}),
        (r"takes dicts of", CHOSEN, {}),
    ],
)
def test_bad_data_is_refused(message, x, options):
    with pytest.raises(ValueError, match=message):
        dpo().fit(x, batch_size=1, verbose=0, **options)


def test_rows_longer_than_the_context_are_refused():
    ids, mask = np.full((2, 26), 3, "int32"), np.zeros((2, 26))
    mask[:, 5] = 1
    x = {"chosen": ids, "chosen_mask": mask, "rejected": ids, "rejected_mask": mask}
    model = DPO(network())
    model.compile("sgd")
    with pytest.raises(ValueError, match="context of 24 tokens"):
        model.fit(x, verbose=0)
    # The last id is not looked at.
    model.fit({name: column[:, :25] for name, column in x.items()}, verbose=0)
    rows = [{"prompt": [3] * 40, "chosen": [4, 5], "rejected": [5]}] * 2
    assert model.prepared_data(rows)["chosen"].shape == (2, 25)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (r"preference loss", {"loss_type": "sigmod"}),
        (r"`beta` must be greater than 0", {"beta": 0}),
        (r"has no `label_smoothing`", {"loss_type": "ipo", "label_smoothing": 0.1}),
        (r"`label_smoothing` must not be negative and must be at most", {"label_smoothing": 0.7}),
        (r"`reference` would not be looked at", {"loss_type": "orpo", "reference": policy()}),
        (
            r"has no reference: leave `reference_free` out",
            {"loss_type": "orpo", "reference_free": True},
        ),
        (r"`reference` would not be", {"reference_free": True, "reference": "precomputed"}),
    ],
)
def test_bad_options_are_refused(message, options):
    with pytest.raises(ValueError, match=message):
        DPO(policy(), **options)


def test_nothing_to_compute_beforehand_is_told():
    for model in (dpo("simpo"), dpo(reference="precomputed")):
        with pytest.raises(ValueError, match="nothing to compute beforehand"):
            model.precompute_reference(PAIRS)
