"""Spectral normalization: against singular values, and the same function on every backend."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import value_and_grad
from artifex_keras.networks import SpectralNormalization


def numpy(x):
    return ops.convert_to_numpy(x)


def spectral_dense(kernel, bias=0.0, **options):
    """A normalized dense layer that holds `kernel`, built."""
    dense = keras.layers.Dense(kernel.shape[1], **options)
    layer = SpectralNormalization(dense)
    layer.build((None, kernel.shape[0]))
    dense.kernel.assign(kernel)
    dense.bias.assign(bias * np.ones(kernel.shape[1]))
    return layer


def with_singular_values(shape, values):
    """A kernel of `shape` whose flattening to (-1, last axis) has these singular values."""
    rng = np.random.default_rng(0)
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    left = np.linalg.qr(rng.standard_normal((rows, columns)))[0]
    right = np.linalg.qr(rng.standard_normal((columns, columns)))[0]
    return ((left * values) @ right).reshape(shape)


LAYERS = {
    "dense": (keras.layers.Dense, {"units": 24}, (1, 32)),
    "conv": (keras.layers.Conv2D, {"filters": 12, "kernel_size": 3}, (1, 3, 3, 5)),
    "transposed": (keras.layers.Conv2DTranspose, {"filters": 6, "kernel_size": 3}, (1, 3, 3, 5)),
    "embedding": (keras.layers.Embedding, {"input_dim": 10, "output_dim": 7}, (1,)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_fifty_training_calls_bring_the_largest_singular_value_to_one(kind):
    kind, options, shape = LAYERS[kind]
    rng = np.random.default_rng(1)
    inputs = rng.uniform(high=5, size=shape).astype("int32" if shape == (1,) else "float32")
    bare = kind(**options)
    layer = SpectralNormalization(bare)
    layer(inputs)
    values = 3 * 0.9 ** np.arange(layer.kernel.shape[-1])
    layer.kernel.assign(with_singular_values(layer.kernel.shape, values))
    raw = numpy(layer.kernel)
    for _ in range(50):
        layer(inputs, training=True)
    np.testing.assert_array_equal(numpy(layer.kernel), raw)
    # What the layer does is what the bare one does with a kernel of largest singular value 1.
    normalized = numpy(layer(inputs))
    layer.kernel.assign(raw / values[0])
    np.testing.assert_allclose(normalized, numpy(bare(inputs)), rtol=1e-4, atol=1e-6)


def test_the_effective_kernel_has_a_largest_singular_value_of_one():
    kernel = with_singular_values((20, 16), 3 * 0.9 ** np.arange(16))
    layer = spectral_dense(kernel, bias=0.5)
    for _ in range(50):
        layer(np.ones((1, 20)), training=True)
    effective = numpy(layer(np.eye(20))) - 0.5
    assert abs(np.linalg.svd(effective, compute_uv=False)[0] - 1) < 1e-4


@pytest.mark.seam
def test_a_training_call_makes_one_power_iteration_and_evaluation_none():
    kernel = np.random.default_rng(2).standard_normal((6, 4)).astype("float32")
    layer = spectral_dense(kernel)
    u = numpy(layer.vector_u)
    layer(np.ones((1, 6)))
    np.testing.assert_array_equal(numpy(layer.vector_u), u)
    layer(np.ones((1, 6)), training=True)
    v = u @ kernel.T
    v /= np.linalg.norm(v)
    improved = v @ kernel / np.linalg.norm(v @ kernel)
    np.testing.assert_allclose(numpy(layer.vector_u), improved, rtol=1e-5)


def test_training_and_evaluation_are_the_same_function_of_the_same_vector():
    layer = spectral_dense(np.random.default_rng(3).standard_normal((6, 4)))
    x = np.random.default_rng(4).standard_normal((5, 6)).astype("float32")
    np.testing.assert_array_equal(numpy(layer(x, training=True)), numpy(layer(x)))


def test_an_untrained_vector_counts_by_its_direction_alone():
    # All singular values are 4: every direction shows the norm.
    layer = spectral_dense(4 * np.eye(5, 3))
    np.testing.assert_allclose(numpy(layer(np.eye(5))), np.eye(5, 3), atol=1e-6)


def test_bias_and_activation_are_not_divided():
    kernel = 5 * np.eye(3, 2)
    layer = spectral_dense(kernel, bias=-0.25, activation="relu")
    layer.vector_u.assign([[1.0, 0.0]])
    outputs = numpy(layer(np.array([[1.0, 0.5, 7.0], [0.0, 0.1, 7.0]])))
    np.testing.assert_allclose(outputs, [[0.75, 0.25], [0, 0]], atol=1e-6)


@pytest.mark.seam
def test_the_gradient_is_that_of_the_kernel_divided_by_its_norm():
    # d/dW <c, x W/σ> = (x cᵀ - <c, x W/σ> v uᵀ) / σ, 1802.05957 equation 12.
    rng = np.random.default_rng(5)
    kernel, x, c = (
        rng.standard_normal(size).astype("float32") for size in ((5, 3), (1, 5), (1, 3))
    )
    layer = spectral_dense(kernel)
    for _ in range(100):
        layer(x, training=True)
    left, values, right = np.linalg.svd(kernel)
    loss, _, (gradient, *_) = value_and_grad(
        lambda: (ops.sum(ops.multiply(layer(x, training=True), c)), None), [layer.layer.kernel]
    )
    normal = np.outer(left[:, 0], right[0])
    exact = (x.T @ c - (x @ kernel @ c.T / values[0]) * normal) / values[0]
    np.testing.assert_allclose(numpy(gradient), exact, atol=1e-5)
    assert abs(float(numpy(loss)) - float((x @ kernel @ c.T)[0, 0] / values[0])) < 1e-5


def test_a_kernel_of_zeros_stays_finite():
    layer = spectral_dense(np.zeros((4, 3)))
    u = numpy(layer.vector_u)
    np.testing.assert_array_equal(numpy(layer(np.ones((2, 4)), training=True)), 0)
    np.testing.assert_array_equal(numpy(layer.vector_u), u)
    _, _, (gradient,) = value_and_grad(
        lambda: (ops.sum(layer(np.ones((2, 4)), training=True)), None), [layer.layer.kernel]
    )
    np.testing.assert_array_equal(numpy(gradient), 2 * np.ones((4, 3)))


@pytest.mark.seam
def test_it_is_saved_with_its_vector(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, SpectralNormalization(keras.layers.Dense(3))(inputs))
    x = np.random.default_rng(6).standard_normal((2, 4)).astype("float32")
    for _ in range(3):
        model(x, training=True)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(model(x)), numpy(again(x)))
