"""Log-probabilities and masks of tokens against loops in float64."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import input_gradient
from artifex_keras.objectives import tokens as t

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 3, 5)) * 3
TOKENS = np.array([[0, 4, 2], [1, 1, 3]])


def numpy(x):
    return ops.convert_to_numpy(x)


def probabilities(logits, temperature=1.0):
    p = np.exp(np.float64(logits) / temperature)
    return p / p.sum(-1, keepdims=True)


# Log-probabilities


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2])
def test_log_probs_are_of_the_tempered_softmax(temperature):
    p = probabilities(LOGITS, temperature)
    expected = [[math.log(p[b, s, TOKENS[b, s]]) for s in range(3)] for b in range(2)]
    scores = t.token_log_probs(LOGITS, TOKENS, temperature)
    np.testing.assert_allclose(numpy(scores), expected, rtol=1e-5)
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"


def test_half_precision_is_left_before_the_sum():
    logits = ops.cast(np.tile(np.linspace(0, 8, 1000), (1, 1, 1)), "bfloat16")
    p = probabilities(numpy(ops.cast(logits, "float32")))
    score = t.token_log_probs(logits, [[999]])
    np.testing.assert_allclose(numpy(score), [[math.log(p[0, 0, 999])]], rtol=1e-6)
    np.testing.assert_allclose(numpy(t.entropy(logits)), -(p * np.log(p)).sum(-1), rtol=1e-5)


def test_a_large_common_offset_costs_no_digits():
    near = t.token_log_probs(LOGITS, TOKENS)
    for moved, digits in ((LOGITS + 1e4, 2e-3), (LOGITS - 512, 1e-4)):
        np.testing.assert_allclose(numpy(t.token_log_probs(moved, TOKENS)), near, atol=digits)
        np.testing.assert_allclose(numpy(t.entropy(moved)), numpy(t.entropy(LOGITS)), atol=digits)


def test_forbidden_tokens_have_no_probability_and_no_gradient():
    logits = np.float32([[[1.0, -np.inf, 0.0]]])
    p = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(numpy(t.token_log_probs(logits, [[0]])), [[math.log(p)]], rtol=1e-6)
    assert numpy(t.token_log_probs(logits, [[1]]))[0, 0] == -np.inf
    h = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    np.testing.assert_allclose(numpy(t.entropy(logits)), [[h]], rtol=1e-6)
    slope = numpy(input_gradient(lambda z: t.token_log_probs(z, [[0]]), logits))
    np.testing.assert_allclose(slope, [[[1 - p, 0, p - 1]]], atol=1e-6)
    slope = numpy(input_gradient(t.entropy, logits))
    expected = [-p * (math.log(p) + h), 0, -(1 - p) * (math.log(1 - p) + h)]
    np.testing.assert_allclose(slope, [[expected]], atol=1e-6)


def test_the_gradient_is_one_hot_minus_the_probabilities():
    slope = numpy(input_gradient(lambda z: t.token_log_probs(z, TOKENS, 2.0), np.float32(LOGITS)))
    expected = (np.eye(5)[TOKENS] - probabilities(LOGITS, 2.0)) / 2
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_an_id_outside_the_vocabulary_is_nan_and_masks_away():
    ids = np.array([[-100, 4, 5], [1, -1, 3]])
    mask = np.array([[0, 1, 0], [1, 0, 1]])
    scores = numpy(t.token_log_probs(LOGITS, ids))
    np.testing.assert_array_equal(np.isnan(scores), mask == 0)
    right = np.where(mask, numpy(t.token_log_probs(LOGITS, TOKENS)), 0)
    total = numpy(t.masked_sum(scores, mask))
    np.testing.assert_allclose(total, right.sum(1), rtol=1e-6)
    slope = input_gradient(
        lambda z: t.masked_sum(t.token_log_probs(z, ids), mask), np.float32(LOGITS)
    )
    expected = (np.eye(5)[TOKENS] - probabilities(LOGITS)) * mask[..., None]
    np.testing.assert_allclose(numpy(slope), expected, atol=1e-6)


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="shape of `logits`"):
        t.token_log_probs(LOGITS, TOKENS[:, :2])
    with pytest.raises(ValueError, match="shape of `logits`"):
        t.token_log_probs(LOGITS, TOKENS[..., None])
    for function in (t.entropy, lambda z, temperature: t.token_log_probs(z, TOKENS, temperature)):
        with pytest.raises(ValueError, match="temperature"):
            function(LOGITS, temperature=0)


def test_entropy_is_that_of_the_tempered_distribution():
    for temperature in (1.0, 0.5):
        p = probabilities(LOGITS, temperature)
        expected = -(p * np.log(p)).sum(-1)
        np.testing.assert_allclose(numpy(t.entropy(LOGITS, temperature)), expected, rtol=1e-5)
    np.testing.assert_allclose(numpy(t.entropy(np.zeros((1, 1, 7)))), [[math.log(7)]], rtol=1e-6)
    certain = [[[0.0, 1e4, -1e4]]]
    assert numpy(t.entropy(certain))[0, 0] == 0


# Masks

E, F, P = 2, 7, 0  # two end tokens and a pad
ROWS = np.array(
    [
        [5, 6, E, 9, E, 1],  # junk after the end
        [5, 6, 5, 6, 5, 6],  # no end
        [F, 5, E, 5, 5, 5],  # ends at once, with the other end token
        [5, E, E, E, E, E],  # the pad is the end token
        [5, P, 5, P, E, P],  # the pad's id inside
    ]
)


def test_a_row_counts_up_to_and_including_its_first_end_token():
    expected = [[1, 1, 1, 0, 0, 0], [1] * 6, [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1] * 5 + [0]]
    np.testing.assert_array_equal(numpy(t.end_mask(ROWS, [E, F])), expected)
    expected[2] = [1, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(numpy(t.end_mask(ROWS, E)), expected)
    np.testing.assert_array_equal(numpy(t.end_mask(ROWS, None)), np.ones((5, 6)))
    np.testing.assert_array_equal(numpy(t.ended(ROWS, E)), [1, 0, 1, 1, 1])
    np.testing.assert_array_equal(numpy(t.ended(ROWS, (9, 1))), [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(numpy(t.ended(ROWS, None)), np.zeros(5))


@pytest.mark.parametrize("dtype", ["bool", "int32", "float32"])
def test_what_is_not_real_neither_counts_nor_ends(dtype):
    # A prompt of two tokens with an end token inside; the last position is padding.
    tokens = [[E, 5, 6, E, 5, 5], [5, E, 6, 6, 6, E]]
    real = np.array([[0, 0, 1, 1, 1, 0]] * 2).astype(dtype)
    expected = [[0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0]]
    np.testing.assert_array_equal(numpy(t.end_mask(tokens, E, real)), expected)
    np.testing.assert_array_equal(numpy(t.ended(tokens, E, real)), [1, 0])


def test_sums_and_means_of_rows_drop_what_does_not_count():
    x = [[1.0, 2.0, np.nan], [4.0, np.inf, 6.0], [np.nan, np.nan, -np.inf]]
    mask = [[1, 1, 0], [1, 0, 1], [0, 0, 0]]
    np.testing.assert_allclose(numpy(t.masked_sum(x, mask)), [3, 10, 0])
    np.testing.assert_allclose(numpy(t.row_mean(x, mask)), [1.5, 5, 0])


def test_a_masked_infinity_reaches_no_gradient():
    x, mask = np.float32([[2, 0, 4]]), [[1, 0, 1]]
    slope = input_gradient(lambda x: t.row_mean(-x, mask) / 2 + t.masked_sum(x * x, mask), x)
    np.testing.assert_allclose(numpy(slope), [[3.75, 0, 7.75]])
    infinite = np.float32([[2, np.inf, 4]])
    slope = input_gradient(lambda x: ops.square(t.masked_sum(x, mask)), infinite)
    np.testing.assert_allclose(numpy(slope), [[12, 0, 12]])


def test_shapes_must_agree():
    for mask in (np.ones(3), np.ones((3, 1)), np.ones((2, 3))):
        with pytest.raises(ValueError, match="agree"):
            t.masked_sum(np.ones((3, 3)), mask)
    with pytest.raises(ValueError, match="agree"):
        t.end_mask(ROWS, E, np.ones(6))


@pytest.mark.backends("jax")
def test_a_traced_temperature_and_traced_end_tokens():
    import jax

    def scores(logits, tokens, temperature, end):
        mask = t.end_mask(tokens, end) * t.ended(tokens, end)[:, None]
        return t.masked_sum(t.token_log_probs(logits, tokens, temperature), mask)

    assert jax.eval_shape(scores, LOGITS, TOKENS, 0.7, np.array([2, 3])).shape == (2,)


# Cross-entropy


def test_cross_entropy_with_smoothing_and_z_loss_is_the_formula():
    p = probabilities(LOGITS)
    epsilon, zeta = 0.1, 1e-2
    log_sum = np.log(np.exp(LOGITS).sum(-1))
    expected = [
        [
            -(1 - epsilon) * math.log(p[b, s, TOKENS[b, s]])
            - epsilon * np.log(p[b, s]).mean()
            + zeta * log_sum[b, s] ** 2
            for s in range(3)
        ]
        for b in range(2)
    ]
    loss = t.cross_entropy(LOGITS, TOKENS, label_smoothing=epsilon, z_loss=zeta)
    np.testing.assert_allclose(numpy(loss), expected, rtol=1e-5)


def test_cross_entropy_golden_numbers():
    """Logits ln(8, 4, 2, 2): p = (1/2, 1/4, 1/8, 1/8), their sum is 16."""
    logits = np.log([[[8.0, 4.0, 2.0, 2.0]]])
    ln2 = math.log(2)
    for options, expected in (
        ({}, 2 * ln2),
        ({"label_smoothing": 0.2}, 0.8 * 2 * ln2 + 0.2 * (1 + 2 + 3 + 3) / 4 * ln2),
        ({"z_loss": 1e-4}, 2 * ln2 + 1e-4 * (4 * ln2) ** 2),
    ):
        loss = t.cross_entropy(logits, [[1]], **options)
        assert float(numpy(loss)[0, 0]) == pytest.approx(expected, rel=1e-6)


def test_the_optimum_under_label_smoothing_is_the_smoothed_target():
    epsilon = 0.3
    target = epsilon / 4 + (1 - epsilon) * (np.arange(4) == 2)
    gradient = input_gradient(
        lambda z: t.cross_entropy(z, [[2]], label_smoothing=epsilon),
        np.log(target)[None, None].astype("float32"),
    )
    np.testing.assert_allclose(numpy(gradient), 0.0, atol=1e-6)


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("linear", [1.0, 0.5, 0.0, 0.0]),
        ("exponential", [1.0, math.exp(-0.5), math.exp(-1), math.exp(-1000)]),
        ("inverse_sigmoid", [4 / 5, 4 / (4 + math.exp(0.5)), 4 / (4 + math.e), 0.0]),
    ],
)
def test_the_share_of_true_tokens_falls_as_the_paper_says(schedule, expected):
    shares = [float(t.forcing_probability(step, schedule, 4)) for step in (0, 2, 4, 4000)]
    np.testing.assert_allclose(shares, expected, rtol=1e-6, atol=1e-12)
