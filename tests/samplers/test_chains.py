"""Chains of random steps: golden numbers, and laws on Gaussian data, where all is affine."""

import numpy as np
import pytest
from keras import ops

from artifex_keras.objectives.flow import path_factors
from artifex_keras.samplers import chains
from artifex_keras.samplers.noise_schedules import EDMSchedule, NoiseSchedule

MEAN, VARIANCE = 0.7, 0.3**2
LINEAR = NoiseSchedule("linear")


@pytest.fixture(autouse=True)
def draws():
    """The same draws for a test, alone or among others."""
    global RNG
    RNG = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x)


def normal(*shape):
    return RNG.standard_normal(shape).astype("float32")


# One step


def log_density(x, mean, std):
    """By hand, in float64."""
    terms = -((x - mean) ** 2) / (2 * std**2) - np.log(std) - np.log(2 * np.pi) / 2
    return terms.reshape(len(x), -1).mean(1)


def test_a_log_prob_is_the_mean_over_dims_of_a_gaussian():
    x, mean, std = normal(5, 3, 2), normal(5, 3, 2), np.array([0.1, 0.5, 1.0, 2.0, 30.0])
    expected = log_density(x.astype("float64"), mean, std[:, None, None])
    found = chains.transition_log_prob(x, mean, std.astype("float32"))
    np.testing.assert_allclose(numpy(found), expected, rtol=2e-6)
    one = chains.transition_log_prob(np.zeros((1, 4), "float32"), np.zeros((1, 4), "float32"), 2.0)
    np.testing.assert_allclose(numpy(one), [-0.9189385 - 0.6931472], rtol=1e-6)


def test_the_divergence_is_what_log_probs_differ_by_on_average():
    mean, other, std = normal(1, 3), normal(1, 3), 0.6
    x = mean + std * normal(200_000, 3)
    difference = chains.transition_log_prob(x, mean, std) - chains.transition_log_prob(
        x, other, std
    )
    closed = numpy(chains.transition_kl(mean, other, std))
    np.testing.assert_allclose(closed, ((mean - other) ** 2).mean(1) / 0.72, rtol=1e-5)
    np.testing.assert_allclose(numpy(difference).mean(), closed[0], rtol=0.01)


def test_the_entropy_is_minus_the_mean_log_prob():
    mean, std = np.zeros((200_000, 2), "float32"), 0.6
    log_probs = chains.transition_log_prob(std * normal(200_000, 2), mean, std)
    entropy = float(numpy(chains.transition_entropy(std)))
    np.testing.assert_allclose(-numpy(log_probs).mean(), entropy, rtol=0.01)


# The tables


@pytest.mark.parametrize(("pair", "variance"), [((420, 400), 0.14771), ((980, 960), 0.32460)])
def test_the_variances_of_ddim(pair, variance):
    """Those of diffusers' DDIM scheduler at η = 1, and of FORMULAS D1."""
    chain = chains.ddim_chain(LINEAR, np.array(pair))
    assert chain.std[0] ** 2 == pytest.approx(variance, abs=1e-5)
    assert chain.std[-1] == 0 and chain.actions == 1
    half = chains.ddim_chain(LINEAR, np.array(pair), eta=0.5)
    assert half.std[0] ** 2 == pytest.approx(variance / 4, abs=1e-5)


def test_a_step_of_ddim_is_the_papers():
    """``√ᾱ' x̂_0 + √(1-ᾱ'-σ²) ε̂`` in float64, from x̂_0 and from ε̂ of the same prediction."""
    chain = chains.ddim_chain(LINEAR, np.array([420, 400]))
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    now, then = alphas[420], alphas[400]
    x, x_start = 0.8, -0.3
    epsilon = (x - np.sqrt(now) * x_start) / np.sqrt(1 - now)
    mean = np.sqrt(then) * x_start + np.sqrt(1 - then - 0.14771) * epsilon
    assert chain.keep[0] * x + chain.change[0] * x_start == pytest.approx(mean, abs=1e-5)
    assert chain.keep[-1] == 0 and chain.change[-1] == 1  # the last step gives x̂_0


def test_a_step_of_the_flow_is_flow_grpos():
    """Its own formula in its own time: s = 1 - t falls, dt < 0, the velocity has the other sign."""
    chain = chains.flow_chain(np.linspace(0, 1, 11), noise_level=0.7)
    x, v = 0.8, -0.3
    for k, s in enumerate(np.linspace(1, 0.2, 9)):
        known = s if k else 0.9  # where s/(1-s) is infinite
        dt, theirs = -0.1, -v
        square = 0.7**2 * s / (1 - known)
        mean = x * (1 + square * dt / (2 * s)) + theirs * (1 + square * (1 - s) / (2 * s)) * dt
        assert chain.keep[k] * x + chain.change[k] * v == pytest.approx(mean, rel=1e-6)
        assert chain.std[k] == pytest.approx(np.sqrt(-square * dt), rel=1e-6)
    last = [part[-1] for part in chain[1:4]]
    np.testing.assert_allclose(last, [1, 0.1, 0], atol=1e-7)


# Laws on Gaussian data


def law(chain, answers):
    """(mean, variance) after each step, for answers ``slope x + shift``: exact, in float64."""
    mean, variance, seen = 0.0, chain.start**2, []
    for i, (slope, shift) in enumerate(answers):
        factor = chain.keep[i] + chain.change[i] * slope
        mean = factor * mean + chain.change[i] * shift
        variance = factor**2 * variance + chain.std[i] ** 2
        seen.append((mean, variance))
    return np.array(seen)


def factors(t, path):
    return (numpy(part).astype("float64") for part in path_factors(t.astype("float32"), path))


def velocities(t, path):
    """The exact ``E[α' x_1 + β' x_0|x_t]`` for N(MEAN, VARIANCE), as slopes and shifts."""
    a, b, da, db = factors(t, path)
    slope = (da * a * VARIANCE + db * b) / (a * a * VARIANCE + b * b)
    return np.stack([slope, da * MEAN - slope * a * MEAN], 1)


@pytest.mark.parametrize("path", chains.SDE_PATHS)
@pytest.mark.parametrize("noise_level", [0.2, 0.7, 1.5])
def test_the_flows_chain_has_the_flows_marginals(noise_level, path):
    """Whatever the noise. What the first step, where g is infinite, adds is forgotten soon."""
    times = np.linspace(0, 1, 2001)
    chain = chains.flow_chain(times, noise_level=noise_level, path=path)
    found = law(chain, velocities(times[:-1], path))
    a, b, _, _ = factors(times[1:], path)
    expected = np.stack([a * MEAN, a * a * VARIANCE + b * b], 1)
    np.testing.assert_allclose(found[200:], expected[200:], rtol=0.02)
    np.testing.assert_allclose(found[-1], [MEAN, VARIANCE], rtol=0.006)


@pytest.mark.parametrize("sign", [-1, 0])
def test_the_marginals_need_the_score(sign):
    """The test above sees a wrong sign: noise without its drift, or with the opposite one."""
    times = np.linspace(0, 1, 1001)
    chain = chains.flow_chain(times)
    dt = np.diff(times)
    wrong = chain._replace(keep=1 + sign * (chain.keep - 1), change=dt + sign * (chain.change - dt))
    variance = law(wrong, velocities(times[:-1], "linear"))[-1, 1]
    assert variance > 1.5 * VARIANCE


@pytest.mark.parametrize(
    "schedule",
    [LINEAR, NoiseSchedule("cosine"), EDMSchedule(sigma_max=20.0)],
    ids=["linear", "cosine", "edm"],
)
def test_ddims_chain_draws_the_data(schedule):
    timesteps = schedule.timesteps(400)
    a, s = (level[:-1] for level in schedule.levels(timesteps))
    slope = a * VARIANCE / (a * a * VARIANCE + s * s)
    chain = chains.ddim_chain(schedule, timesteps)
    found = law(chain, np.stack([slope, MEAN - slope * a * MEAN], 1))[-1]
    np.testing.assert_allclose(found, [MEAN, VARIANCE], rtol=0.06)


# Running and scoring


def answer(x, t):
    t = ops.reshape(ops.cast(t, "float32"), (-1, 1, 1))
    return ops.tanh(x) * (1 + 0.1 * ops.cos(t)) - 0.2


CHAINS = {
    "ddim": chains.ddim_chain(LINEAR, LINEAR.timesteps(7)),
    "flow": chains.flow_chain(np.linspace(0, 1, 8)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_its_table(name):
    """States, log-densities and samples against a loop in float64."""
    chain, noise = CHAINS[name], normal(7, 4, 3, 2)
    states, log_probs, samples = map(numpy, chains.sample_chain(chain, answer, noise))
    assert states.shape == (4, 7, 3, 2) and log_probs.shape == (4, 6)
    x = chain.start * noise[0].astype("float64")
    for i in range(7):
        np.testing.assert_allclose(states[:, i], x, rtol=1e-4, atol=1e-5)
        answered = numpy(answer(x.astype("float32"), np.full(4, chain.times[i])))
        mean = chain.keep[i] * x + chain.change[i] * answered
        if i == 6:
            np.testing.assert_allclose(samples, mean, rtol=1e-4, atol=1e-5)
            break
        x = mean + chain.std[i] * noise[i + 1]
        expected = log_density(x, mean, chain.std[i])
        np.testing.assert_allclose(log_probs[:, i], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CHAINS)
def test_scores_are_the_log_probs_of_sampling(name):
    chain, noise = CHAINS[name], normal(7, 4, 3, 2)
    states, log_probs, _ = chains.sample_chain(chain, answer, noise)
    scores, means = chains.score_chain(chain, answer, states)
    np.testing.assert_allclose(numpy(scores), numpy(log_probs), atol=1e-5)
    drawn = numpy(means) + chain.std[:6, None, None] * np.moveaxis(noise[1:], 0, 1)
    np.testing.assert_allclose(drawn, numpy(states)[:, 1:], atol=1e-5)


# What is refused


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="`eta` must be in .0.0, 1.0."):
        chains.ddim_chain(LINEAR, [9, 3], eta=0.0)
    with pytest.raises(ValueError, match="`timesteps` must be a row of at least 2"):
        chains.ddim_chain(LINEAR, [9])
    with pytest.raises(ValueError, match="`noise_level` must be greater than 0"):
        chains.flow_chain([0, 0.5, 1], noise_level=0.0)
    with pytest.raises(ValueError, match="`times` must be a row of at least 3"):
        chains.flow_chain([0, 1])
    with pytest.raises(ValueError, match="Unknown path of a stochastic chain.*'vp'"):
        chains.flow_chain([0, 0.5, 1], path="vp")
