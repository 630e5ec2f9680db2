"""Weights, times and the bound of diffusion models against closed forms."""

import math

import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import input_gradient
from artifex_keras.objectives import diffusion
from artifex_keras.samplers.noise_schedules import NoiseSchedule

PREDICTIONS = ("x_start", "epsilon", "v_prediction")


@pytest.fixture(autouse=True)
def draws():
    """The same draws for a test, alone or among others."""
    global RNG
    RNG = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x)


def phi(x):
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in np.ravel(x)]).reshape(np.shape(x))


# Regression


def test_the_error_is_a_mean_over_the_event_times_the_weight():
    x, y = RNG.standard_normal((2, 3, 4, 5))
    plain = ((x - y) ** 2).mean((1, 2))
    np.testing.assert_allclose(numpy(diffusion.prediction_error(x, y)), plain, rtol=1e-5)
    weighted = diffusion.prediction_error(x, y, [1.0, 2.0, 0.0])
    np.testing.assert_allclose(numpy(weighted), plain * [1, 2, 0], rtol=1e-5)


@pytest.mark.parametrize("weighting", ["snr", "min_snr", "edm"])
def test_a_weighting_is_one_objective_whatever_is_predicted(weighting):
    schedule, t = NoiseSchedule("linear"), np.array([5, 250, 500, 950])
    x, noise, found = RNG.standard_normal((3, 4, 6)).astype("float32")
    x_t, snr = schedule.add_noise(x, noise, t), schedule.snr(t)
    errors = []
    for kind in PREDICTIONS:
        answers = {
            "x_start": found,
            "epsilon": schedule.noise(found, x_t, t),
            "v_prediction": schedule.velocity(found, x_t, t),
        }
        target = schedule.target(x, noise, t, kind)
        weight = diffusion.loss_weight(snr, kind, weighting, gamma=5.0)
        errors.append(numpy(diffusion.prediction_error(answers[kind], target, weight)))
    np.testing.assert_allclose(errors[1], errors[0], rtol=2e-3)
    np.testing.assert_allclose(errors[2], errors[0], rtol=2e-3)


@pytest.mark.parametrize(
    ("weighting", "kind", "weights"),
    [
        # SNR = 1/4, 4, 100; γ = 5; σ_d = 1/2.
        ("uniform", "x_start", [1, 1, 1]),
        ("uniform", "epsilon", [1, 1, 1]),
        ("uniform", "v_prediction", [1, 1, 1]),
        ("snr", "x_start", [0.25, 4, 100]),
        ("snr", "epsilon", [1, 1, 1]),
        ("snr", "v_prediction", [0.2, 0.8, 100 / 101]),
        ("min_snr", "x_start", [0.25, 4, 5]),
        ("min_snr", "epsilon", [1, 1, 0.05]),
        ("min_snr", "v_prediction", [0.2, 0.8, 5 / 101]),
        ("edm", "x_start", [4.25, 8, 104]),
        ("edm", "epsilon", [17, 2, 1.04]),
        ("edm", "v_prediction", [3.4, 1.6, 104 / 101]),
    ],
)
def test_weights_have_their_papers_values(weighting, kind, weights):
    found = diffusion.loss_weight([0.25, 4.0, 100.0], kind, weighting)
    np.testing.assert_allclose(numpy(found), weights, rtol=1e-6)


def test_weights_of_pure_noise_are_finite_where_they_are_defined():
    for weighting in diffusion.LOSS_WEIGHTINGS:
        for kind in ("x_start", "v_prediction"):
            assert np.isfinite(numpy(diffusion.loss_weight([0.0], kind, weighting))).all()


def test_edm_weighs_and_scales_to_the_plain_error_of_its_network():
    sigma, data = np.array([0.01, 0.5, 20.0]), 0.7
    scales = diffusion.edm_preconditioning(sigma, data)
    skip, out, scale, name = (numpy(part).astype("float64") for part in scales)
    weight = numpy(diffusion.loss_weight(1 / sigma**2, "x_start", "edm", sigma_data=data))
    np.testing.assert_allclose(weight * out**2, 1, rtol=1e-5)
    # Input and target of unit variance for data of variance σ_d².
    np.testing.assert_allclose(scale**2 * (sigma**2 + data**2), 1, rtol=1e-5)
    variance = ((1 - skip) ** 2 * data**2 + skip**2 * sigma**2) / out**2
    np.testing.assert_allclose(variance, 1, rtol=1e-4)
    np.testing.assert_allclose(name, np.log(sigma) / 4, rtol=1e-6)


# Times


def test_logit_normal_and_log_normal_times_are_quantiles():
    quantiles = [0.158655, 0.5, 0.841345]
    found = numpy(diffusion.logit_normal_times(quantiles, mean=0.5, std=2.0))
    np.testing.assert_allclose(found, 1 / (1 + np.exp([1.5, -0.5, -2.5])), rtol=1e-4)
    sigma = numpy(diffusion.log_normal_sigma(quantiles))
    np.testing.assert_allclose(sigma, np.exp([-2.4, -1.2, 0.0]), rtol=1e-3)


def test_mode_times_are_the_papers():
    u = np.linspace(0, 1, 5)
    found = numpy(diffusion.mode_times(u, scale=0.8))
    exact = 1 - u - 0.8 * (np.cos(np.pi / 2 * u) ** 2 - 1 + u)
    np.testing.assert_allclose(found, exact, atol=1e-6)
    # A positive scale draws times to the middle, none leaves them uniform.
    u = np.linspace(0, 1, 1001)
    assert numpy(diffusion.mode_times(u)).std() < 0.8 * numpy(diffusion.mode_times(u, 0.0)).std()
    with pytest.raises(ValueError, match="scale"):
        diffusion.mode_times(u, scale=2.0)


@pytest.mark.parametrize("sampling", diffusion.TIMESTEP_SAMPLINGS)
def test_times_stay_inside_even_for_the_extreme_draws(sampling):
    t = numpy(diffusion.times(np.array([0.0, 0.3, 1 - 2**-24], "float32"), sampling))
    assert t.shape == (3,) and (t >= 0).all() and (t <= 1).all() and len(set(t)) == 3


def test_stratified_times_hit_each_part_once_and_feed_other_rows():
    u = RNG.uniform(size=8)
    t = numpy(diffusion.stratified_times(u))
    np.testing.assert_allclose(t, (np.arange(8) + u) / 8, rtol=1e-6)
    both = numpy(diffusion.times(diffusion.stratified_times(u), "logit_normal"))
    np.testing.assert_allclose(both, numpy(diffusion.logit_normal_times(t)), rtol=1e-6)


# The bound


def test_one_term_is_the_kl_of_the_posterior():
    schedule = NoiseSchedule("linear", 100)
    x, found = RNG.standard_normal((2, 1, 5)).astype("float32")
    alphas = schedule._alphas
    for t in (1, 40, 99):
        beta = 1 - alphas[t] / alphas[t - 1]
        factor = np.sqrt(alphas[t - 1]) * beta / (1 - alphas[t])
        variance = beta * (1 - alphas[t - 1]) / (1 - alphas[t])
        exact = (factor * (x - found)) ** 2 / (2 * variance)
        kl = diffusion.diffusion_kl(x, found, schedule.snr([t - 1]), schedule.snr([t]))
        np.testing.assert_allclose(numpy(kl), exact.sum(1), rtol=1e-4)


def test_the_prior_term_is_the_kl_of_the_last_level():
    x = np.array([[1.0, -2.0]])
    variance, mean = 0.6**2, 0.8 * x
    exact = 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(1)
    np.testing.assert_allclose(numpy(diffusion.prior_kl(x, 0.8, 0.6)), exact, rtol=1e-6)


def test_the_bound_closes_on_the_entropy_with_the_exact_denoiser():
    # x_0 ~ N(0, c²): the denoiser's error is c² s²/(a² c² + s²) on average, in closed form.
    c2, gaps = 0.25, []
    for count in (50, 400):
        schedule = NoiseSchedule(1 / (1 + np.exp(np.linspace(-9, 9, count))))  # ln SNR in a line
        a2 = schedule._alphas
        s2 = 1 - a2
        error = np.sqrt(c2 * s2 / (a2 * c2 + s2))[1:, None].astype("float32")
        snr = schedule.snr(np.arange(count))
        steps = diffusion.diffusion_kl(error, np.zeros_like(error), snr[:-1], snr[1:])
        prior = diffusion.prior_kl([[math.sqrt(c2)]], a2[-1] ** 0.5, s2[-1] ** 0.5)
        # p(x_0|x_1) exactly, on average: ½ ln 2πe·var.
        decoder = 0.5 * np.log(2 * np.pi * np.e * c2 * s2[0] / (a2[0] * c2 + s2[0]))
        bound = float(ops.sum(steps)) + float(prior[0]) + decoder
        gaps.append(bound - 0.5 * np.log(2 * np.pi * np.e * c2))
    assert 0 < gaps[1] < gaps[0] / 8 < 0.1  # an error of first order in the steps


def test_the_masses_of_all_levels_sum_to_one():
    levels = 2 * np.arange(8) / 7 - 1
    for mean, log_var in [(0.1, -2.0), (1.3, 0.0), (-0.99, -6.0), (0.0, 4.0)]:
        nll = diffusion.discretized_gaussian_nll(levels[:, None], mean, log_var, levels=8)
        np.testing.assert_allclose(np.exp(-numpy(nll)).sum(), 1, atol=2e-6)


def test_a_level_has_the_mass_of_its_bin():
    x = 2 * np.array([0, 3, 100, 200, 255]) / 255 - 1
    mean, std = np.array([-0.9, -0.97, -0.2, 0.0, 0.5]), np.array([0.1, 0.01, 0.05, 0.13, 0.2])
    low = np.where(x == -1, -np.inf, (x - 1 / 255 - mean) / std)
    high = np.where(x == 1, np.inf, (x + 1 / 255 - mean) / std)
    # The mass to the right of zero by the mirrored difference, whose float64 digits remain.
    mass = np.where(low > 0, phi(-low) - phi(-high), phi(high) - phi(low))
    nll = numpy(
        diffusion.discretized_gaussian_nll(x[:, None], mean[:, None], 2 * np.log(std)[:, None])
    )
    np.testing.assert_allclose(nll, -np.log(mass), rtol=2e-5, atol=2e-5)


def test_the_mass_far_from_the_mean_keeps_its_digits_and_its_gradient():
    # Ten and thirty standard deviations away, where 1 - Φ is 0 in float32.
    x, std = np.zeros((2, 1)), 0.1
    mean = ops.convert_to_tensor(np.array([[1.0 + 1 / 255], [3.0]], "float32"))
    nll = numpy(diffusion.discretized_gaussian_nll(x, mean, 2 * np.log(std)))
    low = (np.array([1.0, 3 - 1 / 255])) / std
    exact = [-math.log(phi(-z) - phi(-z - 2 / 255 / std)) for z in low]
    np.testing.assert_allclose(nll, exact, rtol=1e-5)
    slope = numpy(
        input_gradient(lambda m: diffusion.discretized_gaussian_nll(x, m, 2 * np.log(std)), mean)
    )
    np.testing.assert_allclose(slope[:, 0], numpy(mean)[:, 0] / std**2, rtol=0.01)


def test_bits_per_dim():
    assert float(diffusion.bits_per_dim(3 * math.log(2), 3)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diffusion.loss_weight([1.0], "v", "snr"), "v_prediction"),
        (lambda: diffusion.loss_weight([1.0], "epsilon", "minsnr"), "'min_snr'"),
        (lambda: diffusion.times([0.5], "logitnormal"), "'logit_normal'"),
    ],
)
def test_unknown_names_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
