"""Schedules against their papers' formulas, conversions against each other."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import input_gradient
from artifex_keras.samplers import noise_schedules
from artifex_keras.samplers.noise_levels import sigmoid_alphas
from artifex_keras.samplers.noise_schedules import EDMSchedule, NoiseSchedule, noise_schedule

DISCRETE = ("linear", "scaled_linear", "cosine", "sigmoid")
SCHEDULES = {name: noise_schedule(name) for name in (*DISCRETE, "edm")} | {
    "zero-terminal": NoiseSchedule("scaled_linear", 1000, zero_terminal_snr=True)
}


@pytest.fixture(autouse=True)
def draws():
    """The same draws for a test, alone or among others."""
    global RNG
    RNG = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x)


def steps(schedule):
    """A few timesteps of a schedule, from little noise to much."""
    if isinstance(schedule, EDMSchedule):
        return np.log(np.array([0.002, 0.1, 1.0, 80.0])) / 4
    return np.array([0, 1, 500, schedule.num_timesteps - 1])


# Levels


def test_linear_and_scaled_linear_have_the_papers_betas():
    betas = [1 - SCHEDULES[n]._alphas[1:] / SCHEDULES[n]._alphas[:-1] for n in DISCRETE[:2]]
    np.testing.assert_allclose(betas[0], np.linspace(1e-4, 2e-2, 1000)[1:], rtol=1e-9)
    np.testing.assert_allclose(betas[1], np.linspace(1e-2, 2e-2**0.5, 1000)[1:] ** 2, rtol=1e-9)
    np.testing.assert_allclose(float(SCHEDULES["linear"].alphas_cumprod[-1]), 4.035830e-5, 1e-5)
    short = NoiseSchedule("scaled_linear", 10, beta_start=0.00085, beta_end=0.012)
    np.testing.assert_allclose(1 - float(short.alphas_cumprod[0]), 0.00085, rtol=1e-4)


def test_cosine_is_the_papers_curve_and_never_reaches_zero():
    def curve(t):
        return np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2

    alphas = SCHEDULES["cosine"]._alphas
    t = np.arange(998)
    np.testing.assert_allclose(alphas[t], curve(t + 1) / curve(0), rtol=1e-9)
    np.testing.assert_allclose(alphas[999] / alphas[998], 1e-3, rtol=1e-9)


@pytest.mark.parametrize(
    "options", [{"end": 1e3}, {"start": -1e3, "end": 1e3}, {"temperature": 1e-3}]
)
def test_a_sigmoid_that_is_a_step_has_finite_levels_and_makes_no_schedule(options):
    """Its curve comes to 0 before the end; the ratios behind were 0/0."""
    alphas = sigmoid_alphas(1000, **options)
    assert np.isfinite(alphas).all() and (np.diff(alphas) <= 0).all() and alphas[-1] == 0
    with pytest.raises(ValueError, match="'sigmoid' must fall from step to step.*too extreme"):
        NoiseSchedule("sigmoid", 1000, **options)


def test_a_linear_schedule_of_too_many_steps_is_refused():
    """Its last ᾱ, exp(-1000), are 0 in float64."""
    with pytest.raises(ValueError, match="'linear' must fall from step to step"):
        NoiseSchedule("linear", 100_000)



def test_sigmoid_is_the_papers_curve():
    # 2301.10972, in its own form: γ(t) = (σ(e) - σ(t(e-s)+s)) / (σ(e) - σ(s)).
    def logistic(x):
        return 1 / (1 + np.exp(-x))

    schedule = NoiseSchedule("sigmoid", 100, start=-2.0, end=3.0, temperature=0.7)
    t = np.arange(1, 99) / 100
    curve = logistic(3 / 0.7) - logistic((5 * t - 2) / 0.7)
    curve /= logistic(3 / 0.7) - logistic(-2 / 0.7)
    np.testing.assert_allclose(schedule._alphas[:98], curve, rtol=1e-9)
    np.testing.assert_allclose(SCHEDULES["sigmoid"]._alphas[499], 0.5, rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_only_grows_and_its_three_forms_agree(name):
    schedule = SCHEDULES[name]
    alphas = numpy(schedule.alphas_cumprod)
    assert alphas.shape == (1000,) and alphas.dtype == "float32"
    assert (np.diff(alphas) < 0).all() and alphas[0] <= 1 and alphas[-1] >= 0
    t = steps(schedule)
    a, s = (numpy(part).astype("float64") for part in schedule.scales(t))
    np.testing.assert_allclose(numpy(schedule.snr(t)), a**2 / s**2, rtol=1e-5)
    if name != "edm":
        np.testing.assert_allclose(a**2 + s**2, 1, rtol=1e-6)
        np.testing.assert_allclose(a**2, alphas[t], rtol=1e-6)


def test_snr_keeps_the_digits_that_float32_would_lose_at_little_noise():
    # 1 - ᾱ in float32 has three digits left at β = 1e-4.
    ratio = float(SCHEDULES["linear"].snr([0])[0])
    np.testing.assert_allclose(ratio, 0.9999 / 1e-4, rtol=1e-6)


def test_zero_terminal_ends_in_pure_noise_and_keeps_the_first_level():
    plain, zero = SCHEDULES["scaled_linear"], SCHEDULES["zero-terminal"]
    assert float(zero.snr([999])[0]) == 0 == float(zero.alphas_cumprod[-1])
    np.testing.assert_allclose(zero._signal[0], plain._signal[0], rtol=1e-14)
    root = np.sqrt(plain._alphas)
    stretched = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose(zero._signal, stretched, atol=1e-15)


def test_posterior_variance_is_the_known_one():
    variance = numpy(SCHEDULES["linear"].posterior_variance([0, 487, 999]))
    np.testing.assert_allclose(variance, [0, 0.00979, 0.02], atol=5e-6)


def test_karras_levels_are_equally_spaced_in_their_root():
    sigmas = noise_schedules.karras_sigmas(18)
    assert sigmas[0] == pytest.approx(80) and sigmas[-1] == pytest.approx(0.002)
    np.testing.assert_allclose(np.diff(sigmas ** (1 / 7), 2), 0, atol=1e-12)
    # The first three of 2206.00364's 18 steps.
    np.testing.assert_allclose(sigmas[:3], [80.0, 57.58598, 40.78557], rtol=1e-6)


# Noising and predictions


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_is_added_by_example(name):
    schedule = SCHEDULES[name]
    t = steps(schedule)
    x, noise = RNG.standard_normal((2, 4, 3, 2)).astype("float32")
    a, s = (numpy(part)[:, None, None] for part in schedule.scales(t))
    np.testing.assert_allclose(
        numpy(schedule.add_noise(x, noise, t)), a * x + s * noise, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", noise_schedules.PREDICTION_TYPES)
def test_each_prediction_gives_back_the_data_the_noise_and_the_velocity(name, kind):
    schedule = SCHEDULES[name]
    if (name, kind) == ("zero-terminal", "epsilon"):
        pytest.skip("refused")
    t = steps(schedule)[1:-1]
    x, noise = RNG.standard_normal((2, 2, 5)).astype("float32")
    x_t = schedule.add_noise(x, noise, t)
    found = schedule.x_start(schedule.target(x, noise, t, kind), x_t, t, kind)
    np.testing.assert_allclose(numpy(found), x, atol=2e-4)
    a, s = (numpy(part)[:, None] for part in schedule.scales(t))
    atol = 1e-5 / s.min()  # x_t carries the noise with s of its digits
    np.testing.assert_allclose(numpy(schedule.noise(x, x_t, t)), noise, atol=atol)
    velocity = (a * noise - s * x) / np.sqrt(a**2 + s**2)
    np.testing.assert_allclose(numpy(schedule.velocity(x, x_t, t)), velocity, atol=atol)
    if kind == "v_prediction":
        target = numpy(schedule.target(x, noise, t, kind))
        np.testing.assert_allclose(target, velocity, rtol=1e-4, atol=1e-6)


def test_velocity_is_the_papers_where_the_variance_is_kept():
    schedule, t = SCHEDULES["cosine"], np.array([300])
    x, noise = RNG.standard_normal((2, 1, 4)).astype("float32")
    alpha = schedule._alphas[300]
    v = numpy(schedule.target(x, noise, t, "v_prediction"))
    np.testing.assert_allclose(v, alpha**0.5 * noise - (1 - alpha) ** 0.5 * x, rtol=1e-5)


def test_the_last_level_of_zero_terminal_snr_still_gives_the_data():
    schedule, t = SCHEDULES["zero-terminal"], np.array([999])
    x, noise = RNG.standard_normal((2, 1, 4)).astype("float32")
    x_t = schedule.add_noise(x, noise, t)
    np.testing.assert_array_equal(numpy(x_t), noise)
    v = schedule.target(x, noise, t, "v_prediction")
    np.testing.assert_allclose(numpy(schedule.x_start(v, x_t, t, "v_prediction")), x, atol=1e-6)


def test_a_gradient_passes_through_the_noising():
    schedule, t = SCHEDULES["linear"], np.array([10, 700])
    x = ops.convert_to_tensor(RNG.standard_normal((2, 3)).astype("float32"))
    slope = input_gradient(lambda x: schedule.add_noise(x, ops.zeros_like(x), t), x)
    a = np.sqrt(schedule._alphas[t])[:, None] * np.ones((2, 3))
    np.testing.assert_allclose(numpy(slope), a, rtol=1e-6)


# Timesteps


def test_spacings():
    schedule = SCHEDULES["linear"]
    spaced = {name: schedule.timesteps(5, name) for name in noise_schedules.TIMESTEP_SPACINGS}
    np.testing.assert_array_equal(spaced["leading"], [800, 600, 400, 200, 0])
    np.testing.assert_array_equal(spaced["linspace"], [999, 749, 500, 250, 0])
    np.testing.assert_array_equal(spaced["trailing"], [999, 799, 599, 399, 199])
    np.testing.assert_array_equal(schedule.timesteps(5), spaced["trailing"])
    for name in spaced:
        np.testing.assert_array_equal(schedule.timesteps(1000, name), np.arange(1000)[::-1])
        odd = schedule.timesteps(7, name)
        assert odd.min() >= 0 and odd.max() < 1000 and (np.diff(odd) < 0).all()


def test_a_share_of_the_levels_becomes_a_timestep():
    t = numpy(SCHEDULES["linear"].timestep([0.0, 0.0009, 0.0011, 0.5, 1.0]))
    np.testing.assert_array_equal(t, [0, 0, 1, 500, 999])
    log_sigma = 4 * numpy(SCHEDULES["edm"].timestep([0.0, 0.158655, 0.5, 0.841345, 1.0]))
    np.testing.assert_allclose(log_sigma[1:4], [-2.4, -1.2, 0.0], atol=1e-4)
    assert np.isfinite(log_sigma).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_ratio_of_noise_to_data_is_found_again(name):
    schedule = SCHEDULES[name]
    t = schedule.timesteps(40)[1:]
    a, s = (level[:-1] for level in schedule.levels(t))
    found = numpy(schedule.timestep_at((s / a).astype("float32")))
    np.testing.assert_allclose(found, t, atol=0 if found.dtype == "int32" else 1e-6)


def test_levels_end_in_clean_data():
    for schedule in SCHEDULES.values():
        a, s = schedule.levels(schedule.timesteps(6))
        assert a.shape == s.shape == (7,) and (a[-1], s[-1]) == (1, 0)
        assert (np.diff(s / np.maximum(a, 1e-9)) < 0).all()
        found = schedule.scales(schedule.timesteps(6))
        np.testing.assert_allclose(numpy(found[0]), a[:-1], rtol=1e-6)
        np.testing.assert_allclose(numpy(found[1]), s[:-1], rtol=2e-5)


def test_edm_lists_its_levels_by_rising_noise():
    schedule = EDMSchedule(18)
    sigmas = np.sqrt(1 / schedule._alphas - 1)
    np.testing.assert_allclose(sigmas, noise_schedules.karras_sigmas(18)[::-1], rtol=1e-9)
    assert numpy(schedule.scales([np.log(3.0) / 4])[1])[0] == pytest.approx(3)


# Saving and refusals


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule("cosine", 20, offset=0.01),
        NoiseSchedule("linear", 30, zero_terminal_snr=True),
        NoiseSchedule([0.9, 0.5, 0.1]),
        EDMSchedule(40, sigma_max=50.0, sigma_data=1.0),
    ],
)
def test_a_schedule_survives_saving(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(schedule) and copy.get_config() == schedule.get_config()
    np.testing.assert_array_equal(copy._noise, schedule._noise)
    np.testing.assert_array_equal(copy._signal, schedule._signal)
    assert noise_schedule(copy) is copy


def test_a_table_may_be_given():
    schedule = NoiseSchedule([0.9, 0.5, 0.1])
    assert schedule.num_timesteps == 3
    np.testing.assert_allclose(numpy(schedule.snr([0, 1, 2])), [9, 1, 1 / 9], rtol=1e-6)


@pytest.mark.parametrize("t", [[-1], [1000], 1000, [0, 5000]])
def test_a_timestep_out_of_range_is_refused(t):
    x = np.zeros((np.size(t), 2))
    with pytest.raises(ValueError, match=r"\[0, 1000\)"):
        SCHEDULES["linear"].add_noise(x, x, np.array(t))
    with pytest.raises(ValueError, match=r"\[0, 1000\)"):
        SCHEDULES["linear"].snr(ops.convert_to_tensor(t))


def test_predicting_the_noise_of_pure_noise_is_refused():
    x = np.zeros((1, 2))
    for call in (SCHEDULES["zero-terminal"].target, SCHEDULES["zero-terminal"].x_start):
        with pytest.raises(ValueError, match="v_prediction"):
            call(x, x, [3], "epsilon")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NoiseSchedule("cosin"), "'cosine'"),
        (lambda: noise_schedule("cosin"), "'cosine'"),
        (lambda: NoiseSchedule("edm"), "EDMSchedule"),
        (lambda: NoiseSchedule("linear", 0.5), "num_timesteps"),
        (lambda: NoiseSchedule([0.5, 0.6]), "falling"),
        (lambda: NoiseSchedule([0.6, 0.5], beta_end=1), "no options"),
        (lambda: EDMSchedule(sigma_min=0.0), "sigma_min"),
        (lambda: EDMSchedule().timesteps(5, "trailing"), "karras"),
        (lambda: EDMSchedule().snr([np.inf]), "finite"),
        (lambda: EDMSchedule().posterior_variance([0.0]), "continuous"),
        (lambda: SCHEDULES["linear"].timesteps(0), "num_steps"),
        (lambda: SCHEDULES["linear"].timesteps(1001), "num_steps"),
        (lambda: SCHEDULES["linear"].timesteps(5, "trail"), "'trailing'"),
        (lambda: SCHEDULES["linear"].prediction("v"), "v_prediction"),
    ],
)
def test_what_a_schedule_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.backends("jax")
def test_a_schedule_works_inside_a_compiled_function():
    import jax

    x, noise = RNG.standard_normal((2, 3, 2)).astype("float32")
    t = np.array([0, 500, 999])
    for name in ("linear", "edm"):
        t = steps(SCHEDULES[name])[:3]
        inside = jax.jit(SCHEDULES[name].add_noise)(x, noise, t)
        outside = SCHEDULES[name].add_noise(x, noise, t)
        np.testing.assert_allclose(numpy(inside), numpy(outside), rtol=1e-5)
