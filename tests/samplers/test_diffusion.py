"""Samplers on Gaussian data, where the exact denoiser makes every law a closed form."""

import numpy as np
import pytest
from keras import ops

from artifex_keras.objectives.elbo import log_normal
from artifex_keras.samplers import diffusion
from artifex_keras.samplers.diffusion import SAMPLERS, sample
from artifex_keras.samplers.noise_schedules import EDMSchedule, NoiseSchedule
from artifex_keras.samplers.ode import integrate, log_likelihood

MEAN, VARIANCE = 0.7, 0.3**2
EDM = EDMSchedule(sigma_min=0.002, sigma_max=20.0)
LINEAR = NoiseSchedule("linear")


@pytest.fixture(autouse=True)
def draws():
    """The same draws for a test, alone or among others."""
    global RNG
    RNG = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x)


def denoiser(schedule, mean=MEAN, variance=VARIANCE):
    """E[x_0|x_t] for x_0 ~ N(mean, variance)."""

    def denoise(x, t):
        a, s = schedule.scales(t, x)
        return mean + a * variance / (a * a * variance + s * s) * (x - a * mean)

    return denoise


def law(schedule, timesteps, sampler, denoise=None, **options):
    """(mean, variance) of what a sampler draws from its exact first state.

    The samples are affine in the first state and in each noise array: one row per unit vector
    gives the factors, and no random number is needed.
    """
    a, s = schedule.levels(timesteps)
    stochastic = SAMPLERS[sampler].stochastic or options.get("churn") or options.get("eta")
    draws = len(timesteps) if stochastic else 0
    x = np.zeros((2 + draws, 1), "float32")
    x[1] = 1
    if draws:
        options["noise"] = np.concatenate([np.zeros((draws, 2)), np.eye(draws)], 1)[..., None]
        options["noise"] = options["noise"].astype("float32")
    denoise = denoise or denoiser(schedule)
    out = numpy(sample(denoise, x, schedule, timesteps, sampler=sampler, **options))[:, 0]
    factors = (out[1:] - out[0]).astype("float64")
    first_mean, first_variance = a[0] * MEAN, a[0] ** 2 * VARIANCE + s[0] ** 2
    mean = out[0] + factors[0] * first_mean
    return mean, factors[0] ** 2 * first_variance + (factors[1:] ** 2).sum()


def flow_end(schedule, timesteps):
    """The standard deviation that the exact ODE and a last step to x̂_0 end in."""
    a, s = (level[len(timesteps) - 1] for level in schedule.levels(timesteps))
    return a * VARIANCE / np.sqrt(a * a * VARIANCE + s * s)


# Laws


@pytest.mark.parametrize(
    ("sampler", "options", "steps", "tolerance"),
    [
        ("ddpm", {}, 100, 0.19),
        ("ddpm", {"variance": "beta"}, 100, 0.19),
        ("ddim", {}, 100, 0.09),
        ("ddim", {"eta": 0.5}, 100, 0.12),
        ("euler", {}, 100, 0.09),
        ("euler_ancestral", {}, 100, 0.19),
        ("heun", {}, 50, 0.015),
        ("dpm++", {}, 100, 0.065),
    ],
)
@pytest.mark.parametrize("schedule", [LINEAR, EDM], ids=["linear", "edm"])
def test_a_sampler_draws_the_data(schedule, sampler, options, steps, tolerance):
    timesteps = schedule.timesteps(steps, "karras" if schedule is EDM else "linspace")
    mean, variance = law(schedule, timesteps, sampler, **options)
    np.testing.assert_allclose(mean, MEAN, atol=1e-5)
    np.testing.assert_allclose(variance, VARIANCE, rtol=tolerance)


@pytest.mark.parametrize(
    ("sampler", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm++", 2)]
)
def test_deterministic_samplers_converge_with_their_order(sampler, order):
    errors = []
    for steps in (16, 32, 64):
        timesteps = EDM.timesteps(steps)
        deviation = np.sqrt(law(EDM, timesteps, sampler)[1])
        errors.append(abs(deviation / flow_end(EDM, timesteps) - 1))
    ratios = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(ratios, order, atol=0.45)


def test_stochastic_samplers_converge():
    errors = [abs(law(EDM, EDM.timesteps(n), "euler_ancestral")[1] - VARIANCE) for n in (32, 128)]
    assert errors[1] < errors[0] / 3


def test_churn_keeps_the_law():
    options = {"churn": 20.0, "churn_range": (0.05, 10.0)}
    for sampler, ratio in [("euler", 1.8), ("heun", 3.8)]:
        laws = [law(EDM, EDM.timesteps(n), sampler, **options) for n in (50, 100)]
        np.testing.assert_allclose([mean for mean, _ in laws], MEAN, atol=1e-5)
        errors = [abs(variance / VARIANCE - 1) for _, variance in laws]
        assert errors[1] < errors[0] / ratio**0.95 < 0.15
    still = diffusion.heun_coefficients(EDM, EDM.timesteps(10), churn=20.0, churn_range=(1.0, 2.0))
    moved = np.abs(np.exp(4 * still.timesteps[::2]) / EDM.levels(EDM.timesteps(10))[1][:-1] - 1)
    inside = EDM.levels(EDM.timesteps(10))[1][:-1]
    np.testing.assert_allclose(moved, 0.41421356 * ((inside >= 1) & (inside <= 2)), atol=1e-7)


# Numbers


def test_ddim_has_its_known_variances():
    for pair, value in [((420, 400), 0.14771), ((980, 960), 0.32460)]:
        rows = diffusion.ddim_coefficients(LINEAR, np.array(pair), eta=1.0)
        np.testing.assert_allclose(rows.scale[0] ** 2, value, atol=1e-5)
        half = diffusion.ddim_coefficients(LINEAR, np.array(pair), eta=0.5)
        np.testing.assert_allclose(half.scale[0], rows.scale[0] / 2, rtol=1e-12)


def test_ddpm_is_the_papers_posterior_at_each_step():
    timesteps = np.arange(1000)[::-1]
    rows = diffusion.ddpm_coefficients(LINEAR, timesteps)
    np.testing.assert_allclose(
        rows.scale**2, numpy(LINEAR.posterior_variance(timesteps)), rtol=1e-5, atol=1e-12
    )
    alphas = LINEAR._alphas
    before = np.append(1.0, alphas[:-1])
    beta = 1 - alphas / before
    data = np.sqrt(before) * beta / (1 - alphas)
    keep = np.sqrt(1 - beta) * (1 - before) / (1 - alphas)
    np.testing.assert_allclose(rows.data, data[::-1], rtol=1e-9)
    np.testing.assert_allclose(rows.keep, keep[::-1], rtol=1e-9, atol=1e-15)
    large = diffusion.ddpm_coefficients(LINEAR, timesteps, variance="beta")
    np.testing.assert_allclose(large.scale[:-1] ** 2, beta[::-1][:-1], rtol=1e-9)
    assert large.scale[-1] == rows.scale[-1] == 0


@pytest.mark.parametrize("schedule", [LINEAR, EDM], ids=["linear", "edm"])
def test_ddim_is_euler_and_eta_one_is_euler_ancestral(schedule):
    timesteps = schedule.timesteps(7)
    ours, euler = (
        diffusion.ddim_coefficients(schedule, timesteps),
        diffusion.euler_coefficients(schedule, timesteps),
    )
    for name in ("keep", "data", "scale"):
        np.testing.assert_allclose(getattr(ours, name), getattr(euler, name), atol=1e-12)
    a, s = schedule.levels(timesteps)
    sigma, after = s[:-1] / a[:-1], s[1:] / a[1:]
    up = np.sqrt(after**2 * (sigma**2 - after**2) / sigma**2)
    down = np.sqrt(after**2 - up**2)
    rows = diffusion.ddim_coefficients(schedule, timesteps, eta=1.0)
    np.testing.assert_allclose(rows.scale, a[1:] * up, atol=1e-12)
    np.testing.assert_allclose(rows.keep, a[1:] * down / sigma / a[:-1], atol=1e-12)
    np.testing.assert_allclose(rows.data, a[1:] * (1 - down / sigma), atol=1e-12)


def reference_heun(denoise, x, sigmas):
    """2206.00364 algorithm 1 as printed."""
    for sigma, after in zip(sigmas, np.append(sigmas[1:], 0), strict=True):
        slope = (x - denoise(x, sigma)) / sigma
        stepped = x + (after - sigma) * slope
        if after:
            slope = (slope + (stepped - denoise(stepped, after)) / after) / 2
            stepped = x + (after - sigma) * slope
        x = stepped
    return x


def reference_dpm_solver(denoise, x, sigmas):
    """2211.01095 algorithm 2 for a = 1, in λ = -ln σ."""
    before = None
    for i, sigma in enumerate(sigmas):
        found = used = denoise(x, sigma)
        if i == len(sigmas) - 1:
            return found
        h = np.log(sigma / sigmas[i + 1])
        if before is not None:
            r = np.log(sigmas[i - 1] / sigma) / h
            used = (1 + 1 / (2 * r)) * found - before / (2 * r)
        x = sigmas[i + 1] / sigma * x - np.expm1(-h) * used
        before = found


@pytest.mark.parametrize(
    ("sampler", "reference"), [("heun", reference_heun), ("dpm++", reference_dpm_solver)]
)
def test_the_rows_are_the_printed_algorithms_on_a_curved_denoiser(sampler, reference):
    timesteps = EDM.timesteps(9)
    x = 20 * RNG.standard_normal((4, 3)).astype("float32")
    exact = reference(lambda x, s: np.tanh(x / (1 + s)), x, np.exp(4 * timesteps))
    found = sample(
        lambda x, t: ops.tanh(x / (1 + EDM.scales(t, x)[1])), x, EDM, timesteps, sampler=sampler
    )
    np.testing.assert_allclose(numpy(found), exact, atol=2e-5)


@pytest.mark.parametrize("schedule", [LINEAR, EDM], ids=["linear", "edm"])
def test_the_probability_flow_samples_as_heun_does_and_encodes_what_it_drew(schedule):
    spacing = "karras" if schedule is EDM else "linspace"
    timesteps = schedule.timesteps(24, spacing)
    a, s = (level[:-1] for level in schedule.levels(timesteps))
    field = diffusion.probability_flow(denoiser(schedule), schedule)
    start = RNG.standard_normal((4, 2)) / a[0] * np.hypot(a[0], s[0])
    drawn = integrate(field, start.astype("float32"), times=s / a, solver="heun")
    last = denoiser(schedule)(drawn * float(a[-1]), np.repeat(timesteps[-1:], 4))
    heun = diffusion.heun(denoiser(schedule), start * a[0], schedule, timesteps)
    np.testing.assert_allclose(numpy(last), numpy(heun), atol=1e-4)
    back = integrate(field, drawn, times=(s / a)[::-1], solver="heun")
    np.testing.assert_allclose(numpy(back), start, rtol=0.1)


@pytest.mark.parametrize("schedule", [LINEAR, EDM], ids=["linear", "edm"])
def test_the_probability_flow_gives_the_likelihood(schedule):
    timesteps = schedule.timesteps(60, "karras" if schedule is EDM else "linspace")[::-1]
    a, s = (level[:-1] for level in schedule.levels(timesteps))
    sigmas = s / a
    variance = sigmas[-1] ** 2 + VARIANCE
    x = (MEAN + 0.4 * RNG.standard_normal((3, 2))).astype("float32")
    found, _ = log_likelihood(
        diffusion.probability_flow(denoiser(schedule), schedule),
        x,
        times=sigmas,
        solver="heun",
        base_log_prob=lambda z: log_normal(z, MEAN, np.log(variance)),
    )
    first = VARIANCE + sigmas[0] ** 2
    exact = -0.5 * ((x - MEAN) ** 2 / first + np.log(2 * np.pi * first)).sum(1)
    np.testing.assert_allclose(numpy(found), exact, atol=0.04)


# Edges


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pure_noise_is_a_start_like_any_other(sampler):
    schedule = NoiseSchedule("linear", 100, zero_terminal_snr=True)
    mean, variance = law(schedule, schedule.timesteps(100), sampler)
    np.testing.assert_allclose(mean, MEAN, atol=0.02)
    np.testing.assert_allclose(variance, VARIANCE, rtol=0.2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_gives_what_the_denoiser_says(sampler):
    x = RNG.standard_normal((3, 2)).astype("float32")
    options = {"noise": np.ones((1, 3, 2))} if SAMPLERS[sampler].stochastic else {}
    found = sample(denoiser(LINEAR), x, LINEAR, LINEAR.timesteps(1), sampler=sampler, **options)
    exact = numpy(denoiser(LINEAR)(ops.convert_to_tensor(x), np.full(3, 999)))
    np.testing.assert_allclose(numpy(found), exact, rtol=1e-5)


def test_clipping_bounds_the_data_and_recomputes_the_noise():
    timesteps, x = LINEAR.timesteps(2), np.array([[2.0], [-1.0]], "float32")
    found = numpy(diffusion.ddim(lambda x, t: 5 * x, x, LINEAR, timesteps, clip=(-1.0, 1.0)))
    (a, b, _), (s, r, _) = LINEAR.levels(timesteps)
    start = np.clip(5 * x, -1, 1)
    second = b * start + r * (x - a * start) / s
    np.testing.assert_allclose(found, np.clip(5 * second, -1, 1), rtol=1e-5)
    np.testing.assert_allclose(abs(found), 1)


def test_the_network_is_asked_at_the_timesteps_with_one_per_example():
    asked = []

    def denoise(x, t):
        asked.append((tuple(t.shape), str(t.dtype)))
        return 0.5 * x

    diffusion.heun(denoise, np.ones((5, 2)), LINEAR, LINEAR.timesteps(3))
    assert {shape for shape, _ in asked} == {(5,)} and "int32" in asked[0][1]
    np.testing.assert_array_equal(
        diffusion.heun_coefficients(LINEAR, LINEAR.timesteps(3)).timesteps,
        [999, 666, 666, 332, 332],
    )


@pytest.mark.backends("jax")
def test_a_sampler_is_one_compiled_program():
    import jax

    x, noise = RNG.standard_normal((3, 2)), RNG.standard_normal((10, 3, 2))

    def samples(x, noise):
        return diffusion.ddpm(denoiser(LINEAR), x, LINEAR, LINEAR.timesteps(10), noise=noise)

    program = jax.jit(samples).lower(x, noise).as_text()
    assert program.count("stablehlo.while") == 1
    np.testing.assert_allclose(jax.jit(samples)(x, noise), samples(x, noise), rtol=1e-5)


# Guidance and inpainting


def test_guidance_is_linear_between_and_beyond():
    u, c = RNG.standard_normal((2, 3, 4)).astype("float32")
    np.testing.assert_allclose(numpy(diffusion.guidance(u, c, 1.0)), c, atol=1e-6)
    np.testing.assert_allclose(numpy(diffusion.guidance(u, c, 0.0)), u, atol=1e-6)
    np.testing.assert_allclose(numpy(diffusion.guidance(u, c, 3.0)), u + 3 * (c - u), atol=1e-5)


def test_rescaled_guidance_has_the_spread_of_the_conditional_prediction():
    u, c = RNG.standard_normal((2, 3, 4, 4)).astype("float32")
    full = numpy(diffusion.guidance(u, c, 7.0, rescale=1.0))
    np.testing.assert_allclose(full.std((1, 2)), c.std((1, 2)), rtol=1e-5)
    plain = numpy(diffusion.guidance(u, c, 7.0))
    half = numpy(diffusion.guidance(u, c, 7.0, rescale=0.7))
    np.testing.assert_allclose(half, 0.7 * full + 0.3 * plain, atol=1e-5)


def test_inpainting_keeps_what_is_known_and_draws_the_rest_to_fit():
    # Two values of variance 1 and correlation .9: knowing one moves the other towards .9 of it.

    def denoise(x, t):
        _, s = EDM.scales(t, x)
        # E[x_0|x_t] in the covariance's own axes, (1, 1) and (1, -1).
        total, gap = x[:, :1] + x[:, 1:], x[:, :1] - x[:, 1:]
        total, gap = total * 1.9 / (1.9 + s * s), gap * 0.1 / (0.1 + s * s)
        return ops.concatenate([total + gap, total - gap], axis=1) / 2

    known = np.array([[1.5, 0.0]], "float32")
    inside = diffusion.inpainted(denoise, known, np.array([[True, False]]))
    x = (20 * RNG.standard_normal((64, 2))).astype("float32")
    noise = RNG.standard_normal((100, 64, 2)).astype("float32")
    found = numpy(diffusion.euler_ancestral(inside, x, EDM, EDM.timesteps(100), noise=noise))
    np.testing.assert_allclose(found[:, 0], 1.5, rtol=1e-6)
    assert 0.6 < found[:, 1].mean() < 1.5  # without the mask it is 0


def test_between_two_draws_of_noise_the_length_stays():
    start, end = np.eye(3, dtype="float32")[:2] * 2
    for share in (0.0, 0.25, 1.0):
        found = numpy(diffusion.slerp(start[None], end[None], share))[0]
        angle = share * np.pi / 2
        np.testing.assert_allclose(
            found, 2 * np.array([np.cos(angle), np.sin(angle), 0]), atol=1e-6
        )
    np.testing.assert_allclose(numpy(diffusion.slerp(start[None], start[None], 0.3))[0], start)


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, x: sample(d, x, LINEAR, [9], sampler="ddmi"), "'ddim'"),
        (lambda d, x: diffusion.ddpm(d, x, LINEAR, [9, 5], noise=None), "needs `noise`"),
        (lambda d, x: diffusion.ddim(d, x, LINEAR, [9, 5], noise=np.ones((2, 2, 1))), "eta"),
        (lambda d, x: diffusion.ddpm(d, x, LINEAR, [9, 5], noise=np.ones((2, 3, 1))), "shape"),
        (lambda d, x: diffusion.ddpm(d, x, LINEAR, [9, 5], noise=np.ones((1, 2, 1))), "2 arrays"),
        (lambda d, x: diffusion.ddim(d, x, LINEAR, [9], eta=2.0), "eta"),
        (lambda d, x: diffusion.heun(d, x, LINEAR, [9], churn=1.0, noise=x), "EDM's"),
        (lambda d, x: diffusion.ddim(d, x, LINEAR, [1000]), r"\[0, 1000\)"),
        (lambda d, x: diffusion.ddpm(d, x, LINEAR, [9], variance="large", noise=x), "posterior"),
    ],
)
def test_what_a_sampler_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(denoiser(LINEAR), np.ones((2, 1), "float32"))
