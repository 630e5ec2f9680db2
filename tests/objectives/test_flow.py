"""Paths against their derivatives, couplings against exact transport, changes of variables."""

import itertools
import math

import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import input_gradient
from artifex_keras.objectives import flow


@pytest.fixture(autouse=True)
def draws():
    """The same draws for a test, alone or among others."""
    global RNG
    RNG = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x)


def uniforms(n):
    return RNG.uniform(size=(n, n)).astype("float32")


# Paths


@pytest.mark.parametrize("path", flow.PATHS)
def test_a_path_runs_from_noise_to_data_with_its_own_derivative(path):
    t = np.array([0.0, 0.1, 0.5, 0.8, 0.97])
    f = [numpy(part) for part in flow.path_factors(t, path)]
    exact = {
        "linear": (t, 1 - t),
        "ot": (t, 1 - (1 - 1e-4) * t),
        "trigonometric": (np.sin(np.pi * t / 2), np.cos(np.pi * t / 2)),
        "vp": (
            np.exp(-0.5 * (0.1 * (1 - t) + 0.5 * 19.9 * (1 - t) ** 2)),
            np.sqrt(1 - np.exp(-(0.1 * (1 - t) + 0.5 * 19.9 * (1 - t) ** 2))),
        ),
    }[path]
    np.testing.assert_allclose(f[0], exact[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(f[1], exact[1], rtol=1e-5, atol=1e-6)
    t = ops.convert_to_tensor(t.astype("float32"))
    for part in (0, 1):
        rate = input_gradient(lambda t, part=part: flow.path_factors(t, path)[part], t)
        np.testing.assert_allclose(f[2 + part], numpy(rate), rtol=1e-4, atol=1e-5)
    ends = [numpy(part) for part in flow.path_factors([0.0, 1.0], path)]
    np.testing.assert_allclose(ends[0], [0, 1], atol=0.007 if path == "vp" else 1e-6)
    np.testing.assert_allclose(ends[1], [1, 0], atol=0.002)
    assert np.isfinite(ends).all()


def test_the_vp_clock_runs_the_other_way_and_has_its_own_derivative():
    clock = flow.CLOCKS["vp"]
    u = ops.convert_to_tensor(np.array([0.2, 0.5, 0.8, 1.1, 1.3, 1.45], "float32"))
    t, rate = clock.at(u)
    np.testing.assert_allclose([clock.of(float(time)) for time in t], numpy(u), atol=1e-3)
    derivative = input_gradient(lambda u: clock.at(u)[0], u)
    np.testing.assert_allclose(numpy(rate), numpy(derivative), rtol=2e-3)
    assert (clock.of(1.0), clock.of(0.0)) == pytest.approx((0, np.pi / 2))
    for end in (0.0, np.pi / 2):
        t, rate = (float(part) for part in clock.at(ops.convert_to_tensor(end, dtype="float32")))
        assert 0 <= t < 1 and rate == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("path", flow.PATHS)
def test_a_velocity_gives_back_both_ends_and_the_score(path):
    x0, x1 = RNG.standard_normal((2, 3, 4, 2)).astype("float32")
    t = np.array([0.1, 0.5, 0.9], "float32")
    x_t, u = flow.interpolation(x0, x1, t, path)
    np.testing.assert_allclose(numpy(flow.data_prediction(u, x_t, t, path)), x1, atol=1e-4)
    np.testing.assert_allclose(numpy(flow.noise_prediction(u, x_t, t, path)), x0, atol=1e-4)
    beta = numpy(flow.path_factors(t, path).noise)[:, None, None]
    score = numpy(flow.path_score(u, x_t, t, path))
    np.testing.assert_allclose(score, -x0 / beta, rtol=1e-3, atol=1e-3)


def test_the_linear_path_has_its_short_forms():
    v, x = RNG.standard_normal((2, 3, 4)).astype("float32")
    t = np.array([0.1, 0.5, 0.9], "float32")
    s = t[:, None]
    np.testing.assert_allclose(numpy(flow.data_prediction(v, x, t)), x + (1 - s) * v, atol=1e-6)
    np.testing.assert_allclose(numpy(flow.noise_prediction(v, x, t)), x - s * v, atol=1e-6)
    score = numpy(flow.path_score(v, x, t))
    np.testing.assert_allclose(score, (s * v - x) / (1 - s), rtol=1e-5, atol=1e-6)


def test_the_score_is_that_of_gaussian_data():
    # x_1 ~ N(0, c²): x_t ~ N(0, α²c² + β²), E[u|x_t] = Cov(u, x_t)/Var(x_t) x_t.
    c2, x = 0.3, np.array([[0.8], [-1.5]], "float32")
    for path in flow.PATHS:
        f = [float(part[0]) for part in flow.path_factors([0.6], path)]
        variance = f[0] ** 2 * c2 + f[1] ** 2
        v = (f[0] * f[2] * c2 + f[1] * f[3]) / variance * x
        score = flow.path_score(v, x, np.array([0.6, 0.6]), path)
        np.testing.assert_allclose(numpy(score), -x / variance, rtol=1e-3)


def test_smoothing_adds_noise_and_the_bridge_its_velocity():
    x0, x1, n = RNG.standard_normal((3, 2, 3)).astype("float32")
    t = np.array([0.2, 0.7], "float32")
    x_t, u = (numpy(part) for part in flow.interpolation(x0, x1, t))
    noisy, same = flow.interpolation(x0, x1, t, noise=n, sigma=0.3)
    np.testing.assert_allclose(numpy(noisy), x_t + 0.3 * n, rtol=1e-5)
    np.testing.assert_array_equal(numpy(same), u)
    on, rate = flow.interpolation(x0, x1, t, noise=n, sigma=0.3, bridge=True)
    s = t[:, None]
    np.testing.assert_allclose(numpy(on), x_t + 0.3 * np.sqrt(s * (1 - s)) * n, rtol=1e-5)
    # 2302.00482: u = x_1 - x_0 + (1-2t)/(2t(1-t)) (x_t - μ_t).
    exact = u + (1 - 2 * s) / (2 * s * (1 - s)) * (numpy(on) - x_t)
    np.testing.assert_allclose(numpy(rate), exact, rtol=1e-4)
    ends = flow.interpolation(x0, x1, [0.0, 1.0], noise=n, sigma=0.3, bridge=True)
    assert all(np.isfinite(numpy(part)).all() for part in ends)


def test_the_error_averages_over_the_event():
    v, u = RNG.standard_normal((2, 3, 4, 5))
    np.testing.assert_allclose(
        numpy(flow.velocity_error(v, u)), ((u - v) ** 2).mean((1, 2)), rtol=1e-5
    )


@pytest.mark.parametrize("sampling", flow.TIME_SAMPLINGS)
def test_times_follow_their_density(sampling):
    u = (np.arange(4000) + 0.5) / 4000
    t = numpy(flow.times(u, sampling))
    assert t[0] >= 0 and t[-1] <= 1 and (np.diff(t) > 0).all()
    density = {
        "uniform": lambda t: np.ones_like(t),
        "logit_normal": lambda t: np.exp(-0.5 * np.log(t / (1 - t)) ** 2) / (t * (1 - t)),
        "u_shaped": lambda t: np.exp(4 * t) + np.exp(4 * (1 - t)),
    }[sampling]
    middle = (t[1:] + t[:-1]) / 2
    shape = density(middle) * np.diff(t)  # the same mass between any two neighbours
    np.testing.assert_allclose(shape[100:-100] / shape[2000], 1, atol=0.02)


# Transport


def test_sinkhorn_has_the_marginals_and_the_form_of_the_plan():
    cost = RNG.uniform(size=(5, 7)).astype("float32")
    log_plan = numpy(flow.sinkhorn(cost, epsilon=0.1, iterations=200)).astype("float64")
    plan = np.exp(log_plan)
    np.testing.assert_allclose(plan.sum(0), 1 / 7, rtol=1e-5)
    np.testing.assert_allclose(plan.sum(1), 1 / 5, rtol=1e-3)
    # ln P + C/ε is a sum of a row's and a column's number.
    left = log_plan + cost / (0.1 * cost.mean())
    left = left - left[:1] - left[:, :1] + left[0, 0]
    np.testing.assert_allclose(left, 0, atol=1e-4)


def test_a_sharp_coupling_is_the_exact_assignment():
    x0, x1 = RNG.standard_normal((2, 6, 2)).astype("float32")
    cost = ((x0[:, None] - x1[None]) ** 2).sum(-1)
    best = min(itertools.permutations(range(6)), key=lambda p: cost[range(6), p].sum())
    rows = numpy(flow.ot_assignment(x0, x1, uniforms(6), epsilon=0.003, iterations=2000))
    np.testing.assert_array_equal(rows, best)


def test_the_assignment_is_a_draw_from_the_plan():
    x0, x1 = RNG.standard_normal((2, 4, 3)).astype("float32")
    cost = ((x0[:, None] - x1[None]) ** 2).sum(-1)
    plan = 4 * np.exp(numpy(flow.sinkhorn(cost, epsilon=0.5)))
    # Each point fifty times: as many draws from the same plan at once.
    many = [np.tile(x, (50, 1)) for x in (x0, x1)]
    rows = flow.ot_assignment(*many, uniforms(200), epsilon=0.5, iterations=30)
    rows = numpy(rows).reshape(50, 4) % 4
    shares = (rows[..., None] == np.arange(4)).mean(0)
    np.testing.assert_allclose(shares, plan, atol=0.2)  # three deviations


def test_labels_go_where_their_data_go():
    x0, x1 = RNG.standard_normal((2, 16, 2, 3)).astype("float32")
    labels, weight = x1[:, 0, 0] * 10, {"w": x1[:, 1, 1]}
    data, moved, none, also = flow.ot_coupling(x0, x1, uniforms(16), labels, None, weight)
    data = numpy(data)
    np.testing.assert_allclose(numpy(moved), data[:, 0, 0] * 10, rtol=1e-6)
    np.testing.assert_array_equal(numpy(also["w"]), data[:, 1, 1])
    assert none is None
    alone = numpy(flow.ot_coupling(x0, x1, uniforms(16)))
    assert alone.shape == x1.shape
    before = ((x0 - x1) ** 2).sum()
    assert ((x0 - data) ** 2).sum() < before and ((x0 - alone) ** 2).sum() < before


def test_a_price_on_conditions_couples_within_them():
    x0 = RNG.standard_normal((12, 2)).astype("float32")
    labels = np.arange(12) % 2
    x1 = (x0[::-1] + 3 * labels[:, None]).astype("float32")
    u = uniforms(12)
    free = numpy(flow.ot_assignment(x0, x1, u))
    kept = numpy(flow.ot_assignment(x0, x1, u, conditions=labels, condition_cost=50.0))
    assert (labels[kept] == labels).all() and not (labels[free] == labels).all()


# Change of variables


def test_the_density_of_an_affine_map_is_that_of_its_gaussian():
    x = RNG.standard_normal((3, 2, 2))
    mean, std = np.array([0.5, -1.0]), np.array([2.0, 0.3])
    z, log_det = flow.standardized(x, mean, std)
    exact = -0.5 * (((x - mean) / std) ** 2 + np.log(2 * np.pi * std**2)).sum((1, 2))
    np.testing.assert_allclose(numpy(flow.change_of_variables(z, log_det)), exact, rtol=1e-5)
    other = flow.change_of_variables(z, log_det, base_log_prob=np.zeros(3))
    np.testing.assert_allclose(numpy(other), -2 * np.log(std).sum() * np.ones(3), rtol=1e-5)


@pytest.mark.parametrize(
    "step",
    [
        lambda x: flow.logit(x, alpha=0.1),
        lambda x: flow.standardized(x, 0.3, ops.convert_to_tensor([0.5, 2.0, 1.5])),
        lambda x: flow.dequantized(x, 0.3 * ops.ones_like(x), levels=17),
    ],
    ids=["logit", "standardized", "dequantized"],
)
def test_a_log_determinant_is_that_of_the_derivative(step):
    x = ops.convert_to_tensor(RNG.uniform(size=(4, 3)).astype("float32"))
    slopes = numpy(input_gradient(lambda x: step(x)[0], x))
    log_det = numpy(step(x)[1])
    assert log_det.shape == (4,)
    np.testing.assert_allclose(log_det, np.log(slopes).sum(1), rtol=1e-4)


def test_dequantized_values_fill_the_unit_interval():
    y, log_det = flow.dequantized([[0, 16], [3, 7]], [[0.0, 0.999], [0.5, 0.5]], levels=17)
    np.testing.assert_allclose(numpy(y), [[0, 16.999 / 17], [3.5 / 17, 7.5 / 17]], rtol=1e-6)
    np.testing.assert_allclose(numpy(log_det), -2 * math.log(17), rtol=1e-6)
    z, _ = flow.logit([[0.0, 1.0]], alpha=0.1)
    np.testing.assert_allclose(numpy(z), [[-math.log(19), math.log(19)]], rtol=1e-5)


def test_a_uniform_flow_costs_exactly_the_bits_of_its_levels():
    # y uniform on [0, 1): density 1, so that every one of 16 levels costs 4 bits.
    _, log_det = flow.dequantized(RNG.integers(16, size=(2, 8)), RNG.uniform(size=(2, 8)), 16)
    np.testing.assert_allclose(numpy(flow.bits_per_dim(-log_det, 8)), 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: flow.interpolation(x, x, [0.5], "lineal"), "'linear'"),
        (lambda x: flow.interpolation(x, x, [0.5], noise=x), "sigma"),
        (lambda x: flow.interpolation(x, x, [0.5], sigma=0.1), "noise"),
        (lambda x: flow.times([0.5], "u-shaped"), "'u_shaped'"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((1, 2)))
