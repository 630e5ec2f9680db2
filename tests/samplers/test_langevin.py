"""Chains on Gaussians against closed forms, single steps against their printed rules."""

import math

import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import input_gradient
from artifex_keras.samplers import langevin


@pytest.fixture(autouse=True)
def draws():
    """The same draws for a test, alone or among others."""
    global RNG
    RNG = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x)


def normal(*shape):
    return RNG.standard_normal(shape).astype("float32")


def gaussian(precision):
    """The energy of N(0, 1/precision)."""
    return lambda x: 0.5 * precision * ops.sum(x**2, axis=1)


def quartic(x):
    """A double well whose gradient is not linear; in two dimensions."""
    return ops.sum(x**4 / 4 - x**2 / 2, axis=1) + 0.5 * x[:, 0] * x[:, 1]


def quartic_numpy(x):
    value = (x**4 / 4 - x**2 / 2).sum(1) + 0.5 * x[:, 0] * x[:, 1]
    return value, x**3 - x + 0.5 * x[:, ::-1]


def linear_law(energy, steps, **options):
    """The factors of a linear chain: of its start, and the variance that its noise leaves."""
    noise = np.concatenate([np.zeros((steps, 1)), np.eye(steps)], 1)[..., None]
    x = np.zeros((steps + 1, 1), "float32")
    x[0] = 1
    out = numpy(langevin.langevin(energy, x, noise.astype("float32"), **options))[:, 0]
    return out[0], (out[1:].astype("float64") ** 2).sum()


# Langevin


@pytest.mark.parametrize(("precision", "step"), [(1.0, 0.2), (2.0, 0.5)])
def test_langevin_settles_at_its_known_variance(precision, step):
    forgotten, variance = linear_law(gaussian(precision), 80, step_size=step)
    assert abs(forgotten) < 1e-3
    assert variance == pytest.approx(1 / (precision * (1 - precision * step / 4)), rel=1e-4)


def test_a_noise_of_its_own_is_a_temperature():
    # 80 steps of .2: T = noise²/step.
    _, variance = linear_law(gaussian(1.0), 80, step_size=0.2, noise_scale=0.1)
    assert variance == pytest.approx(0.1**2 / 0.2 / (1 - 0.05), rel=1e-4)


def test_a_step_is_the_printed_one_with_its_clippings():
    x, n = normal(5, 2), normal(1, 5, 2)
    _, slope = quartic_numpy(x)
    found = langevin.langevin(quartic, x, n, step_size=0.1)
    np.testing.assert_allclose(numpy(found), x - 0.05 * slope + 0.1**0.5 * n[0], rtol=1e-4)
    norm = np.linalg.norm(slope, axis=1, keepdims=True)
    limited = slope * np.minimum(1, 0.5 / norm)
    found = langevin.langevin(quartic, x, n, step_size=0.1, gradient_clipping=0.5, clip=(-1.0, 0.8))
    exact = np.clip(x - 0.05 * limited + 0.1**0.5 * n[0], -1, 0.8)
    np.testing.assert_allclose(numpy(found), exact, rtol=1e-4, atol=1e-6)


def test_clipping_shortens_long_gradients_and_leaves_short_ones():
    gradient = np.array([[[0.1, 0.0]], [[3.0, 4.0]], [[0.0, 0.0]]], "float32")
    clipped = numpy(langevin.clipped_gradient(ops.convert_to_tensor(gradient), 1.0))
    np.testing.assert_allclose(clipped, [[[0.1, 0]], [[0.6, 0.8]], [[0, 0]]], rtol=1e-6)


def test_no_gradient_runs_through_a_chain():
    x, n, u = normal(3, 2), normal(4, 3, 2), RNG.uniform(size=(4, 3)).astype("float32")

    def ends(x):
        ula = langevin.langevin(quartic, x, n, step_size=0.1)
        exact = langevin.hmc(quartic, x, n, u, step_size=0.1, leapfrog_steps=2)
        return ops.sum(ula + exact.x) + ops.sum(0.0 * x)

    np.testing.assert_array_equal(numpy(input_gradient(ends, ops.convert_to_tensor(x))), 0)


# Corrected chains


def reference_mala(x, n, step):
    """Proposal and probability of acceptance, by the definition of q."""
    value, slope = quartic_numpy(x)
    proposal = x - step / 2 * slope + math.sqrt(step) * n
    new_value, new_slope = quartic_numpy(proposal)
    forth = -((proposal - x + step / 2 * slope) ** 2).sum(1) / (2 * step)
    back = -((x - proposal + step / 2 * new_slope) ** 2).sum(1) / (2 * step)
    return proposal, np.minimum(1, np.exp(value - new_value + back - forth))


def reference_hmc(x, n, step, count):
    start, p = x, n
    for _ in range(count):
        p = p - step / 2 * quartic_numpy(x)[1]
        x = x + step * p
        p = p - step / 2 * quartic_numpy(x)[1]
    before = quartic_numpy(start)[0] + (n**2).sum(1) / 2
    after = quartic_numpy(x)[0] + (p**2).sum(1) / 2
    return x, np.minimum(1, np.exp(before - after))


@pytest.mark.parametrize("chain", ["mala", "hmc"])
def test_a_proposal_is_accepted_with_its_probability(chain):
    x, n = normal(64, 2), normal(1, 64, 2)
    if chain == "mala":
        proposal, probability = reference_mala(x, n[0], 0.8)
        options = {"step_size": 0.8}
    else:
        proposal, probability = reference_hmc(x, n[0], 0.7, 3)
        options = {"step_size": 0.7, "leapfrog_steps": 3}
    assert probability.min() < 0.3 and probability.max() == 1
    # Draws just below and just above each probability take it and leave it.
    near = np.minimum(np.where(np.arange(64) % 2, 0.98, 1.02) * probability, 0.999)
    found = getattr(langevin, chain)(quartic, x, n, near[None].astype("float32"), **options)
    np.testing.assert_allclose(numpy(found.acceptance), probability, rtol=2e-3, atol=1e-6)
    taken = near < probability
    np.testing.assert_allclose(
        numpy(found.x), np.where(taken[:, None], proposal, x), rtol=1e-3, atol=1e-3
    )


def test_one_leapfrog_step_is_mala():
    x, n, u = normal(16, 2), normal(5, 16, 2), RNG.uniform(size=(5, 16)).astype("float32")
    one = langevin.mala(quartic, x, n, u, step_size=0.3)
    other = langevin.hmc(quartic, x, n, u, step_size=math.sqrt(0.3), leapfrog_steps=1)
    np.testing.assert_allclose(numpy(one.x), numpy(other.x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(numpy(one.acceptance), numpy(other.acceptance), rtol=1e-3)


@pytest.mark.parametrize(
    ("chain", "options"),
    [("mala", {"step_size": 1.2}), ("hmc", {"step_size": 1.1, "leapfrog_steps": 3})],
)
def test_corrected_chains_keep_the_gaussian_where_langevin_leaves_it(chain, options):
    n = 4000
    x, noise = normal(n, 1), normal(15, n, 1)
    u = RNG.uniform(size=(15, n)).astype("float32")
    found = getattr(langevin, chain)(gaussian(1.0), x, noise, u, **options)
    assert 0.4 < numpy(found.acceptance).mean() < 0.99
    moved = abs(numpy(found.x) - x).mean()
    error = math.sqrt(2 / n)
    assert moved > 0.5 and abs((numpy(found.x) ** 2).mean() - 1) < 4 * error
    if chain == "mala":
        plain = numpy(langevin.langevin(gaussian(1.0), x, noise, **options))
        assert abs((plain**2).mean() - 1 / (1 - 0.3)) < 8 * error  # 1.43, far from 1


def test_a_proposal_of_no_number_is_refused():
    def fenced(x):
        inside = ops.abs(x[:, 0]) < 1.0
        return ops.where(inside, 0.5 * x[:, 0] ** 2, x[:, 0] * float("nan"))

    x, noise = np.zeros((32, 1), "float32"), 3 * normal(4, 32, 1)
    u = RNG.uniform(size=(4, 32)).astype("float32")
    found = langevin.mala(fenced, x, noise, u, step_size=0.5)
    assert (abs(numpy(found.x)) < 1).all() and np.isfinite(numpy(found.acceptance)).all()


# Annealing


def test_weights_are_exact_where_the_target_is_the_base():
    scale, x, noise = 1.5, 1.5 * normal(8, 3), normal(5, 8, 3)
    u = RNG.uniform(size=(5, 8)).astype("float32")
    found = langevin.annealed_importance(
        gaussian(1 / scale**2), x, noise, u, step_size=0.3, base_scale=scale
    )
    log_z = 1.5 * math.log(2 * math.pi * scale**2)
    np.testing.assert_allclose(numpy(found.log_weights), log_z, rtol=1e-5)


def test_one_temperature_is_importance_sampling():
    x, u = normal(8, 2), RNG.uniform(size=(1, 8)).astype("float32")
    found = langevin.annealed_importance(quartic, x, normal(1, 8, 2), u, step_size=0.1)
    exact = math.log(2 * math.pi) + (x**2).sum(1) / 2 - quartic_numpy(x)[0]
    np.testing.assert_allclose(numpy(found.log_weights), exact, rtol=1e-4, atol=1e-5)


def test_annealing_finds_the_partition_function():
    # A narrow Gaussian off the centre: Z in closed form.
    def energy(x):
        return ops.sum((x - 2.0) ** 2, axis=1) / (2 * 0.3**2) + 1.7

    n, steps = 200, 60
    x, noise = normal(n, 2), normal(steps, n, 2)
    u = RNG.uniform(size=(steps, n)).astype("float32")
    betas = np.linspace(0, 1, steps + 1) ** 2
    found = langevin.annealed_importance(
        energy, x, noise, u, step_size=0.2, leapfrog_steps=5, betas=betas
    )
    weights = numpy(found.log_weights).astype("float64")
    log_z = np.log(np.exp(weights - weights.max()).mean()) + weights.max()
    assert abs(log_z - (math.log(2 * math.pi * 0.3**2) - 1.7)) < 0.15
    assert weights.std() < 1.5 and numpy(found.acceptance).mean() > 0.7
    plain = (x**2).sum(1) / 2 - numpy(energy(ops.convert_to_tensor(x)))
    assert plain.std() > 10  # what importance sampling alone would weigh with


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: langevin.langevin(quartic, x, normal(4, 2), step_size=0.1), "noise"),
        (
            lambda x: langevin.mala(quartic, x, normal(3, 4, 2), np.ones((4, 3)), step_size=0.1),
            "uniforms",
        ),
        (
            lambda x: langevin.annealed_importance(
                quartic, x, normal(3, 4, 2), np.ones((3, 4)), step_size=0.1, betas=[0, 0.5, 1]
            ),
            "betas",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(4, 2))
