"""Whatever says ln p says it with all its constants: exp of it sums or integrates to 1."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.models import (
    VAE,
    Autoregressive,
    Diffusion,
    EnergyModel,
    FlowMatching,
    NormalizingFlow,
    PixelAutoregressive,
)
from artifex_keras.networks import pixelcnn, realnvp, timed_mlp

LINE = np.linspace(-12, 12, 2401, dtype="float32")[:, None]
PLANE = np.stack(np.meshgrid(*[np.linspace(-7, 7, 113)] * 2), -1).reshape(-1, 2).astype("float32")


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x), "float64")


def mass(log_p, points):
    """Σ p · the volume of a point's cell; for whole numbers, the sum."""
    first = np.unique(points[:, 0])
    volume = 1.0 if np.all(points % 1 == 0) else (first[1] - first[0]) ** points.shape[1]
    return np.exp(numpy(log_p)).sum() * float(volume)


def random_weights(model, scale=0.4):
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(0, scale, weight.shape))
    return model


def constant(inputs, value, name):
    entry = keras.Input((inputs,))
    layer = keras.layers.Dense(len(value), kernel_initializer="zeros", name=f"{name}_out")
    network = keras.Model(entry, layer(entry), name=name)
    layer.bias.assign(value)
    return network


def vae(points, reconstruction, output=(0.3,), **options):
    """The code says nothing of the data and its posterior is the prior: the bound is ln p(x)."""
    decoder = constant(1, list(output), "decoder")
    if reconstruction == "categorical":
        decoder = keras.Model(
            decoder.input, keras.layers.Reshape((1, len(output)), name="levels")(decoder.output)
        )
    model = VAE(
        constant(1, [0.0, 0.0], "encoder"), decoder, reconstruction=reconstruction, **options
    )
    return model.log_likelihood(points, 2, batch_size=len(points))


def flow(points):
    model = NormalizingFlow(realnvp(2, 2, (4,), actnorm=False), seed=0)
    return random_weights(model, 0.2).log_prob(points)


def diffusion(points):
    network = random_weights(timed_mlp((1,), (4,)), 0.3)
    model = Diffusion(network, ema_decay=None, prediction_type="v_prediction", seed=0)
    return model.log_likelihood(points, 20)


def flow_matching(points):
    model = FlowMatching(random_weights(timed_mlp((1,), (4,), time_scale=10), 0.3), seed=0)
    return model.log_prob(points, num_steps=10)


def energy(points):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4), Bowl()])
    model = random_weights(EnergyModel(network, mcmc_steps=2, seed=0))
    return model.log_prob(points, method="grid", bounds=(-7, 7), size=113)


class Bowl(keras.layers.Layer):
    """½ Σ h² of the layer before: a Gaussian's energy, with some sixth powers."""

    def call(self, h):
        return ops.sum(0.5 * h**2 + 0.01 * h**6, axis=-1, keepdims=True)


def tokens(points):
    ids = keras.Input((None,), dtype="int32")
    logits = keras.layers.Dense(3, name="head")(keras.layers.Embedding(3, 4, name="rows")(ids))
    model = Autoregressive(keras.Model(ids, logits), start_token_id=0, seed=0)
    model.build((None, 3))
    return numpy(random_weights(model, 1.0).log_prob(points.astype("int32"))).sum(1)


def pixels(points, likelihood="categorical"):
    network = pixelcnn((2, 1, 1), 3, filters=2, num_blocks=1)
    model = random_weights(PixelAutoregressive(network, num_levels=3, seed=0))
    return model.log_prob(points.reshape(-1, 2, 1, 1) / np.float32(2))


def every(count, length):
    return np.array(list(itertools.product(range(count), repeat=length)), "float32")


TABLE = {
    "vae mse": (lambda x: vae(x, "mse"), LINE),
    "vae mae": (lambda x: vae(x, "mae"), LINE * 2),
    "vae bce": (lambda x: vae(x, "bce"), every(2, 1)),
    "vae categorical": (lambda x: vae(x, "categorical", (0.1, -1.0, 2.0)), every(3, 1)),
    "vae gaussian": (lambda x: vae(x, "gaussian", variance=0.3), LINE),
    "vae learned": (lambda x: vae(x, "gaussian", variance="learned"), LINE),
    "vae optimal": (lambda x: vae(x, "gaussian", variance="optimal"), LINE),
    "flow": (flow, PLANE),
    "diffusion": (diffusion, LINE[::30]),
    "flow matching": (flow_matching, LINE[::30]),
    "energy": (energy, PLANE),
    "tokens": (tokens, every(3, 3)),
    "pixels": (pixels, every(3, 2)),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_density_has_the_mass_of_one(name):
    log_p, points = TABLE[name]
    assert mass(log_p(points), points) == pytest.approx(1, abs=0.01)
