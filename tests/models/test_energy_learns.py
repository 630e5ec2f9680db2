"""Learning runs of energy-based models, on a mixture whose density is known."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras import networks
from artifex_keras.models import EnergyModel
from artifex_keras.models.energy import plane_grid

pytestmark = [pytest.mark.slow, pytest.mark.backends("jax")]

CENTRES = np.array([[-1.2, 0.0], [1.0, 1.0], [0.8, -1.2]])
SHARES = np.array([0.5, 0.3, 0.2])
STD = 0.45
LIMITS = (-4.0, 4.0)


def mixture(rows, seed=0):
    random = np.random.default_rng(seed)
    which = random.choice(3, size=rows, p=SHARES)
    points = CENTRES[which] + STD * random.standard_normal((rows, 2))
    return np.clip(points, -3.9, 3.9).astype("float32")


def log_density(points, std=STD):
    square = ((points[:, None] - CENTRES) ** 2).sum(axis=-1)
    return np.log((SHARES * np.exp(-square / (2 * std**2))).sum(axis=1) / (2 * np.pi * std**2))


def divergence(model, std=STD):
    """KL(p ‖ model) in nats, by sums over a grid."""
    points, cell = plane_grid(model, LIMITS, 256)
    log_p = log_density(points.astype("float64"), std)
    log_z = model.log_partition("grid", bounds=LIMITS, size=256)
    log_q = ops.convert_to_numpy(model.log_prob(points, log_partition=log_z))
    return float((np.exp(log_p) * (log_p - log_q)).sum() * cell)


def trained(activation, epochs, **options):
    keras.utils.set_random_seed(0)
    network = networks.mlp_critic((2,), (128, 128), activation=activation, name="energy")
    model = EnergyModel(network, ema_decay=0.995, seed=0, **options)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, 40 * epochs)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), steps_per_execution=40)
    model.fit(mixture(10240), batch_size=256, epochs=epochs, verbose=0)
    return model


def test_persistent_chains_learn_the_mixture():
    model = trained(
        "leaky_relu",
        75,
        training_method="pcd",
        sampler="mala",
        mcmc_steps=10,
        step_size=0.1,
        value_range=LIMITS,
        replay_buffer_size=5000,
    )
    found = divergence(model)
    assert found < 0.03
    assert model.log_partition("ais", seed=0) == pytest.approx(
        model.log_partition("grid", size=256), abs=0.05
    )
    samples = ops.convert_to_numpy(model.sample(5000, seed=1))
    nearest = ((samples[:, None] - CENTRES) ** 2).sum(axis=-1).argmin(axis=1)
    exact = ((mixture(50000, 1)[:, None] - CENTRES) ** 2).sum(axis=-1).argmin(axis=1)
    np.testing.assert_allclose(
        np.bincount(nearest, minlength=3) / 5000, np.bincount(exact) / 50000, atol=0.04
    )


@pytest.mark.parametrize("method", ["denoising_score_matching", "sliced_score_matching"])
def test_the_score_alone_teaches_the_mixture(method):
    sigma = 0.2 if method.startswith("denoising") else 0.0
    model = trained("swish", 75, training_method=method, sigmas=sigma or 1.0)
    found = divergence(model, std=np.hypot(STD, sigma))
    assert found < 0.05
