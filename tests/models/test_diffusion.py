"""Diffusion: what it trains and draws, in closed form where the data are Gaussian."""

import keras
import numpy as np
import pytest
from distances import mode_shares, ring_centres, sliced_wasserstein
from keras import ops

from artifex_keras.datasets.toys import ring
from artifex_keras.models import Diffusion
from artifex_keras.networks import timed_mlp
from artifex_keras.objectives.diffusion import edm_preconditioning
from artifex_keras.samplers.coefficients import (
    ddim_coefficients,
    ddpm_coefficients,
    dpm_solver_coefficients,
    euler_coefficients,
    heun_coefficients,
)
from artifex_keras.samplers.diffusion import SAMPLERS
from artifex_keras.samplers.noise_schedules import PREDICTION_TYPES, EDMSchedule, NoiseSchedule

MEAN, VARIANCE = 0.7, 0.3**2
EDM = EDMSchedule(sigma_max=20.0)
COSINE = NoiseSchedule("cosine", 1000)
LINEAR = NoiseSchedule("linear", 200, beta_end=0.1)
KINDS = [
    (LINEAR, "epsilon"),
    (LINEAR, "v_prediction"),
    (LINEAR, "x_start"),
    (EDM, "epsilon"),
]
IDS = ["epsilon", "v", "x0", "edm"]


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


class Exact(keras.Model):
    """The best answer there is for data from N(MEAN, VARIANCE)."""

    def __init__(self, schedule, prediction_type="epsilon"):
        super().__init__()
        self.schedule, self.prediction_type = schedule, prediction_type

    def call(self, inputs):
        x, t = inputs
        a, s = self.schedule.scales(t, x)
        if isinstance(self.schedule, EDMSchedule):
            scaling = edm_preconditioning(s, self.schedule.sigma_data)
            x = x / scaling.c_in
        x_start = MEAN + a * VARIANCE / (a * a * VARIANCE + s * s) * (x - a * MEAN)
        if isinstance(self.schedule, EDMSchedule):
            return (x_start - scaling.c_skip * x) / scaling.c_out
        noise = (x - a * x_start) / s
        return {"epsilon": noise, "v_prediction": a * noise - s * x_start, "x_start": x_start}[
            self.prediction_type
        ]


def exact(schedule, kind="epsilon", width=1, **options):
    return Diffusion(
        Exact(schedule, kind),
        noise_schedule=schedule,
        num_timesteps=schedule.num_timesteps,
        prediction_type=kind,
        input_shape=(width,),
        ema_decay=None,
        **options,
    )


def small(**options):
    network = options.pop("network", None) or timed_mlp((6,), (8,))
    return Diffusion(network, **{"num_timesteps": 60, "seed": 0, **options})


def points(rows, width=6):
    return np.random.default_rng(3).standard_normal((rows, width)).astype("float32")


def randomised(model, scale=0.3):
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(0, scale, weight.shape))
    return model


# Samples


def unit_draws(model, steps):
    """Lets the model draw unit vectors: samples are affine in them, and give their factors."""

    def normal(shape, rows=0):
        draws = np.zeros(shape, "float32")
        if len(shape) == 2:
            draws[1] = 1
        else:
            draws[:, 2:, 0] = np.eye(steps)
        return ops.convert_to_tensor(draws)

    model.normal = normal


FEW_STEPS = {  # the largest relative error of the standard deviation at 5, 10, 20 and 50 steps
    "ddpm": (0.51, 0.34, 0.22, 0.12),
    "ddim": (0.48, 0.27, 0.14, 0.06),
    "euler": (0.48, 0.27, 0.14, 0.06),
    "heun": (0.38, 0.14, 0.05, 0.015),
    "dpm++": (0.47, 0.2, 0.06, 0.012),
}
FEW_STEPS_TABLES = {
    "ddpm": ddpm_coefficients,
    "ddim": ddim_coefficients,
    "euler": euler_coefficients,
    "heun": heun_coefficients,
    "dpm++": dpm_solver_coefficients,
}
ALL_SCHEDULES = {
    **{
        name: NoiseSchedule(name, 1000) for name in ("linear", "scaled_linear", "cosine", "sigmoid")
    },
    "cosine to pure noise": NoiseSchedule("cosine", 1000, zero_terminal_snr=True),
    "linear to pure noise": NoiseSchedule("linear", 1000, zero_terminal_snr=True),
    "short cosine": NoiseSchedule("cosine", 60),
    "edm": EDMSchedule(),
}


def exact_law(coefficients, schedule, mean, variance):
    """Mean and standard deviation of what a table draws of N(mean, variance), in float64."""
    draws = coefficients.draw.max() + 1
    state, before = np.zeros(2 + draws), np.zeros(2 + draws)  # factors of 1, the start, the draws
    state[1] = schedule.levels(coefficients.timesteps[:1])[1][0]
    for i, t in enumerate(coefficients.timesteps):
        a, s = (level[0] for level in schedule.levels(np.array([t])))
        gain = a * variance / (a * a * variance + s * s)
        x_start = gain * state
        x_start[0] += mean - gain * a * mean
        state = (
            coefficients.keep[i] * state
            + coefficients.data[i] * x_start
            + coefficients.previous[i] * before
        )
        state[2 + coefficients.draw[i]] += coefficients.scale[i]
        before = x_start
    return state[0], np.sqrt(np.sum(state[1:] ** 2))


@pytest.mark.parametrize("sampler", FEW_STEPS)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name, schedule in ALL_SCHEDULES.items()
        for kind in PREDICTION_TYPES
        if kind == "epsilon" or not isinstance(schedule, EDMSchedule)
        if kind != "epsilon" or "pure noise" not in name
    ],
)
def test_few_steps_draw_a_gaussian_roughly(name, kind, sampler):
    schedule, edm = ALL_SCHEDULES[name], name == "edm"
    model = exact(schedule, kind)
    table = FEW_STEPS_TABLES[sampler]
    for steps, tolerance in zip((5, 10, 20, 50), FEW_STEPS[sampler], strict=True):
        timesteps = model.sampling_timesteps(steps)
        mean, deviation = exact_law(table(schedule, timesteps), schedule, MEAN, 0.25)
        # EDM's few levels lie far apart where the noise is about as wide as the data.
        wider = {5: 4, 10: 2, 20: 1.4}.get(steps, 1) if edm else 1
        assert mean == pytest.approx(MEAN, abs=0.02)
        assert deviation == pytest.approx(0.5, rel=tolerance * wider)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_heun_from_almost_pure_noise_stays_sane(kind):
    model = exact(COSINE, kind)
    unit_draws(model, 10)
    out = numpy(model.sample(12, 10, "heun"))[:, 0]
    assert out[0] == pytest.approx(MEAN, abs=5e-3)
    assert out[1] - out[0] == pytest.approx(np.sqrt(VARIANCE), rel=0.12)


@pytest.mark.parametrize(
    ("sampler", "options", "tolerance"),
    [
        ("ddpm", {}, 0.19),
        ("ddim", {}, 0.09),
        ("ddim", {"eta": 0.5}, 0.13),
        ("euler_ancestral", {}, 0.19),
        ("heun", {}, 0.02),
        ("dpm++", {}, 0.07),
    ],
)
@pytest.mark.parametrize(("schedule", "kind"), KINDS, ids=IDS)
def test_the_exact_network_draws_the_data(schedule, kind, sampler, options, tolerance):
    model = exact(schedule, kind)
    unit_draws(model, 100)
    spacing = "linspace" if schedule is LINEAR else None
    out = numpy(model.sample(102, 100, sampler, spacing=spacing, **options))[:, 0]
    factors = (out[1:] - out[0]).astype("float64")
    # From N(0, s²) in the place of the last level's own law, whose mean is a MEAN.
    assert out[0] == pytest.approx(MEAN, abs=0.02)
    assert np.sum(factors**2) == pytest.approx(VARIANCE, rel=tolerance)


@pytest.mark.parametrize(("schedule", "kind"), KINDS, ids=IDS)
def test_every_parametrisation_has_the_same_denoiser(schedule, kind):
    model = exact(schedule, kind, 3)
    t = [3, 150] if schedule is LINEAR else [-1.2, 0.3]
    x = model.noise(points(2, 3), t, noise=points(2, 3)[::-1])
    a, s = (numpy(part) for part in schedule.scales(t, x))
    expected = MEAN + a * VARIANCE / (a * a * VARIANCE + s * s) * (numpy(x) - a * MEAN)
    np.testing.assert_allclose(numpy(model.denoise(x, t)), expected, rtol=2e-5, atol=2e-5)


def test_a_sample_repeats_with_its_seed_and_goes_on_without():
    model = small()
    first = numpy(model.sample(3, 5, seed=4))
    np.testing.assert_array_equal(first, numpy(model.sample(3, 5, seed=4)))
    assert np.any(numpy(model.sample(3, 5)) != numpy(model.sample(3, 5)))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clipped_samples_stay_in_range(sampler):
    out = numpy(randomised(small()).sample(20, 10, sampler, clip=(-0.5, 0.5), seed=1))
    assert np.abs(out).max() <= 0.5 + 1e-6


def test_the_way_from_noise_ends_at_the_sample():
    model = randomised(small())
    way = numpy(model.denoising(3, 4, 10, seed=5))
    assert way.shape == (4, 3, 6)
    end = numpy(model.sample(3, 10, "ddim", seed=5))
    np.testing.assert_allclose(way[-1], end, rtol=1e-4, atol=1e-4)
    first = model.sampling_timesteps(10)[0]
    start = numpy(model.noise(np.zeros((3, 6)), int(first), seed=5))
    np.testing.assert_allclose(way[0], start, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "spacing", "first"),
    [
        # cos²(π/2 (τ + .008)/1.008) reaches 2e-5 at τ = .9971
        ({}, None, 996),
        ({"prediction_type": "v_prediction"}, None, 999),
        ({}, "trailing", 999),
        ({"noise_schedule": "linear"}, None, 999),
    ],
)
def test_a_sampler_begins_where_the_noise_still_tells_of_the_data(options, spacing, first):
    timesteps = small(**{"num_timesteps": 1000, **options}).sampling_timesteps(50, spacing)
    assert timesteps[0] == first and len(set(timesteps)) == 50 and timesteps.dtype == "int32"


def test_zero_terminal_snr_samples_from_pure_noise():
    model = small(zero_terminal_snr=True, prediction_type="v_prediction")
    assert np.isfinite(numpy(randomised(model).sample(4, 10))).all()
    assert np.isfinite(numpy(model.encode(points(4), 10))).all()


# The objective


@pytest.mark.parametrize(("schedule", "kind"), KINDS[:3], ids=IDS[:3])
def test_the_loss_of_silence_is_the_mean_square_of_the_target(schedule, kind):
    model = small(noise_schedule="linear", prediction_type=kind)
    x = points(5)
    u, noise = np.linspace(0.01, 0.9, 5, dtype="float32"), points(5)[::-1]
    model.uniform = lambda shape, rows=0: ops.convert_to_tensor(u)
    model.normal = lambda shape, rows=0: ops.convert_to_tensor(noise.copy())
    found = numpy(model.objective(model.unpack((x,)), training=True)["loss"])
    alphas = np.cumprod(1 - np.linspace(1e-4, 2e-2, 60))[np.floor(60 * u).astype(int)][:, None]
    target = {
        "epsilon": noise,
        "v_prediction": np.sqrt(alphas) * noise - np.sqrt(1 - alphas) * x,
        "x_start": x,
    }[kind]
    np.testing.assert_allclose(found, np.mean(target**2, axis=1), rtol=1e-5)


def test_the_loss_of_a_silent_edm_network_is_its_targets():
    model = small(noise_schedule="edm", sigma_data=0.7, timestep_sampling="stratified")
    x, noise = points(5), points(5)[::-1].copy()
    model.uniform = lambda shape, rows=0: ops.full(shape, 0.5)
    model.normal = lambda shape, rows=0: ops.convert_to_tensor(noise)
    found = numpy(model.objective(model.unpack((x,)), training=True)["loss"])
    quantiles = np.array([-1.2815516, -0.5244005, 0, 0.5244005, 1.2815516])
    sigma = np.exp(-1.2 + 1.2 * quantiles)[:, None]
    skip = 0.49 / (sigma**2 + 0.49)
    target = (x - skip * (x + sigma * noise)) / (sigma * 0.7 / np.sqrt(sigma**2 + 0.49))
    np.testing.assert_allclose(found, np.mean(target**2, axis=1), rtol=2e-4)


@pytest.mark.parametrize("weighting", ["snr", "min_snr", "edm"])
def test_a_weighting_is_the_same_objective_whatever_is_predicted(weighting):
    """For the same x̂_0, here that of another distribution's exact network."""
    losses = []
    for kind in ("epsilon", "v_prediction", "x_start"):
        model = exact(LINEAR, kind, 6, loss_weighting=weighting, seed=0)
        losses.append(numpy(model.objective(model.unpack((points(8),)), False)["loss"]))
    np.testing.assert_allclose(losses[0], losses[2], rtol=2e-3)
    np.testing.assert_allclose(losses[1], losses[2], rtol=2e-3)


def test_edm_weights_are_those_of_the_clean_data():
    model = exact(EDM, width=6, loss_weighting="min_snr", seed=0)
    terms = model.objective(model.unpack((points(8),)), False)
    u = (np.arange(8) + 0.5) / 8
    t = numpy(model.schedule.timestep(u.astype("float32")))
    sigma = np.exp(4 * t)
    c_out = sigma * 0.5 / np.sqrt(sigma**2 + 0.25)
    np.testing.assert_allclose(
        numpy(model._weight(t)), np.minimum(sigma**-2, 5) * c_out**2, rtol=1e-4
    )
    assert np.all(numpy(terms["loss"]) >= 0)


def test_validation_is_the_same_each_time_and_spread_over_the_levels():
    model = small(timestep_sampling="logit_normal")
    model.compile("adam")
    seen = []
    drawn = model._sampled_timesteps
    model._sampled_timesteps = lambda rows, training: seen.append(drawn(rows, training)) or seen[-1]
    first = model.evaluate(points(20), batch_size=10, verbose=0)
    assert first == model.evaluate(points(20), batch_size=10, verbose=0)
    del model._sampled_timesteps
    model.timestep_sampling = "uniform"
    for training in (False, True):
        t = numpy(model._sampled_timesteps(10, training))
        assert t.dtype.kind == "i"
    t = numpy(model._sampled_timesteps(10, False))
    assert np.all(t // 6 == np.arange(10))


# Conditions and guidance


def labelled(**options):
    return randomised(
        small(network=timed_mlp((6,), (8,), num_classes=3), **{"condition_dropout": 0.3, **options})
    )


def test_guidance_of_one_is_conditional_and_of_zero_unconditional():
    model, x, t = labelled(), points(4), np.full(4, 30)
    labels = np.array([0, 1, 2, 0])
    conditional = numpy(model.denoise(x, t, labels))
    inputs = [x, t, np.full(4, 3)]
    unconditional = numpy(model.schedule.x_start(model.network(inputs), x, t, "epsilon"))
    np.testing.assert_allclose(numpy(model.denoise(x, t, None, 0)), unconditional, rtol=1e-4)
    np.testing.assert_allclose(
        numpy(model.denoise(x, t, labels, 2.5)),
        unconditional + 2.5 * (conditional - unconditional),
        rtol=1e-3,
        atol=1e-4,
    )
    samples = [numpy(model.sample(4, 5, "ddim", w, labels, seed=1)) for w in (1.0, 0.0, 3.0)]
    free = numpy(model.sample(4, 5, "ddim", 0.0, seed=1))
    np.testing.assert_allclose(samples[1], free, atol=1e-5)
    assert np.abs(samples[0] - samples[1]).max() > 1e-3 < np.abs(samples[2] - samples[0]).max()


def test_conditions_are_dropped_at_their_share_and_in_training_only():
    model = labelled()
    labels = ops.zeros((20_000,), "int32")
    with model._in_phase("train"):
        dropped = numpy(model.conditioned(labels, training=True))
    assert set(dropped) == {0, 3}
    assert np.mean(dropped == 3) == pytest.approx(0.3, abs=0.015)
    assert not numpy(model.conditioned(labels, training=False)).any()


def test_the_null_of_a_vector_is_learned_and_averaged():
    model = small(
        network=timed_mlp((6,), (8,), condition_dim=3), condition_dropout=0.5, ema_decay=0.9
    )
    assert any(weight is model.null.value for weight in model.trainable_weights)
    model.compile(keras.optimizers.Adam(0.1))
    model.fit(points(64), points(64, 3), batch_size=16, epochs=4, verbose=0)
    null = numpy(model.null.value)
    assert np.abs(null).min() > 1e-3
    average = next(
        v for w, v in zip(model._averaged, model._average, strict=True) if w is model.null.value
    )
    assert np.all(numpy(average) != null)
    given = numpy(model.sample(3, 5, guidance_scale=2.0, condition=np.ones(3), seed=0))
    assert given.shape == (3, 6)


def test_one_label_serves_for_all():
    model = labelled()
    many = model.sample(3, 5, condition=[2, 2, 2], seed=0)
    np.testing.assert_array_equal(numpy(model.sample(3, 5, condition=2, seed=0)), numpy(many))


# What else it does


def test_noise_is_added_at_the_level_asked_for():
    model, x = small(noise_schedule="linear"), points(4)
    alphas = np.cumprod(1 - np.linspace(1e-4, 2e-2, 60))
    noised = numpy(model.noise(x, 40, noise=x[::-1].copy()))
    expected = np.sqrt(alphas[40]) * x + np.sqrt(1 - alphas[40]) * x[::-1]
    np.testing.assert_allclose(noised, expected, rtol=1e-5)
    drawn = numpy(model.noise(x, [0, 20, 40, 59], seed=2))
    np.testing.assert_array_equal(drawn, numpy(model.noise(x, [0, 20, 40, 59], seed=2)))


@pytest.mark.parametrize("schedule", [LINEAR, EDM], ids=["linear", "edm"])
def test_the_noise_of_an_example_makes_it_again(schedule):
    model = exact(schedule, width=6)
    x = MEAN + 0.3 * points(5)
    noise = model.encode(x, 100)
    # Scaled and shifted on the way, x's own order is kept.
    np.testing.assert_allclose(np.argsort(numpy(noise)), np.argsort(x))
    np.testing.assert_allclose(numpy(model.decode(noise, 100)), x, atol=0.02)
    path = numpy(model.interpolate(x[:2], x[2:4], 3, 100))
    assert path.shape == (3, 2, 6)
    np.testing.assert_allclose(path[[0, -1]], [x[:2], x[2:4]], atol=0.02)


def test_the_known_part_is_kept_and_the_rest_is_drawn():
    model, known = exact(LINEAR, width=6), points(50)
    mask = np.array([True, True, False, False, False, False])
    for sampler in ("ddpm", "heun"):
        made = numpy(model.inpaint(known, mask, 50, sampler, seed=0))
        np.testing.assert_allclose(made[:, :2], known[:, :2], atol=1e-5)
        assert made[:, 2:].mean() == pytest.approx(MEAN, abs=0.1)


# Likelihood


def gaussian_bound(schedule):
    """The bound's expectation for data from N(MEAN, VARIANCE), nats per dimension, in float64."""
    a, s = schedule.levels(schedule.timesteps(schedule.num_timesteps))
    a, s = a[-2::-1], s[-2::-1]
    snr = (a / s) ** 2
    left = VARIANCE / (1 + VARIANCE * snr)  # E (x_0 - x̂_0)², the posterior's variance
    steps = 0.5 * np.sum((snr[:-1] - snr[1:]) * left[1:])
    unit = s[-1] if isinstance(schedule, EDMSchedule) else 1
    a, s = a[-1] / unit, s[-1] / unit
    prior = 0.5 * (a**2 * (MEAN**2 + VARIANCE) + s**2 - 1 - np.log(s**2))
    return prior + steps + 0.5 * (left[0] * snr[0] + np.log(2 * np.pi / snr[0]))


FINE = NoiseSchedule(1 / (1 + np.exp(np.linspace(-9, 7, 400))))


@pytest.mark.parametrize(
    ("schedule", "gap"), [(FINE, 0.1), (EDMSchedule(100), 1.4)], ids=["discrete", "edm"]
)
def test_the_bound_is_the_sum_of_its_terms(schedule, gap):
    model = exact(schedule, width=4)
    x = (MEAN + 0.3 * np.random.default_rng(0).standard_normal((2000, 4))).astype("float32")
    everything = model.bits_per_dim(x, levels=None, batch_size=1000, seed=0)
    some = model.bits_per_dim(x, levels=None, num_terms=33, batch_size=1000, seed=0)
    assert everything.shape == (2000,) and everything.dtype == "float64"
    expected = gaussian_bound(schedule) / np.log(2)
    entropy = 0.5 * np.log(2 * np.pi * np.e * VARIANCE) / np.log(2)
    assert entropy < expected < entropy + gap
    assert everything.mean() == pytest.approx(expected, abs=0.02)
    assert some.mean() == pytest.approx(expected, abs=0.06)


def test_discrete_data_have_the_mass_of_their_bins():
    """With bins much wider than the decoder's noise the decoder's term is nothing."""
    schedule = NoiseSchedule("linear", 100, beta_start=1e-5, beta_end=0.2)
    model = exact(schedule, width=4)
    x = np.random.default_rng(0).choice([-1.0, 1.0], (64, 4)).astype("float32")
    fine = model.bits_per_dim(x, levels=256, seed=0).mean()
    coarse = model.bits_per_dim(x, levels=2, seed=0).mean()
    continuous = model.bits_per_dim(x, levels=None, seed=0).mean()
    assert coarse < fine
    # A bin of width 2/255, narrow beside the noise of 1/316, has the density times its width.
    assert fine == pytest.approx(continuous - np.log2(2 / 255), abs=0.6)


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [
        (COSINE, "epsilon"),
        (NoiseSchedule("cosine", zero_terminal_snr=True), "v_prediction"),
        (EDMSchedule(), "epsilon"),
    ],
    ids=["cosine", "pure noise", "edm"],
)
def test_the_flow_gives_the_density(schedule, kind):
    model = exact(schedule, kind, width=2)
    x = MEAN + 0.3 * points(6, 2)
    expected = -0.5 * ((x - MEAN) ** 2 / VARIANCE + np.log(2 * np.pi * VARIANCE)).sum(1)
    bar = 2e-3 * 2 * np.log(2)  # in bits per dimension
    np.testing.assert_allclose(numpy(model.log_likelihood(x, 25)), expected, atol=bar)
    if schedule is COSINE:
        guessed = numpy(model.log_likelihood(x, 25, num_probes=2, seed=0))
        np.testing.assert_allclose(guessed, expected, atol=bar)  # a diagonal Jacobian: exact


def test_few_levels_are_steps_enough():
    model = small(num_timesteps=20)
    x = points(2)
    assert numpy(model.sample(2, seed=0)).shape == (2, 6)
    np.testing.assert_array_equal(
        numpy(model.sample(2, seed=0)), numpy(model.sample(2, 20, seed=0))
    )
    assert numpy(model.denoising(1, 3)).shape == (3, 1, 6)
    back = model.decode(model.encode(x))
    assert numpy(back).shape == (2, 6)
    with pytest.raises(ValueError, match="must not exceed the 20 timesteps"):
        model.sample(2, 50)
    assert small(noise_schedule="edm", num_timesteps=20).steps_or_default(None) == 50


def test_one_step_along_the_flow_is_a_step():
    model = small()
    x = points(2)
    for found in (model.encode(x, 1), model.decode(x, 1), model.log_likelihood(x, 1, num_probes=1)):
        assert np.isfinite(numpy(found)).all()
    for call in (model.encode, model.decode, model.log_likelihood):
        with pytest.raises(ValueError, match="`num_steps` must be an integer of at least 1"):
            call(x, 0)
        with pytest.raises(ValueError, match="`num_steps` must not exceed the 60 timesteps"):
            call(x, 61)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_schedule": "cosin"}, "Unknown noise schedule 'cosin'. Did you mean 'cosine'"),
        ({"prediction_type": "eps"}, "Unknown prediction type 'eps'"),
        ({"timestep_sampling": "normal"}, "Unknown timestep sampling 'normal'"),
        ({"loss_weighting": "min-snr"}, "Unknown loss weighting 'min-snr'. Did you mean 'min_snr'"),
        ({"snr_gamma": 0.0}, "`snr_gamma` must be greater than 0"),
        ({"num_timesteps": 1}, "`num_timesteps` must be an integer of at least 2"),
        ({"condition_dropout": 1.5}, "`condition_dropout` must be in .0, 1"),
        ({"zero_terminal_snr": True}, "Use `prediction_type` 'v_prediction' or 'x_start'"),
        ({"zero_terminal_snr": True, "noise_schedule": "edm"}, "`zero_terminal_snr` is for a disc"),
        ({"noise_schedule": "edm", "prediction_type": "x_start"}, "leave `prediction_type` alone"),
        ({"sigma_data": 0.5}, "`sigma_data` is for the schedule 'edm'"),
        ({"noise_schedule": LINEAR, "num_timesteps": 50}, "brings its own `num_timesteps`"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def two(shape, outputs, inputs=2):
    entries = [keras.Input(shape), keras.Input(())][:inputs]
    return keras.Model(entries, keras.layers.Dense(outputs)(entries[0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small(network=two((6,), 5)), r"output must have the shape \(6,\).*\(5,\)"),
        (lambda: small(network=two((6,), 6, 1)), r"one list, \[x_t, t\] or .* with 1 input\b"),
        (lambda: small(input_shape=(5,)), r"for data of shape \(6,\). Received: .*\(5,\)"),
        (lambda: small().sample(2, clip=1.0), r"`clip` must be None or \(low, high\)"),
        (lambda: small().sample(2, clip=(1, -1)), r"`clip` must be None or \(low, high\)"),
        (lambda: small().sample(2, clip=(0, 0)), r"`clip` must be None or \(low, high\)"),
        (lambda: small().sample(2, clip=(0, float("nan"))), r"`clip` must be None or"),
        (lambda: small().sample(2, clip="ab"), r"`clip` must be None or"),
        (lambda: small().inpaint(points(2), True, clip=(0, 1, 2)), r"`clip` must be None or"),
        (lambda: small().denoise(points(2), 0.5), r"whole numbers.*schedule.timestep\(u\)"),
        (lambda: small().noise(points(2), [0.5, 3.0]), "whole numbers"),
        (lambda: small().denoise(points(2), [1, 2, 3]), "one timestep, or one for each of 2 rows"),
        (lambda: small().denoise(points(2), float("nan")), "whole numbers"),
        (lambda: small().bits_per_dim(points(2), batch_size=0), "`batch_size` must be an integer"),
        (lambda: small(noise_schedule="edm").sample(2, sampler="heun", churn="x"), "`churn` must"),
        (
            lambda: small(noise_schedule="edm").sample(2, sampler="euler", churn=float("nan")),
            "`churn` must be a finite number",
        ),
        (lambda: small().sample(2, 61), "`num_steps` must not exceed the 60 timesteps"),
        (lambda: small().sample(2, 5, "ddmp"), "Unknown sampler 'ddmp'. Did you mean 'ddpm'"),
        (lambda: small().sample(2, 5, eta=1.0), "Unknown option of the sampler 'ddpm': 'eta'"),
        (lambda: small().sample(0), "`n` must be an integer of at least 1"),
        (lambda: small().sample(2, 5, guidance_scale=2.0), "Guidance needs a condition"),
        (lambda: small().sample(2, 5, condition=[0, 1]), "takes no labels"),
        (lambda: labelled().sample(2, 5), "takes a condition of shape .* no condition"),
        (lambda: labelled().sample(2, 5, condition=[0, 4]), r"Labels must lie in \[0, 3\)"),
        (lambda: labelled().sample(2, 5, condition=[0, 3]), "Label 3 is the learned null"),
        (lambda: labelled().sample(2, 5, condition=[0, 1, 2]), "one of them or as many"),
        (lambda: labelled().sample(2, 5, condition=[0.0, 1.0]), "must be integer labels"),
        (
            lambda: labelled(condition_dropout=0.0).sample(2, 5, guidance_scale=2.0, condition=1),
            "Guidance needs a learned null",
        ),
        (lambda: small().noise(points(2), 60), r"Timesteps must lie in \[0, 60\)"),
        (lambda: small().denoise(points(2), -1), r"Timesteps must lie in \[0, 60\)"),
        (lambda: small().denoise(points(2, 5), 1), r"shape \(6,\).*\(5,\)"),
    ],
)
def test_what_it_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_data_that_do_not_fit_are_refused_before_training():
    plain, conditional = small(), labelled()
    for model in (plain, conditional):
        model.compile("adam")
    with pytest.raises(ValueError, match="takes no labels"):
        plain.fit(points(64), np.zeros(64, "int32"))
    with pytest.raises(ValueError, match="takes a condition"):
        conditional.fit(points(64))
    sorted_labels = np.sort(np.arange(1000) % 4)  # the last of the classes comes late
    with pytest.raises(ValueError, match="one more row than there are classes"):
        conditional.fit(points(1000), sorted_labels)


class Hidden(keras.Model):
    """A network that doesn't tell where its labels go."""

    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(4, 8)
        self.hidden, self.out = keras.layers.Dense(8), keras.layers.Dense(6)

    def call(self, inputs):
        x, t, labels = inputs
        return self.out(self.hidden(x) + self.embedding(labels))


def test_a_network_that_hides_its_labels_needs_to_name_the_null():
    model = small(network=Hidden())
    with pytest.raises(ValueError, match="`sample` needs networks that know their shapes"):
        model.sample(2)
    model.compile("adam")
    with pytest.raises(ValueError, match="Give `null_label`"):
        model.fit(points(64), np.arange(64) % 3, verbose=0)
    named = small(network=Hidden(), null_label=3)
    named.compile("adam")
    named.fit(points(64), np.arange(64) % 3, verbose=0)
    assert numpy(named.sample(2, 5, guidance_scale=2.0, condition=1)).shape == (2, 6)


def test_a_given_schedule_and_a_condition_survive_saving(tmp_path):
    schedule = NoiseSchedule("linear", 60, beta_end=0.1)
    model = small(network=timed_mlp((6,), (8,), condition_dim=3), noise_schedule=schedule)
    randomised(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.schedule.options == {"beta_end": 0.1}
    samples = [
        numpy(m.sample(2, 5, guidance_scale=2.0, condition=np.ones(3), seed=0))
        for m in (model, loaded)
    ]
    np.testing.assert_array_equal(*samples)


# Trained to known numbers


RING = {"std": 0.25}  # of each Gaussian, on a circle of radius 2


def noise_floor(schedule, scale, draws=500):
    """The least error of ε there is, that of E[ε|x_t], over the levels of the ring over `scale`."""
    centres, random = ring_centres() / scale, np.random.default_rng(5)
    signal, noises = schedule.levels(schedule.timesteps(schedule.num_timesteps))
    errors = []
    for a, s in zip(signal[:-1], noises[:-1], strict=True):
        x = centres[random.integers(8, size=draws)]
        x = x + RING["std"] / scale * random.standard_normal(x.shape)
        noise = random.standard_normal(x.shape)
        gaps = (a * x + s * noise)[:, None] - a * centres
        variance = (a * RING["std"] / scale) ** 2 + s**2
        squares = (gaps**2).sum(-1)
        weight = np.exp(-0.5 * (squares - squares.min(1, keepdims=True)) / variance)
        weight /= weight.sum(1, keepdims=True)
        best = s * (weight[..., None] * gaps).sum(1) / variance  # -s ∇ ln p(x_t)
        errors.append(((noise - best) ** 2).mean())
    return np.mean(errors)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_epsilon_on_the_ring_reaches_its_floor():
    """Eight Gaussians, standardised: 8,000 steps of 512, the linear schedule, EMA .999."""
    points = ring(512 * 400, **RING)
    scale = points.std()
    keras.utils.set_random_seed(0)
    model = Diffusion(timed_mlp((2,)), noise_schedule="linear", ema_decay=0.999, seed=0)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, 8000)
    model.compile(keras.optimizers.Adam(rate), steps_per_execution=100)
    model.fit(points / scale, batch_size=512, epochs=20, verbose=0)
    floor = noise_floor(model.schedule, scale)
    assert floor == pytest.approx(0.2237, abs=0.001)
    held_out = ring(100_000, seed=98, **RING) / scale
    logs = model.evaluate(held_out, batch_size=5000, verbose=0, return_dict=True)
    assert logs["loss"] <= 1.02 * floor
    samples = numpy(model.sample(10_000, 50, "ddim", seed=1))
    reference = ring(10_000, seed=99, **RING) / scale
    assert sliced_wasserstein(samples, reference) <= 0.025
    assert mode_shares(samples, ring_centres() / scale, 1 / scale).min() >= 0.09
