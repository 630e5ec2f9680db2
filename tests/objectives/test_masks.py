"""Reductions: the values, and what drops out."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.objectives import masks

X = np.arange(24, dtype="float32").reshape(2, 3, 4)


def numpy(x):
    return ops.convert_to_numpy(x)


def test_event_axes_are_all_but_the_first():
    np.testing.assert_allclose(numpy(masks.sum_event(X)), [66, 210])
    np.testing.assert_allclose(numpy(masks.mean_event(X)), [5.5, 17.5])
    np.testing.assert_allclose(numpy(masks.sum_event(X[0, 0])), [0, 1, 2, 3])
    np.testing.assert_allclose(numpy(masks.mean_event(X[0, 0])), [0, 1, 2, 3])


def test_weighted_mean_is_the_mean_of_the_repeated_rows():
    weights = np.array([1, 3], "float32")
    expected = np.concatenate([X[:1], X[1:], X[1:], X[1:]]).mean()
    np.testing.assert_allclose(numpy(masks.weighted_mean(X, weights)), expected, rtol=1e-6)
    np.testing.assert_allclose(numpy(masks.weighted_mean(X)), X.mean(), rtol=1e-6)


def test_a_value_of_weight_zero_drops_out_even_as_nan():
    values = np.array([1.0, np.nan, 5.0], "float32")
    assert float(masks.weighted_mean(values, [1, 0, 1])) == 3
    assert float(masks.weighted_mean(values, [0, 0, 0])) == 0


def test_weights_with_too_many_axes_are_refused():
    with pytest.raises(ValueError, match="more axes"):
        masks.weighted_mean([1.0, 2.0], [[1.0], [1.0]])


def test_precision_is_float32_unless_an_argument_is_float64(backend):
    half = ops.cast([1.0, 2.0], "bfloat16")
    assert dtype(masks.as_floats(half)) == dtype(masks.as_floats(np.array([1, 2]))) == "float32"
    widest = "float32" if backend == "jax" else "float64"  # JAX has no float64 by default
    assert [dtype(x) for x in masks.as_floats(np.ones(2), half)] == [widest, widest]


def dtype(x):
    return keras.backend.standardize_dtype(x.dtype)
