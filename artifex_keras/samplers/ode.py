"""Ordinary differential equations, as flow matching samples and measures by them.

A field is ``field(x, t)`` with x (B, ...) and t of shape (B,), the same time in each row; it gives
dx/dt. A state may be a structure of such tensors; time may run backwards.
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops, tree

from artifex_keras.arguments import integer, lookup
from artifex_keras.backend import input_gradient
from artifex_keras.objectives.elbo import log_normal
from artifex_keras.objectives.masks import as_floats, sum_event

__all__ = [
    "SOLVERS",
    "Solution",
    "Tableau",
    "adaptive",
    "divergence",
    "integrate",
    "log_likelihood",
    "multistep",
    "trajectory",
    "unit_probes",
    "with_divergence",
]


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method: stages ``k_i = f(x + h Σ_j a_ij k_j, t + c_i h)``, then
    ``x + h Σ b_i k_i``. `error` weighs the stages for an estimate of the step's error."""

    a: tuple
    b: tuple
    c: tuple
    error: tuple = ()


# Dormand and Prince, 1980: order 5, its last stage the first one of the next step.
_DOPRI5 = Tableau(
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)

SOLVERS = {
    "euler": Tableau(((),), (1.0,), (0.0,)),
    "midpoint": Tableau(((), (0.5,)), (0.0, 1.0), (0.0, 0.5)),
    "heun": Tableau(((), (1.0,)), (0.5, 0.5), (0.0, 1.0)),
    "rk4": Tableau(
        ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
        (0.0, 0.5, 0.5, 1.0),
    ),
}


def integrate(field, x, *, num_steps=None, solver="euler", start=0.0, end=1.0, times=None):
    """The state at `end`, from `x` at `start`, in `num_steps` steps of equal length.

    Args:
        field: ``field(x, t) -> dx/dt``.
        x: (B, ...), or a structure of such tensors.
        num_steps: a positive integer, unless `times` are given.
        solver: a row of `SOLVERS`: "euler" (order 1, one evaluation per step), "midpoint",
            "heun" (2, two) or "rk4" (4, four); or a `Tableau`.
        start, end: the times.
        times: instead of all these, S + 1 times of S steps, rising or falling.

    Raises:
        ValueError: for an unknown solver, or no step.

    Example:

    ```python
    import numpy as np
    from artifex_keras.samplers.ode import integrate

    x = integrate(lambda x, t: x, np.ones((1, 1), "float32"), num_steps=10, solver="rk4")
    print(x)  # [[e]] = [[2.718]]
    ```
    """
    times = _grid(start, end, num_steps) if times is None else np.asarray(times)
    step, x = _steps(field, x, times, solver)
    return ops.fori_loop(0, len(times) - 1, step, x)


def trajectory(field, x, *, times, solver="euler"):
    """All states from the first to the last, (S + 1, B, ...), of what `integrate` does."""
    step, first = _steps(field, x, np.asarray(times), solver)

    def seen(x, i):
        x = step(i, x)
        return x, x

    _, states = ops.scan(seen, first, ops.arange(len(times) - 1, dtype="int32"))
    return tree.map_structure(lambda x, after: ops.concatenate([x[None], after]), first, states)


def _steps(field, x, times, solver):
    """``(step, x)``: ``step(i, x)`` goes from time i to the next; x is the state to begin with."""
    tableau = solver if isinstance(solver, Tableau) else lookup(SOLVERS, solver, "solver")
    x = tree.map_structure(as_floats, x)
    dtype = tree.flatten(x)[0].dtype
    steps = ops.convert_to_tensor(np.stack([times[:-1], np.diff(times)], 1), dtype=dtype)

    def step(i, x):
        t, h = ops.unstack(ops.take(steps, i, axis=0), 2)
        return _combined(x, h, tableau.b, _stages(field, x, t, h, tableau))

    return step, x


def _grid(start, end, num_steps):
    return np.linspace(start, end, integer("num_steps", num_steps, minimum=1) + 1)


def _stages(field, x, t, h, tableau, first=None):
    """The slopes k_i of one step; `first` is the first one, where it is known."""
    stages = [] if first is None else [first]
    rows = ops.shape(tree.flatten(x)[0])[0]
    for a, c in list(zip(tableau.a, tableau.c, strict=True))[len(stages) :]:
        time = ops.broadcast_to(t + c * h, (rows,))
        slope = field(_combined(x, h, a, stages), time)
        stages.append(tree.map_structure(lambda k, like: ops.cast(k, like.dtype), slope, x))
    return stages


def _combined(x, h, weights, stages):
    """``x + h Σ w_i k_i``, leaf by leaf."""
    used = [(w, k) for w, k in zip(weights, stages, strict=True) if w]
    if not used:
        return x
    weights = [w for w, _ in used]

    def leaf(x, *slopes):
        return x + h * sum(w * k for w, k in zip(weights, slopes, strict=True))

    return tree.map_structure(leaf, x, *(k for _, k in used))


# Steps that look back


def multistep(field, x, *, times, order=4, again=True, odd=False):
    """The state at the last of `times`, from `x` at the first, by Adams's methods of `order`.

    Each step goes from one of `times` to the next, however far that is: a polynomial through the
    slopes before predicts it, one through the new slope as well corrects it, and the slope is asked
    for again, unless `again` is False. That is two evaluations or one a step at any order, at no
    other times than these. The first steps, with little to look back at, are of a lower order.
    Hairer, Nørsett and Wanner, *Solving ordinary differential equations I*, III.5.

    With `odd` x is the state at time 0, before the first of `times`, all above 0, and the slope an
    odd function of time: 0 at 0, and before it what it is after it with the other sign. So it is
    known at five times when the first two are solved for together, by eight evaluations.

    Example:

    ```python
    import numpy as np
    from artifex_keras.samplers.ode import multistep

    x = multistep(lambda x, t: x, np.ones((1, 1), "float32"), times=np.linspace(0, 1, 11) ** 2)
    print(x)  # [[e]] = [[2.718]]
    ```
    """
    x = tree.map_structure(as_floats, x)
    like = tree.flatten(x)[0]
    times = np.asarray(times, "float64")
    order = integer("order", order, minimum=2)

    def slope(x, time):
        time = ops.broadcast_to(ops.cast(time, like.dtype), (ops.shape(like)[0],))
        return tree.map_structure(lambda k, x: ops.cast(k, x.dtype), field(x, time), x)

    if odd:
        x, known = _odd_start(slope, x, times[:2])
        nodes = np.concatenate([-times[1::-1], [0.0], times])
    elif len(times) == 1:
        return x
    else:
        known, nodes = [slope(x, times[0])], times
    return _looking_back(slope, x, nodes, known, order, again)


def _looking_back(slope, x, nodes, known, order, again):
    """The state at the last of `nodes` from x and the slopes that are `known` at the first ones."""
    dtype = tree.flatten(x)[0].dtype
    first = len(known) - 1
    if first == len(nodes) - 1:
        return x
    table = ops.convert_to_tensor(_adams(nodes, order, first), dtype=dtype)
    clock = ops.convert_to_tensor(nodes[first + 1 :], dtype=dtype)

    def step(i, state):
        x, slopes = state
        weights, time = ops.take(table, i, axis=0), ops.take(clock, i, axis=0)
        new = slope(_weighed(x, weights[0], slopes), time)
        pushed = _pushed(slopes, new)
        x = _weighed(x, weights[1], pushed)
        return x, _pushed(slopes, slope(x, time)) if again else pushed

    # The newest slope first; those that don't exist yet have no weight.
    newest = known[: -order - 1 : -1]
    newest += [tree.map_structure(ops.zeros_like, known[0])] * (order - len(newest))
    slopes = tree.map_structure(lambda *k: ops.stack(k), *newest)
    return ops.fori_loop(0, len(nodes) - 1 - first, step, (x, slopes))[0]


def _odd_start(slope, x, times):
    """The state at the last of one or two `times`, and the slopes from -times over 0 to times."""
    powers = np.arange(1, 2 * len(times), 2)  # of an odd polynomial
    integrals = times[:, None] ** (powers + 1) / (powers + 1)
    weights = integrals @ np.linalg.inv(times[:, None] ** powers)
    states = [x] * len(times)
    for _ in range(4):
        slopes = [slope(state, time) for state, time in zip(states, times, strict=True)]
        states = [_combined(x, 1.0, row.tolist(), slopes) for row in weights]
    before = [tree.map_structure(ops.negative, k) for k in slopes[::-1]]
    return states[-1], [*before, tree.map_structure(ops.zeros_like, slopes[0]), *slopes]


def _adams(times, order, first):
    """Weights (S, 2, order) of the slopes, newest first: of the prediction and the correction, for
    the steps from the time of number `first` on."""
    table = np.zeros((len(times) - 1 - first, 2, order))
    for i, row in enumerate(table, first):
        for weights, newest in zip(row, (i, i + 1), strict=True):
            nodes = times[max(0, newest - order + 1) : newest + 1][::-1]
            length = times[i + 1] - times[i]
            # ∫ of the polynomial through the slopes, by the moments of the powers.
            powers = np.vander((nodes - times[i]) / length, increasing=True).T
            moments = length / np.arange(1, len(nodes) + 1)
            weights[: len(nodes)] = np.linalg.solve(powers, moments)
    return table


def _weighed(x, weights, slopes):
    """``x + Σ w_k k``, leaf by leaf."""
    return tree.map_structure(lambda x, k: x + ops.tensordot(weights, k, axes=1), x, slopes)


def _pushed(slopes, new):
    return tree.map_structure(lambda k, new: ops.concatenate([new[None], k[:-1]]), slopes, new)


# Steps as long as the error allows


class Solution(NamedTuple):
    """The state at the end, and how many steps were taken and refused, as int32 scalars."""

    x: object
    accepted: object
    rejected: object


def adaptive(
    field, x, *, start=0.0, end=1.0, rtol=1e-5, atol=1e-5, first_step=0.05, max_steps=1000
):
    """The `Solution` by Dormand and Prince's method of order 5 with step sizes of its own choice.

    A step is kept if the root mean square over the whole state of ``error/(atol + rtol |x|)`` is
    at most 1. All rows take the same steps. Where `max_steps` did not suffice the state is NaN.

    Args:
        field, x, start, end: as for `integrate`.
        rtol, atol: tolerances; in float32 not below 1e-6.
        first_step: the length tried first, as a share of the whole.
        max_steps: the most attempts, refused ones included.
    """
    x = tree.map_structure(as_floats, x)
    like = tree.flatten(x)[0]
    span = ops.convert_to_tensor(float(end) - float(start), dtype=like.dtype)
    rows = ops.shape(like)[0]
    count = ops.convert_to_tensor(0, dtype="int32")
    # Time runs as the share s from 0 to 1 of the way, so that both directions are one case.

    def slope(x, s):
        found = field(x, start + s * span)
        return tree.map_structure(lambda k, like: ops.cast(span * k, like.dtype), found, x)

    def unfinished(x, k, s, h, accepted, rejected):
        return ops.logical_and(s < 1, accepted + rejected < max_steps)

    def attempt(x, k, s, h, accepted, rejected):
        last = s + h >= 1 - 1e-6
        h = ops.where(last, 1 - s, h)
        stages = _stages(slope, x, s, h, _DOPRI5, first=k)
        stepped = _combined(x, h, _DOPRI5.b, stages)
        zeros = tree.map_structure(ops.zeros_like, x)
        error = _scaled_error(_combined(zeros, h, _DOPRI5.error, stages), x, stepped, rtol, atol)
        kept = error <= 1

        def choice(new, old):
            return ops.where(kept, new, old)

        x = tree.map_structure(choice, stepped, x)
        k = tree.map_structure(choice, stages[-1], k)
        s = choice(ops.where(last, ops.ones_like(s), s + h), s)
        # NaN errors are refused above, and shorten the step here.
        factor = 0.9 * ops.power(ops.maximum(error, 1e-10), -0.2)
        h = h * ops.where(ops.isnan(factor), 0.2, ops.clip(factor, 0.2, 5.0))
        took = ops.cast(kept, "int32")
        return x, k, s, h, accepted + took, rejected + 1 - took

    zero = ops.zeros_like(span)
    k = slope(x, ops.broadcast_to(zero, (rows,)))
    state = (x, k, zero, zero + min(first_step, 1.0), count, count)
    x, _, s, _, accepted, rejected = ops.while_loop(unfinished, attempt, state)
    x = tree.map_structure(lambda leaf: ops.where(s < 1, leaf * float("nan"), leaf), x)
    return Solution(x, accepted, rejected)


def _scaled_error(error, x, stepped, rtol, atol):
    """Root mean square of the error over all leaves, in tolerances."""
    squares, count = 0.0, 0
    for e, a, b in zip(*map(tree.flatten, (error, x, stepped)), strict=True):
        tolerance = atol + rtol * ops.maximum(ops.abs(a), ops.abs(b))
        squares = squares + ops.sum(ops.square(e / tolerance))
        count = count + ops.sum(ops.ones_like(e))
    return ops.sqrt(squares / count)


# Divergence and likelihood


def unit_probes(x):
    """The D unit vectors of an event of `x`, (D, 1, ...): with them the divergence is exact."""
    shape = tuple(x.shape[1:])
    size = math.prod(shape)
    return ops.reshape(ops.eye(size, dtype=x.dtype), (size, 1, *shape))


def divergence(field, x, t, probes):
    """``Σ_k v_kᵀ (∂f/∂x) v_k``, (B,): the trace, for `unit_probes`; one backward pass for each v.

    `probes` (K, B or 1, ...). For draws with E v vᵀ = I, divide by K (Hutchinson's estimate).
    """
    x = as_floats(x)
    probes = ops.cast(probes, x.dtype)

    def add(k, total):
        v = ops.take(probes, k, axis=0)
        product = input_gradient(lambda x: ops.cast(field(x, t), x.dtype) * v, x)
        return total + sum_event(product * v)

    return ops.fori_loop(0, probes.shape[0], add, sum_event(ops.zeros_like(x)))


def with_divergence(velocity, probes=None):
    """The field of ``(x, ∫ div v)``: the velocity and its divergence, (B,).

    `probes` as for `log_likelihood`.
    """

    def field(state, t):
        x = state[0]
        v = unit_probes(x) if probes is None else ops.convert_to_tensor(probes)
        share = 1.0 if probes is None else 1.0 / v.shape[0]
        return velocity(x, t), share * divergence(velocity, x, t, v)

    return field


def log_likelihood(
    velocity, x, *, probes=None, base_log_prob=log_normal, num_steps=50, solver="rk4", **options
):
    """``(ln p(x), z)``: nats per example, (B,), and the noise that flows into x.

    ``ln p_1(x) = ln p_0(z) - ∫ tr ∂v/∂x dt`` along the path from noise at t = 0 to data at t = 1,
    followed back from x. 1806.07366.

    Args:
        velocity: ``v(x, t)``.
        x: (B, ...) data.
        probes: None for the exact trace, D backward passes per evaluation; or (K, B, ...) draws,
            of signs ±1 or of normals, for Hutchinson's estimate. They stay the same along the
            whole path, so that the integrand is smooth (1810.01367).
        base_log_prob: ln p_0, standard normal by default.
        num_steps, solver: of `integrate`; the solver "dopri5" is `adaptive` and takes no
            `num_steps`.
        options: further ones of `integrate` or `adaptive`.
    """
    x = as_floats(x)
    field = with_divergence(velocity, probes)
    state = (x, sum_event(ops.zeros_like(x)))
    options = {"start": 1.0, "end": 0.0, **options}
    if solver == "dopri5":
        z, integral = adaptive(field, state, **options).x
    else:
        z, integral = integrate(field, state, num_steps=num_steps, solver=solver, **options)
    # From 1 back to 0 the integral comes out with the opposite sign.
    return ops.cast(base_log_prob(z), integral.dtype) + integral, z
