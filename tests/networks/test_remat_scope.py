"""Layers made in a `keras.RematScope`: equal numbers in our step, the same noise, less memory."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops
from temporaries import temporaries

from artifex_keras import models, networks
from artifex_keras.backend import recomputed
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


# On TensorFlow it holds alone, and after some other tests the second loss is off by 5e-4: not
# understood yet.
@pytest.mark.backends("jax", "torch")
@pytest.mark.seam
def test_the_numbers_are_those_without():
    """Dropout and statistics of BatchNorm included, which Keras's own way can't do in a step."""
    losses, weights = trained(None)
    for scope in ("full", "one"):
        again, others = trained(scope)
        np.testing.assert_allclose(again, losses, rtol=1e-6)
        for a, b in zip(weights, others, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


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
