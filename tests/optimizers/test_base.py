"""Which weights decay, and an average that outlives a second fit."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.optimizers import OPTIMIZERS, create_optimizer, is_decayed

x = np.random.default_rng(0).normal(size=(16, 6, 4)).astype("float32")
y = np.random.default_rng(1).normal(size=(16, 6, 3)).astype("float32")


def model():
    """Biases and scales of ranks 1 to 3 beside kernels of ranks 2 and 3."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 4))
    hidden = keras.layers.MultiHeadAttention(2, 5, name="attention")(inputs, inputs)
    hidden = keras.layers.LayerNormalization(axis=[1, 2], name="norm")(hidden)
    hidden = keras.layers.PReLU(name="prelu")(hidden)
    outputs = keras.layers.Dense(3, name="dense")(hidden)
    return keras.Model(inputs, outputs)


def weights(model):
    return {v.path: ops.convert_to_numpy(v) for v in model.trainable_variables}


def test_what_is_decayed():
    decayed = {v.path for v in model().trainable_variables if is_decayed(v)}
    assert decayed == {
        "attention/query/kernel",
        "attention/key/kernel",
        "attention/value/kernel",
        "attention/attention_output/kernel",
        "dense/kernel",
    }
    embedding = keras.layers.Embedding(5, 2)
    embedding.build()
    assert is_decayed(embedding.embeddings)


def decayed_by_training(optimizer, built):
    """What one update adds to plain training without decay, relative to the weights."""
    before = weights(built)
    zeros = [ops.zeros(v.shape) for v in built.trainable_variables]
    optimizer.apply(zeros, built.trainable_variables)
    return {path: (value - before[path]) / np.where(before[path] == 0, 1, before[path])
            for path, value in weights(built).items()}


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"lamb"}))
def test_the_decay_is_decoupled_and_masked(name):
    """With no gradient a weight loses learning_rate · weight_decay of itself, and others nothing.

    (Lamb scales the decay, its only direction then, to the length of the weights.)"""
    built = model()
    for v in built.trainable_variables:
        v.assign(ops.ones(v.shape) * 0.7)
    lost = decayed_by_training(create_optimizer(name, 0.1, weight_decay=0.3), built)
    for v in built.trainable_variables:
        expected = -0.03 if is_decayed(v) else 0.0
        np.testing.assert_allclose(lost[v.path], expected, atol=2e-6, err_msg=v.path)


def test_lamb_leaves_biases_alone():
    lost = decayed_by_training(create_optimizer("lamb", 0.1, weight_decay=0.3), model())
    assert np.all(lost["dense/bias"] == 0)
    assert np.all(lost["norm/gamma"] == 0)
    np.testing.assert_allclose(lost["dense/kernel"], -0.1, rtol=1e-5)


def test_the_mask_outlives_saving_and_keras_exclusions_hold():
    optimizer = create_optimizer("adamw", 0.1, weight_decay=0.3)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    loaded.exclude_from_weight_decay(var_names=["nothing like it"])
    lost = decayed_by_training(loaded, model())
    assert np.all(lost["attention/query/bias"] == 0)
    np.testing.assert_allclose(lost["dense/kernel"], -0.03, atol=1e-6)

    excluding = create_optimizer("adamw", 0.1, weight_decay=0.3)
    built = model()
    excluding.exclude_from_weight_decay(var_list=[built.get_layer("dense").kernel])
    lost = decayed_by_training(excluding, built)
    assert np.all(lost["dense/kernel"] == 0)
    np.testing.assert_allclose(lost["attention/query/kernel"], -0.03, atol=1e-6)


def test_only_vectors_and_a_decay():
    v = keras.Variable(np.ones(3), name="bias")
    create_optimizer("adamw", 0.1, weight_decay=0.3).apply([ops.zeros(3)], [v])
    assert ops.convert_to_numpy(v).tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"schedule_free_adamw"}))
def test_fit_twice_with_an_average(name):
    """Keras alone crashes here on JAX: weight and average are one buffer after the first fit."""
    built = model()
    optimizer = create_optimizer(name, 1e-3, ema_decay=0.9)
    built.compile(optimizer, "mse")
    for _ in range(2):
        built.fit(x, y, batch_size=8, verbose=0)
    averages = [ops.convert_to_numpy(a) for a in optimizer._model_variables_moving_average]
    for average, value in zip(averages, weights(built).values(), strict=True):
        np.testing.assert_array_equal(average, value)
    built.fit(x, y, batch_size=8, verbose=0)
    for average, value in zip(averages, weights(built).values(), strict=True):
        assert np.abs(average - value).max() > 0  # the copies were not the weights


def test_the_average_by_hand():
    """a ← d·a + (1 - d)·w from the first updated weight on; the weight itself trains on."""
    w = keras.Variable(np.float32(1.0), name="w")
    optimizer = create_optimizer("sgd", 0.1, ema_decay=0.8)
    for _ in range(3):
        optimizer.apply([ops.ones(())], [w])
    average = 0.9
    for value in (0.8, 0.7):
        average = 0.8 * average + 0.2 * value
    kept = optimizer._model_variables_moving_average[0]
    np.testing.assert_allclose(ops.convert_to_numpy(kept), average, rtol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(w), 0.7, rtol=1e-6)
    optimizer.finalize_variable_values([w])
    np.testing.assert_allclose(ops.convert_to_numpy(w), average, rtol=1e-6)
