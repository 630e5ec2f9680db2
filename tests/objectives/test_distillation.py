"""The divergence of distillation: golden numbers, its direction, tokens that are ruled out."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import value_and_grad
from artifex_keras.objectives.distillation import generalized_jsd

pytestmark = pytest.mark.seam
P, Q = np.log([0.9, 0.1]).astype("float32"), np.log([0.5, 0.5]).astype("float32")
GOLDEN = {0.0: 0.368064, 0.1: 0.033603, 0.5: 0.101749, 1.0: 0.510826}
BETAS = pytest.mark.parametrize("beta", GOLDEN)
NEVER = -np.inf


def numpy(x):
    return ops.convert_to_numpy(x)


def value_and_slopes(teacher, logits, beta):
    """The divergence and its gradient in the student's logits."""
    variable = keras.Variable(np.float32(logits))

    def loss():
        q = ops.log_softmax(ops.convert_to_tensor(variable), axis=-1)
        return ops.sum(generalized_jsd(np.float32(teacher), q, beta)), None

    value, _, (slopes,) = value_and_grad(loss, [variable])
    return float(value), numpy(slopes)


@pytest.mark.parametrize("beta, expected", GOLDEN.items())
def test_values_and_direction(beta, expected):
    """The teacher comes first: 0 is KL(P‖Q), 1 is KL(Q‖P)."""
    np.testing.assert_allclose(numpy(generalized_jsd(P, Q, beta)), expected, atol=1e-6)
    rows = numpy(generalized_jsd(np.stack([[P, Q]]), np.stack([[Q, Q]]), beta))
    np.testing.assert_allclose(rows, [[expected, 0]], atol=1e-6)


@BETAS
def test_it_is_the_formula_in_float64_with_its_gradient(beta):
    random = np.random.default_rng(0)
    teacher, logits = random.normal(size=(2, 3, 7))
    teacher -= np.log(np.exp(teacher).sum(-1, keepdims=True))

    def formula(logits):
        p, q = np.exp(teacher), np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        m = beta * p + (1 - beta) * q
        if beta == 0:
            return np.sum(p * np.log(p / q))
        if beta == 1:
            return np.sum(q * np.log(q / p))
        return np.sum(beta * p * np.log(p / m) + (1 - beta) * q * np.log(q / m))

    value, slopes = value_and_slopes(teacher, logits, beta)
    np.testing.assert_allclose(value, formula(logits), rtol=1e-5)
    steps = np.eye(21).reshape(21, 3, 7) * 1e-5
    expected = [(formula(logits + step) - formula(logits - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(slopes.ravel(), expected, atol=2e-6)


def test_near_an_end_it_falls_to_zero_as_the_end_times_beta():
    near = [float(generalized_jsd(P, Q, beta)) / 0.001 for beta in (0.001, 0.999)]
    np.testing.assert_allclose(near, [0.368064, 0.510826], rtol=3e-3)


@BETAS
def test_tokens_that_both_rule_out_add_nothing(beta):
    teacher = np.append(P, [NEVER, NEVER])
    value, slopes = value_and_slopes(teacher, [0.0, 0.0, NEVER, NEVER], beta)
    np.testing.assert_allclose(value, GOLDEN[beta], atol=1e-6)
    _, without = value_and_slopes(P, [0.0, 0.0], beta)
    np.testing.assert_allclose(slopes, [*without, 0, 0], atol=1e-6)


def test_tokens_that_one_rules_out():
    """Disjoint distributions are the entropy of (β, 1-β) apart, and infinitely at the ends."""
    p, q = np.float32([0, NEVER]), np.float32([NEVER, 0])
    for beta in (0.1, 0.5):
        entropy = -beta * np.log(beta) - (1 - beta) * np.log(1 - beta)
        np.testing.assert_allclose(float(generalized_jsd(p, q, beta)), entropy, rtol=1e-6)
    assert float(generalized_jsd(p, q, 0)) == float(generalized_jsd(p, q, 1)) == np.inf
    # Forward, a token that the teacher alone rules out is no matter; reverse, one that the student
    # rules out.
    half = np.log(np.float32([0.5, 0.5]))
    np.testing.assert_allclose(float(generalized_jsd(p, half, 0)), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(float(generalized_jsd(half, p, 1)), np.log(2), rtol=1e-6)
    assert float(generalized_jsd(p, half, 1)) == float(generalized_jsd(half, p, 0)) == np.inf


@BETAS
@pytest.mark.parametrize("teacher", [[0, NEVER, NEVER], [NEVER, 0, NEVER]])
def test_no_gradient_is_nan(teacher, beta):
    _, slopes = value_and_slopes(teacher, [1.0, 0.0, NEVER], beta)
    assert np.all(np.isfinite(slopes))
    _, slopes = value_and_slopes(teacher, [1.0, NEVER, 0.0], beta)
    assert np.all(np.isfinite(slopes))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened(dtype):
    p, q = ops.cast(P, dtype), ops.cast(Q, dtype)
    value = generalized_jsd(p, q, 0.5)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    wide = generalized_jsd(ops.cast(p, "float32"), ops.cast(q, "float32"), 0.5)
    np.testing.assert_array_equal(numpy(value), numpy(wide))


def test_misuse():
    with pytest.raises(ValueError, match="one vocabulary. Received: shapes"):
        generalized_jsd(P, np.append(Q, NEVER), 0.5)
    with pytest.raises(ValueError, match="`beta` must be"):
        generalized_jsd(P, Q, 1.5)
