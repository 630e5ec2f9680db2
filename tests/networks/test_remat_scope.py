"""Layers made in a `keras.RematScope`: equal numbers in our step, the same noise, less memory."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops
from temporaries import temporaries

from artifex_keras import models, networks
from artifex_keras.backend import input_gradient, recomputed, value_and_grad
from artifex_keras.backend.remat_scope import follow_remat_scopes

ROWS = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
SCOPES = {
    None: contextlib.nullcontext,
    "full": keras.RematScope,
    "one": lambda: keras.RematScope("list_of_layers", layer_names=["dropped"]),
}


def vae(scope):
    keras.utils.set_random_seed(0)
    with SCOPES[scope]():
        inside = [
            layers.Dense(8, activation="gelu"),
            layers.Dropout(0.3, name="dropped"),
            layers.BatchNormalization(),
        ]
        encoder = keras.Sequential([keras.Input((4,)), *inside, layers.Dense(4)])
    decoder = keras.Sequential([keras.Input((2,)), layers.Dense(4)])
    return models.VAE(encoder, decoder, seed=1)


def trained(scope):
    """Losses of two epochs, and all that they leave."""
    model = vae(scope)
    model.compile(keras.optimizers.SGD(0.01))
    losses = model.fit(ROWS, epochs=2, batch_size=16, shuffle=False, verbose=0).history["loss"]
    state = [v for v in model.encoder.variables if v.path.count("seed") == 0]
    return losses, [ops.convert_to_numpy(v) for v in state]


@pytest.mark.seam
def test_the_numbers_are_those_without():
    """Dropout and statistics of BatchNorm included, which Keras's own way can't do in a step."""
    losses, weights = trained(None)
    for scope in ("full", "one"):
        again, others = trained(scope)
        np.testing.assert_allclose(again, losses, rtol=1e-6)
        for a, b in zip(weights, others, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.backends("tensorflow")
@pytest.mark.seam
def test_a_step_reads_each_weight_once():
    """A second read could come after the update: TensorFlow's optimizer of graphs loses the edge
    of control between them."""
    import tensorflow as tf

    model = vae("full")
    model.compile(keras.optimizers.SGD(0.01))
    model.fit(ROWS[:16], verbose=0)
    step = tf.function(lambda x: model.train_step((x,))).get_concrete_function(tf.constant(ROWS))
    names = {
        inside.name: variable.path
        for outside, inside in step.graph.captures
        for variable in model.trainable_variables
        if variable.value.handle is outside
    }
    operations = step.graph.get_operations()
    reads = [op.inputs[0].name for op in operations if op.type == "ReadVariableOp"]
    assert len(names) == len(model.trainable_variables)
    assert {path: reads.count(name) for name, path in names.items()} == dict.fromkeys(
        names.values(), 1
    )


@pytest.mark.seam
def test_gradients_of_gradients_pass():
    """As of a penalty on the gradient: d/dw of the sum of (d/dx of sum(tanh(wx)))**2."""
    layer = layers.Dense(3, use_bias=False, activation="tanh")
    x = ops.convert_to_tensor(ROWS[:5])
    layer(x)

    def penalty(call):
        def loss():
            return ops.sum(ops.square(input_gradient(lambda x: ops.sum(call(x)), x))), None

        return ops.convert_to_numpy(value_and_grad(loss, layer.trainable_variables)[2][0])

    plain = penalty(layer)
    assert np.abs(plain).min() > 1e-4
    np.testing.assert_allclose(
        penalty(lambda x: recomputed(layer, x)), plain, rtol=1e-4, atol=1e-6
    )


@pytest.mark.seam
def test_masks_whole_numbers_and_several_results_pass():
    """`recomputed` of ids (2, 3) and a mask through an embedding: rows that repeat add up."""
    table = layers.Embedding(4, 2)
    ids = ops.convert_to_tensor(np.int32([[0, 1, 1], [3, 3, 3]]))
    mask = ops.convert_to_tensor(np.array([[True, True, False], [True, False, True]]))
    table(ids)

    def masked(ids, mask):
        return {"values": table(ids) * ops.cast(mask, "float32")[..., None], "ids": ids + 1}

    def loss():
        found = recomputed(masked, ids, mask)
        return ops.sum(found["values"]), found["ids"]

    _, shifted, (gradient,) = value_and_grad(loss, table.trainable_variables)
    np.testing.assert_array_equal(ops.convert_to_numpy(shifted), ops.convert_to_numpy(ids) + 1)
    expected = [[1, 1], [1, 1], [0, 0], [2, 2]]
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), expected)


def wide(scope):
    """Four blocks, each of which makes eight times what goes in."""
    keras.utils.set_random_seed(0)
    inputs = h = keras.Input((32,))
    with SCOPES[scope]():
        for _ in range(4):
            h = keras.Sequential([layers.Dense(256, activation="gelu"), layers.Dense(32)])(h)
    network = keras.Model(inputs, h)
    follow_remat_scopes(network, recomputed)
    return network, np.zeros((512, 32), "float32")


@pytest.mark.backends("jax")
def test_it_takes_less_memory():
    assert temporaries(*wide("full")) < 0.6 * temporaries(*wide(None))


@pytest.mark.backends("jax")
def test_a_loss_inside_is_an_error_and_not_lost():
    with keras.RematScope():
        encoder = keras.Sequential(
            [keras.Input((4,)), layers.Dense(4, activity_regularizer="l2")], name="penalised"
        )
    model = models.VAE(encoder, networks.mlp(2, (), 4))
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"loss inside 'penalised'.*`remat=` of our networks"):
        model.fit(ROWS, verbose=0)
