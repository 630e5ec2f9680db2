"""Which weights decay, and an average that outlives a second fit."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.optimizers import OPTIMIZERS, create_optimizer, is_decayed

x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
y = np.random.default_rng(1).normal(size=(16, 3)).astype("float32")


def parameters():
    """A weight, and others of its rank that aren't weights."""
    return [
        keras.Variable(np.full((2, 3), 0.7), dtype="float32", name=name)
        for name in ("kernel", "bias", "gamma", "alpha", "relative_bias")
    ]


def lost(optimizer, variables=None):
    """What one update without a gradient takes off each variable, relative to its values."""
    variables = variables or parameters()
    optimizer.apply([ops.zeros((2, 3))] * len(variables), variables)
    return {v.name: 1 - ops.convert_to_numpy(v) / 0.7 for v in variables}


def test_what_is_decayed():
    """Biases and scales of ranks 1 to 3 stand beside kernels of ranks 2 and 3."""
    inputs = keras.Input((6, 4))
    hidden = keras.layers.MultiHeadAttention(2, 5, name="attention")(inputs, inputs)
    hidden = keras.layers.LayerNormalization(axis=[1, 2], name="norm")(hidden)
    hidden = keras.layers.PReLU(name="prelu")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(hidden))
    assert {v.path for v in model.trainable_variables if is_decayed(v)} == {
        "attention/query/kernel",
        "attention/key/kernel",
        "attention/value/kernel",
        "attention/attention_output/kernel",
        "dense/kernel",
    }
    embedding = keras.layers.Embedding(5, 2)
    embedding.build()
    assert is_decayed(embedding.embeddings)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_decay_is_decoupled_and_masked(name):
    """With no gradient a weight loses learning_rate · weight_decay of itself, and others nothing;
    with Lamb, whose only direction the decay then is, learning_rate of itself."""
    shares = lost(create_optimizer(name, 0.1, weight_decay=0.3))
    expected = 0.1 if name == "lamb" else 0.03
    np.testing.assert_allclose(shares.pop("kernel"), expected, rtol=1e-5)
    for other, share in shares.items():
        np.testing.assert_allclose(share, 0, atol=2e-7, err_msg=other)


def test_the_mask_outlives_saving_and_keras_exclusions_hold():
    optimizer = create_optimizer("adamw", 0.1, weight_decay=0.3)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    loaded.exclude_from_weight_decay(var_names=["nothing like it"])
    shares = lost(loaded)
    assert np.all(shares["bias"] == 0)
    np.testing.assert_allclose(shares["kernel"], 0.03, rtol=1e-5)

    variables = parameters()
    excluding = create_optimizer("adamw", 0.1, weight_decay=0.3)
    excluding.exclude_from_weight_decay(var_list=variables[:1])
    assert np.all(lost(excluding, variables)["kernel"] == 0)


def test_only_vectors_and_a_decay():
    v = keras.Variable(np.ones(3), name="bias")
    create_optimizer("adamw", 0.1, weight_decay=0.3).apply([ops.zeros(3)], [v])
    assert ops.convert_to_numpy(v).tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"schedule_free_adamw"}))
def test_fit_twice_with_an_average(name):
    """Keras alone crashes here on JAX: weight and average are one buffer after the first fit."""
    built = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    optimizer = create_optimizer(name, 1e-2, ema_decay=0.9)
    built.compile(optimizer, "mse")
    for _ in range(2):
        built.fit(x, y, batch_size=8, verbose=0)
    averages = [ops.convert_to_numpy(a) for a in optimizer._model_variables_moving_average]
    for average, value in zip(averages, built.get_weights(), strict=True):
        np.testing.assert_array_equal(average, value)
    built.fit(x, y, batch_size=8, verbose=0)
    for average, value in zip(averages, built.get_weights(), strict=True):
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
