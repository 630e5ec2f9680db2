"""Solvers against closed forms: their order, their tolerance, and densities that they carry."""

import itertools

import numpy as np
import pytest
from keras import ops

from artifex_keras.samplers import ode

TABLEAUS = {**ode.SOLVERS, "dopri5": ode._DOPRI5}


@pytest.fixture(autouse=True)
def draws():
    """The same draws for a test, alone or among others."""
    global RNG
    RNG = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x)


def pulse(x, t):
    """dx/dt = x cos t, from x_0 to x_0 e^{sin t}."""
    return x * ops.cos(t)[:, None]


START = np.array([[1.0], [-2.0]])


def gaussian_velocity(mean, covariance):
    """E[x_1 - x_0|x_t] of the linear path to N(mean, covariance)."""
    values, axes = np.linalg.eigh(np.asarray(covariance))
    mean, values, axes = (
        ops.convert_to_tensor(part, dtype="float32") for part in (mean, values, axes)
    )

    def velocity(x, t):
        t = t[:, None]
        slope = (t * values - (1 - t)) / (t * t * values + (1 - t) ** 2)
        return mean + ops.matmul(slope * ops.matmul(x - t * mean, axes), ops.transpose(axes))

    return velocity


MEAN, COVARIANCE = [0.5, -1.0], [[1.0, 0.6], [0.6, 2.0]]


# Solvers


@pytest.mark.parametrize(
    ("solver", "order", "steps"),
    [("euler", 1, 32), ("midpoint", 2, 12), ("heun", 2, 12), ("rk4", 4, 4), ("dopri5", 5, 2)],
)
def test_a_solver_converges_with_its_order(solver, order, steps):
    errors = []
    for count in (steps, 2 * steps):
        x = ode.integrate(pulse, START, num_steps=count, end=2.0, solver=TABLEAUS[solver])
        errors.append(abs(numpy(x) - START * np.exp(np.sin(2.0))).max())
    assert errors[1] > 2e-6  # above the rounding of float32
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.6


def reference_step(solver, f, x, t, h):
    """One step as textbooks print it."""
    k1 = f(x, t)
    if solver == "euler":
        return x + h * k1
    if solver == "midpoint":
        return x + h * f(x + h / 2 * k1, t + h / 2)
    if solver == "heun":
        return x + h / 2 * (k1 + f(x + h * k1, t + h))
    k2 = f(x + h / 2 * k1, t + h / 2)
    k3 = f(x + h / 2 * k2, t + h / 2)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(x + h * k3, t + h))


@pytest.mark.parametrize("solver", ode.SOLVERS)
def test_a_step_is_the_printed_one(solver):
    x = RNG.standard_normal((3, 2))
    found = ode.integrate(
        lambda x, t: ops.sin(3 * x) + t[:, None] ** 2,
        x,
        times=[0.3, 0.8, 1.0],
        solver=solver,
    )

    def field(x, t):
        return np.sin(3 * x) + t**2

    exact = reference_step(solver, field, reference_step(solver, field, x, 0.3, 0.5), 0.8, 0.2)
    np.testing.assert_allclose(numpy(found), exact, rtol=1e-5, atol=1e-5)


def test_the_error_estimate_is_that_of_the_embedded_method_of_order_four():
    a, b, c, error = (np.array(part, dtype=object) for part in ode._DOPRI5)
    for power in range(4):
        moment = sum(e * t**power for e, t in zip(error, c, strict=True))
        assert abs(moment) < 1e-15
    assert abs(sum(e * t**4 for e, t in zip(error, c, strict=True))) > 1e-4
    fourth = np.array(
        [5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40]
    )
    np.testing.assert_allclose((b - fourth).astype(float), error.astype(float), atol=1e-15)
    for row, time in zip(a, c, strict=True):
        assert abs(sum(row) - time) < 1e-14
    assert tuple(a[-1]) == tuple(b[:-1])  # the last stage begins the next step


def test_time_may_run_backwards_and_states_may_be_structures():
    x = ode.integrate(pulse, START, num_steps=20, end=2.0, solver="rk4")
    back = ode.integrate(pulse, x, num_steps=20, start=2.0, end=0.0, solver="rk4")
    np.testing.assert_allclose(numpy(back), START, rtol=1e-5)

    def spiral(state, t):
        return {"x": -state["y"], "y": state["x"]}

    state = {"x": np.ones((2, 1)), "y": np.zeros((2, 1))}
    state = ode.integrate(spiral, state, num_steps=20, end=1.0, solver="rk4")
    np.testing.assert_allclose(numpy(state["x"]), np.cos(1.0) * np.ones((2, 1)), rtol=1e-5)
    np.testing.assert_allclose(numpy(state["y"]), np.sin(1.0) * np.ones((2, 1)), rtol=1e-5)


def test_the_field_sees_one_time_for_each_row():
    asked = []

    def field(x, t):
        asked.append(tuple(t.shape))
        return 0.0 * x

    ode.integrate(field, np.ones((5, 2)), num_steps=2)
    ode.adaptive(field, np.ones((5, 2)))
    assert set(asked) == {(5,)}


# Steps of one's own choice


@pytest.mark.parametrize(("start", "end"), [(0.0, 4.0), (4.0, 0.0)])
def test_adaptive_steps_meet_their_tolerance_in_both_directions(start, end):
    exact = START * np.exp(np.sin(end) - np.sin(start))
    counts = []
    for tolerance in (1e-2, 1e-5):
        found = ode.adaptive(pulse, START, start=start, end=end, rtol=tolerance, atol=tolerance)
        assert abs(numpy(found.x) - exact).max() < 10 * tolerance * abs(exact).max()
        counts.append(int(found.accepted))
    assert 2 <= counts[0] < counts[1] < 60


def test_adaptive_steps_shorten_where_the_field_is_sharp():
    def bump(x, t):
        return 20 * ops.exp(-(((t[:, None] - 0.5) / 0.05) ** 2)) + 0.0 * x

    found = ode.adaptive(bump, np.zeros((1, 1)), first_step=0.02)
    np.testing.assert_allclose(numpy(found.x), 20 * 0.05 * np.sqrt(np.pi), rtol=1e-4)
    assert int(found.rejected) > 0


def test_too_few_steps_give_no_number():
    found = ode.adaptive(pulse, START, end=4.0, max_steps=3)
    assert np.isnan(numpy(found.x)).all()
    assert int(found.accepted) + int(found.rejected) == 3


# Flows


@pytest.mark.parametrize(("solver", "steps"), [("euler", 100), ("heun", 30), ("rk4", 10)])
def test_a_flow_carries_noise_to_its_gaussian(solver, steps):
    # The flow is affine: unit vectors give its matrix, without a random number.
    velocity = gaussian_velocity(MEAN, COVARIANCE)
    x = np.concatenate([np.zeros((1, 2)), np.eye(2)]).astype("float32")
    out = numpy(ode.integrate(velocity, x, num_steps=steps, solver=solver))
    matrix = (out[1:] - out[0]).T
    tolerance = 0.06 if solver == "euler" else 2e-3
    np.testing.assert_allclose(out[0], MEAN, atol=tolerance)
    np.testing.assert_allclose(matrix @ matrix.T, COVARIANCE, atol=tolerance)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_the_likelihood_is_the_gaussians(solver):
    x = RNG.standard_normal((4, 2)).astype("float32") * 2
    options = {"num_steps": 16} if solver == "rk4" else {"rtol": 1e-4, "atol": 1e-4}
    found, z = ode.log_likelihood(gaussian_velocity(MEAN, COVARIANCE), x, solver=solver, **options)
    centred, precision = x - np.array(MEAN), np.linalg.inv(COVARIANCE)
    exact = -0.5 * np.einsum("bi,ij,bj->b", centred, precision, centred)
    exact -= 0.5 * np.log(np.linalg.det(2 * np.pi * np.array(COVARIANCE)))
    np.testing.assert_allclose(numpy(found), exact, rtol=3e-4, atol=2e-3)
    # z is whitened x: of the same Mahalanobis length.
    lengths = np.einsum("bi,ij,bj->b", centred, precision, centred)
    np.testing.assert_allclose((numpy(z) ** 2).sum(1), lengths, rtol=2e-3)


def test_hutchinsons_estimate_is_exact_over_all_signs():
    x = RNG.standard_normal((3, 2)).astype("float32")
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=2)))
    probes = np.repeat(signs[:, None], 3, axis=1).astype("float32")
    velocity = gaussian_velocity(MEAN, COVARIANCE)
    exact, _ = ode.log_likelihood(velocity, x, num_steps=6)
    found, _ = ode.log_likelihood(velocity, x, num_steps=6, probes=probes)
    np.testing.assert_allclose(numpy(found), numpy(exact), atol=1e-4)
    one, _ = ode.log_likelihood(velocity, x, num_steps=6, probes=probes[:1])
    assert abs(numpy(one) - numpy(exact)).max() > 0.05  # one draw is an estimate


def test_the_divergence_is_the_trace_of_the_jacobian():
    x = RNG.standard_normal((3, 2, 2)).astype("float32")

    def field(x, t):
        return x**3 + ops.flip(x, axis=1) * t[:, None, None] + ops.sin(x) * ops.sum(x, (1, 2), True)

    t = np.array([0.1, 0.5, 0.9], "float32")
    found = ode.divergence(
        field, x, ops.convert_to_tensor(t), ode.unit_probes(ops.convert_to_tensor(x))
    )
    total = x.sum((1, 2), keepdims=True)
    exact = (3 * x**2 + np.cos(x) * total + np.sin(x)).sum((1, 2))
    np.testing.assert_allclose(numpy(found), exact, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ode.integrate(pulse, START, num_steps=4, solver="rk5"), "'rk4'"),
        (lambda: ode.integrate(pulse, START, num_steps=0), "num_steps"),
        (lambda: ode.integrate(pulse, START), "num_steps"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_all_states_of_a_trajectory():
    times = np.linspace(0.0, 2.0, 41)
    states = numpy(ode.trajectory(pulse, START, times=times, solver="rk4"))
    expected = START * np.exp(np.sin(times))[:, None, None]
    np.testing.assert_allclose(states, expected, rtol=1e-5)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_steps_that_look_back_have_their_order_on_uneven_times(order):
    def error(count):
        times = 2 * np.linspace(0, 1, count + 1) ** 1.5
        found = ode.multistep(pulse, START.astype("float64"), times=times, order=order)
        return np.abs(numpy(found) - START * np.exp(np.sin(2.0))).max()

    coarse, fine = error(20), error(40)
    assert coarse < 2 * 0.1**order
    assert order - 0.8 < np.log2(coarse / fine) < order + 1.5


def test_a_walk_of_no_steps_stays_where_it_is():
    np.testing.assert_array_equal(numpy(ode.multistep(pulse, START, times=[0.5])), START)


def test_an_odd_slope_is_looked_back_at_from_the_start():
    """x' = 2 t x/(s² + t²), x = s² + t²: steep at once; slopes mirrored at 0 start in order 5."""
    times, square = np.linspace(0.04, 1.0, 25), 0.01
    x = np.full((1, 1), square)

    def field(x, t):
        return 2 * t[:, None] * x / (square + t[:, None] ** 2)

    for again, error in ((True, 2e-2), (False, 2e-2)):
        found = ode.multistep(field, x, times=times, order=5, odd=True, again=again)
        assert float(found[0, 0]) == pytest.approx(1 + square, rel=error)
    single = ode.multistep(field, x, times=times[:1] / 4, odd=True)
    assert float(single[0, 0]) == pytest.approx(square + 1e-4, rel=1e-4)
