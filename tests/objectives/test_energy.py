"""Score matching at its closed-form optimum, contrastive divergence against the likelihood."""

import itertools
import math

import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import input_gradient
from artifex_keras.objectives import energy

COVARIANCE = np.array([[1.0, 0.6], [0.6, 2.0]])
PRECISION = np.linalg.inv(COVARIANCE)
FACTOR = np.linalg.cholesky(COVARIANCE)


@pytest.fixture(autouse=True)
def draws():
    """The same draws for a test, alone or among others."""
    global RNG
    RNG = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x)


def gaussian_rule(dims):
    """Nodes (N, dims) and weights of a quadrature exact for squares under N(0, I)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    points = np.array(list(itertools.product(nodes, repeat=dims)))
    product = np.prod(list(itertools.product(weights, repeat=dims)), axis=1)
    return points, product / product.sum()


def expected(values, weights):
    return float((numpy(values) * weights).sum())


def exact_score_matching(precision):
    """The expected objective of s(x) = -precision x on data of `COVARIANCE`."""
    z, weights = gaussian_rule(2)
    score = -(z @ FACTOR.T) @ precision
    trace = np.full(len(z), -np.trace(precision))
    return expected(energy.score_matching(score, trace), weights)


def test_score_matching_is_least_at_the_truth_with_the_known_value():
    assert exact_score_matching(PRECISION) == pytest.approx(-0.91463, abs=1e-5)
    assert exact_score_matching(PRECISION) == pytest.approx(-0.5 * np.trace(PRECISION), abs=1e-6)
    for change in RNG.standard_normal((4, 2, 2)):
        assert exact_score_matching(PRECISION + 0.05 * (change + change.T)) > -0.9146


def test_slices_average_to_the_trace():
    x = RNG.standard_normal((3, 2))
    score, signs = -x @ PRECISION, np.array(list(itertools.product([-1.0, 1.0], repeat=2)))
    sliced = [
        numpy(
            energy.sliced_score_matching(score, np.tile(-PRECISION @ v, (3, 1)), np.tile(v, (3, 1)))
        )
        for v in signs
    ]
    exact = numpy(energy.score_matching(score, np.full(3, -np.trace(PRECISION))))
    np.testing.assert_allclose(np.mean(sliced, axis=0), exact, rtol=1e-5)
    assert np.std(sliced) > 0.01


def denoising_objective(precision, sigma):
    """The expected objective of s = -precision x̃ on x̃ = x + σε, x of `COVARIANCE`."""
    z, weights = gaussian_rule(4)
    noise = z[:, 2:]
    score = -(z[:, :2] @ FACTOR.T + sigma * noise) @ precision
    return expected(energy.denoising_score_matching(score, noise, sigma), weights)


def test_denoising_is_least_at_the_smoothed_truth_with_the_known_value():
    best = np.linalg.inv(COVARIANCE + 0.09 * np.eye(2))
    assert denoising_objective(best, 0.3) == pytest.approx(0.92540, abs=1e-5)
    for change in RNG.standard_normal((4, 2, 2)):
        assert denoising_objective(best + 0.05 * (change + change.T), 0.3) > 0.92545


def test_denoising_takes_one_noise_level_for_each_example():
    score, noise = RNG.standard_normal((2, 3, 4, 2)).astype("float32")
    sigma = np.array([0.1, 1.0, 3.0], "float32")
    found = numpy(energy.denoising_score_matching(score, noise, sigma))
    exact = 0.5 * ((sigma[:, None, None] * score + noise) ** 2).sum((1, 2))
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    # The exact score of the noise alone, -ε/σ, costs nothing at any level.
    perfect = -noise / sigma[:, None, None]
    np.testing.assert_allclose(
        numpy(energy.denoising_score_matching(perfect, noise, sigma)), 0, atol=1e-9
    )


def test_contrastive_divergence_has_the_gradient_of_the_likelihood():
    # E = a x²/2: the likelihood's slope in a is ½E[x²] - ½/a, with negatives of variance 1/a,
    # here the nodes of an exact quadrature, each beside each datum.
    data, a = np.array([0.5, -1.5, 2.0]), 0.8
    nodes, weights = gaussian_rule(1)
    positive = ops.convert_to_tensor(np.repeat(data**2 / 2, 4).astype("float32"))
    negative = ops.convert_to_tensor(np.tile(nodes[:, 0] ** 2 / a / 2, 3).astype("float32"))
    weights = ops.convert_to_tensor(np.tile(weights / 3, 3).astype("float32"))

    def objective(a):
        return ops.sum(energy.contrastive_divergence(a * positive, a * negative) * weights)

    slope = float(numpy(input_gradient(objective, ops.convert_to_tensor(a, dtype="float32"))))
    assert slope == pytest.approx(0.5 * (data**2).mean() - 0.5 / a, rel=1e-5)


def test_contrastive_divergence_and_its_regularizer():
    plus, minus = np.array([1.0, -2.0]), np.array([0.5, 3.0])
    found = energy.contrastive_divergence(plus, minus, regularization=0.1)
    np.testing.assert_allclose(numpy(found), [0.5 + 0.125, -5 + 1.3], rtol=1e-6)
    np.testing.assert_allclose(numpy(energy.contrastive_divergence(plus, minus)), [0.5, -5])


def test_a_classifiers_energy_sums_over_its_labels():
    logits = RNG.standard_normal((3, 5)) * 50
    joint = np.exp(logits - logits.max())
    exact = -(np.log(joint.sum(1)) + logits.max())
    np.testing.assert_allclose(numpy(energy.label_energy(logits)), exact, rtol=1e-5)


def test_temperature_is_one_for_langevin_and_the_papers_otherwise():
    assert energy.effective_temperature(0.01, 0.1) == pytest.approx(1)
    assert energy.effective_temperature(2.0, 0.01) == pytest.approx(5e-5)  # 1912.03263
    assert energy.effective_temperature(20.0, 0.005) == pytest.approx(1.25e-6)  # 1903.08689


def test_the_grid_gives_the_partition_function():
    points = np.linspace(-9, 9, 91)
    x = np.stack(np.meshgrid(points, points), -1).reshape(-1, 2)
    energies = 0.5 * np.einsum("ni,ij,nj->n", x, PRECISION, x)
    exact = 0.5 * math.log(np.linalg.det(2 * np.pi * COVARIANCE))
    assert float(energy.grid_log_partition(energies, 0.2**2)) == pytest.approx(exact, abs=1e-4)


def test_sigmas_fall_by_one_ratio():
    np.testing.assert_allclose(numpy(energy.geometric_sigmas(1.0, 0.01, 3)), [1, 0.1, 0.01], 1e-5)
    with pytest.raises(ValueError, match="smallest"):
        energy.geometric_sigmas(0.1, 1.0, 3)
