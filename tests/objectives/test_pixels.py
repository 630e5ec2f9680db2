"""Likelihoods of levels: they add up to one, at the edges too, and equal float64."""

import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import input_gradient
from artifex_keras.objectives import pixels


def numpy(x):
    return ops.convert_to_numpy(x).astype("float64")


def mixture(rows, components=3):
    """Logits, means and log-scales, broad and narrow, inside and outside of [-1, 1]."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, components))
    mean = rng.uniform(-1.3, 1.3, (rows, components))
    log_scale = rng.uniform(-7.0, 1.0, (rows, components))
    return np.concatenate([logits, mean, log_scale], axis=1).astype("float32")


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("likelihood, parameters", [("logistic_mixture", 9), ("categorical", None)])
def test_the_probabilities_of_all_levels_add_up_to_one(likelihood, parameters, levels):
    logits = np.random.default_rng(0).normal(size=(40, levels)).astype("float32")
    given = mixture(40) if parameters else 3 * logits
    log_p = numpy(pixels.level_log_probs(given, likelihood, levels))
    assert log_p.shape == (40, levels) and np.all(log_p <= 1e-6)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1.0, atol=2e-5)


def test_a_logistic_mixture_equals_its_formula_in_float64():
    given = mixture(30, components=2)
    given[:, 4:] = np.clip(given[:, 4:], -3, 1)
    logits, mean, log_scale = np.split(np.float64(given), 3, axis=1)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def below(x):
        return 1 / (1 + np.exp(-(x - mean) / np.exp(log_scale)))

    def above(x):
        return 1 / (1 + np.exp((x - mean) / np.exp(log_scale)))

    for level in range(8):
        x = 2 * level / 7 - 1
        top, bottom = (np.inf if level == 7 else x + 1 / 7), (-np.inf if level == 0 else x - 1 / 7)
        # By the smaller of the two tails, or the difference is lost beside 1.
        mass = np.where(x > mean, above(bottom) - above(top), below(top) - below(bottom))
        expected = np.log(np.sum(share * mass, axis=1))
        log_p = pixels.logistic_mixture_log_prob(given, np.full(30, level), 8)
        np.testing.assert_allclose(numpy(log_p), expected, rtol=2e-4, atol=2e-5)


def test_edge_bins_hold_the_tails():
    """A logistic far outside puts everything into the outermost level."""
    given = np.float32([[0.0, -9.0, -5.0], [0.0, 9.0, -5.0]])
    log_p = numpy(pixels.level_log_probs(given, "logistic_mixture", 256))
    np.testing.assert_allclose(log_p[[0, 1], [0, 255]], 0.0, atol=1e-6)


def test_narrow_components_far_from_the_level_have_finite_gradients():
    given = np.float32([[0.0, 0.9, -30.0], [0.0, -0.9, 3.0]])
    gradient = input_gradient(
        lambda z: pixels.logistic_mixture_log_prob(z, np.array([3, 200]), 256), given
    )
    assert np.all(np.isfinite(numpy(gradient)))
    assert numpy(gradient)[0, 2] == 0.0  # below the smallest scale
