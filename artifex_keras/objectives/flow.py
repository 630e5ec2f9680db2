"""The terms of normalizing flows and of flow matching.

Flow matching's time runs from noise x_0 at t = 0 to data x_1 at t = 1. Log-densities and
log-determinants are nats per example, (B,), summed over event axes; regression losses average over
them.
"""

import math
from typing import NamedTuple

from keras import ops, tree

from artifex_keras.arguments import lookup
from artifex_keras.objectives.diffusion import bits_per_dim, logit_normal_times, uniform_times
from artifex_keras.objectives.elbo import log_normal
from artifex_keras.objectives.masks import as_floats, mean_event, sum_event

__all__ = [
    "CLOCKS",
    "PATHS",
    "TIME",
    "TIME_SAMPLINGS",
    "Clock",
    "PathFactors",
    "bits_per_dim",
    "change_of_variables",
    "data_prediction",
    "dequantized",
    "interpolation",
    "linear_path",
    "logit",
    "noise_prediction",
    "ot_assignment",
    "ot_coupling",
    "path_factors",
    "path_score",
    "sigma_min_path",
    "sinkhorn",
    "standardized",
    "times",
    "trigonometric_path",
    "u_shaped_times",
    "vp_clock",
    "vp_path",
    "vp_place",
    "velocity_error",
]


def velocity_error(velocity, target):
    """``mean (u - v)²`` over event axes, (B,): conditional flow matching. 2210.02747."""
    velocity, target = as_floats(velocity, target)
    return mean_event(ops.square(target - velocity))


# Paths x_t = α x_1 + β x_0


class PathFactors(NamedTuple):
    """α of data, β of noise, and their derivatives with respect to t."""

    data: object
    noise: object
    data_rate: object
    noise_rate: object


def linear_path(t):
    """``x_t = t x_1 + (1-t) x_0``: rectified flow, 2209.03003."""
    one = ops.ones_like(t)
    return PathFactors(t, 1 - t, one, -one)


def sigma_min_path(t, sigma_min=1e-4):
    """``x_t = t x_1 + (1 - (1-σ) t) x_0``: the optimal-transport path of 2210.02747, which
    leaves noise of deviation σ = `sigma_min` on the data."""
    one = ops.ones_like(t)
    return PathFactors(t, 1 - (1 - sigma_min) * t, one, (sigma_min - 1) * one)


def trigonometric_path(t):
    """``x_t = sin(πt/2) x_1 + cos(πt/2) x_0``, of constant variance. 2303.08797."""
    angle, rate = math.pi / 2 * t, math.pi / 2
    sine, cosine = ops.sin(angle), ops.cos(angle)
    return PathFactors(sine, cosine, rate * cosine, -rate * sine)


def vp_path(t, beta_min=0.1, beta_max=20.0, end=1 - 1e-5):
    """``x_t = α x_1 + √(1-α²) x_0``, ``α = e^{-T(1-t)/2}``, ``T(s) = s β_0 + s² (β_1-β_0)/2``.

    The diffusion path of 2210.02747. Its velocity is infinite at t = 1: t stops at `end`.
    """
    left = 1 - ops.minimum(t, end)
    log_alpha = -0.5 * (left * beta_min + 0.5 * ops.square(left) * (beta_max - beta_min))
    alpha, sigma = ops.exp(log_alpha), ops.sqrt(-ops.expm1(2 * log_alpha))
    rate = 0.5 * (beta_min + left * (beta_max - beta_min)) * alpha
    return PathFactors(alpha, sigma, rate, -alpha * rate / sigma)


def vp_clock(u, beta_min=0.1, beta_max=20.0, end=1 - 1e-5):
    """``(t, dt/du)`` of the variable u in which the vp path is smooth, from data at 0 to noise at
    π/2: ``tan² u = tan φ = √(1-α²)/α``.

    Over t the velocity is infinite at t = 1, as 1/√(1-t), and no solver's order holds; over u it
    vanishes at both ends. u also covers what t leaves out: from α(0) = .0066 to pure noise the
    slope over the angle φ stays that of t = 0; behind `end` it falls to 0, as the mean of the noise
    does.
    """
    tangent = ops.square(ops.tan(u))
    growth = beta_max - beta_min
    rise = ops.log1p(ops.square(tangent))  # T of `vp_path`
    left = 2 * rise / (beta_min + ops.sqrt(beta_min**2 + 2 * growth * rise))
    t = 1 - ops.clip(left, 1 - end, 1.0)
    factors = vp_path(t, beta_min, beta_max, end)
    double = ops.sin(2 * u)
    angle_rate = 2 * double / (2 - ops.square(double))  # dφ/du
    behind = ops.minimum(tangent * factors.data / factors.noise, 1.0)
    return t, -factors.noise / factors.data_rate * angle_rate * behind


def vp_place(t, beta_min=0.1, beta_max=20.0):
    """u of `vp_clock` at a number t in [0, 1]: 0 at t = 1, π/2 at t = 0."""
    left = 1 - t
    rise = left * beta_min + 0.5 * left**2 * (beta_max - beta_min)
    return math.atan(math.expm1(rise) ** 0.25) if t > 0 else math.pi / 2


class Clock(NamedTuple):
    """The variable that a path's velocity is integrated over: ``at(u)`` gives t and dt/du,
    ``of(t)`` the u of a number t."""

    at: object
    of: object


TIME = Clock(lambda t: (t, ops.ones_like(t)), float)
CLOCKS = {"vp": Clock(vp_clock, vp_place)}  # of paths that aren't smooth over t itself


PATHS = {
    "linear": linear_path,
    "ot": sigma_min_path,
    "trigonometric": trigonometric_path,
    "vp": vp_path,
}


def path_factors(t, path="linear", like=None, **options):
    """The `PathFactors` at t (B,) of a row of `PATHS`, broadcasting against a tensor `like`.

    Raises:
        ValueError: for an unknown name.
    """
    t = as_floats(t)
    if like is not None:
        t = ops.cast(t, like.dtype)
        missing = len(like.shape) - len(t.shape)
        t = ops.reshape(t, tuple(ops.shape(t)) + (1,) * max(missing, 0))
    return lookup(PATHS, path, "path")(t, **options)


def interpolation(x0, x1, t, path="linear", *, noise=None, sigma=0.0, bridge=False, **options):
    """``(x_t, u)`` at t (B,) between noise x_0 and data x_1: the point and its target velocity.

    ``u = α' x_1 + β' x_0``. With `noise` n, ``σ n`` is added to x_t and u stays (I-CFM). A
    Schrödinger `bridge` adds ``σ √(t(1-t)) n`` to x_t and its derivative,
    ``(1-2t)/(2√(t(1-t))) σ n``, to u, with t kept 1e-3 away from its ends, where that is
    infinite. 2302.00482.

    Args:
        x0, x1: (B, ...), paired by row.
        t: (B,) in [0, 1].
        path: a row of `PATHS`.
        noise: (B, ...) standard normal draws, needed where `sigma` is not 0.
        sigma: σ.
        bridge: whether σ follows the Schrödinger bridge.
        options: the row's own, such as `sigma_min`.

    Raises:
        ValueError: for an unknown path, or one of `noise` and `sigma` without the other.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.flow import interpolation

    noise, data, t = np.zeros((1, 2)), np.ones((1, 2)), np.array([0.25])
    x_t, velocity = interpolation(noise, data, t)
    print(x_t, velocity)  # [[0.25 0.25]] [[1 1]]
    ```
    """
    x0, x1 = as_floats(x0, x1)
    if isinstance(sigma, int | float) and (noise is None) is not (sigma == 0):
        raise ValueError(
            "`noise` and a `sigma` above 0 belong together. "
            f"Received: sigma={sigma}, noise={'None' if noise is None else 'an array'}."
        )
    factors = path_factors(t, path, x1, **options)
    x_t = factors.data * x1 + factors.noise * x0
    u = factors.data_rate * x1 + factors.noise_rate * x0
    if noise is None:
        return x_t, u
    noise = sigma * ops.cast(noise, x1.dtype)
    if not bridge:
        return x_t + noise, u
    t = ops.clip(path_factors(t, "linear", x1).data, 1e-3, 1 - 1e-3)
    std = ops.sqrt(t * (1 - t))
    return x_t + std * noise, u + (0.5 - t) / std * noise


def data_prediction(velocity, x_t, t, path="linear", **options):
    """x̂_1 from v, for the linear path ``x_t + (1-t) v``.

    In general ``(β v - β' x_t)/(β α' - β' α)``.
    """
    v, x_t = as_floats(velocity, x_t)
    f = path_factors(t, path, x_t, **options)
    return (f.noise * v - f.noise_rate * x_t) / (f.noise * f.data_rate - f.noise_rate * f.data)


def noise_prediction(velocity, x_t, t, path="linear", **options):
    """x̂_0 from v, for the linear path ``x_t - t v``.

    In general ``(α' x_t - α v)/(β α' - β' α)``.
    """
    v, x_t = as_floats(velocity, x_t)
    f = path_factors(t, path, x_t, **options)
    return (f.data_rate * x_t - f.data * v) / (f.noise * f.data_rate - f.noise_rate * f.data)


def path_score(velocity, x_t, t, path="linear", **options):
    """``∇ ln p_t(x_t) = -x̂_0/β`` from v, for the linear path ``(t v - x_t)/(1-t)``.

    Infinite where no noise is left, at t = 1.
    """
    noise = noise_prediction(velocity, x_t, t, path, **options)
    return -noise / path_factors(t, path, noise, **options).noise


# Times to train at, in [0, 1], of the shape of the uniform draws u


def u_shaped_times(u, steepness=4.0):
    """Times of density ``∝ e^{at} + e^{a(1-t)}``: most often near both ends. 2405.20320.

    ``t = ½ + asinh((2u-1) sinh(a/2))/a`` with a = `steepness`.
    """
    centred = (2 * as_floats(u) - 1) * math.sinh(steepness / 2)
    return 0.5 + ops.arcsinh(centred) / steepness


TIME_SAMPLINGS = {
    "uniform": uniform_times,
    "logit_normal": logit_normal_times,
    "u_shaped": u_shaped_times,
}


def times(u, sampling="uniform", **options):
    """Times in [0, 1] of that density, a row of `TIME_SAMPLINGS`, from uniform draws `u`.

    Raises:
        ValueError: for an unknown name.
    """
    return lookup(TIME_SAMPLINGS, sampling, "time sampling")(u, **options)


# Optimal transport between the noise and the data of one batch


def sinkhorn(cost, *, epsilon=0.05, iterations=100):
    """ln of the entropic transport plan, (N, M), for a `cost` of that shape and equal weights.

    `epsilon` counts in means of the cost, so that it means the same whatever the data's scale;
    rows sum to 1/N approximately, columns to 1/M exactly. 1306.0895, in logarithms.
    """
    cost = as_floats(cost)
    # A graph of TensorFlow may not know how many there are.
    log_rows, log_columns = (ops.log(ops.cast(n, cost.dtype)) for n in ops.shape(cost))
    log_kernel = -cost / (epsilon * ops.maximum(ops.mean(cost), 1e-12))

    def scaled(_, potentials):
        _, g = potentials
        f = -log_rows - ops.logsumexp(log_kernel + g[None], axis=1)
        return f, -log_columns - ops.logsumexp(log_kernel + f[:, None], axis=0)

    start = (ops.zeros_like(cost[:, 0]), ops.zeros_like(cost[0]))
    f, g = ops.fori_loop(0, iterations, scaled, start)
    return log_kernel + f[:, None] + g[None]


def ot_assignment(x0, x1, u, *, conditions=None, condition_cost=1.0, epsilon=0.05, iterations=100):
    """The row of `x1` that each row of `x0` is sent to, int32 (N,), drawn from the plan.

    The cost is ``‖x_0 - x_1‖²``. A coupling that ignores the labels skews a conditional model:
    with `conditions`, those of `x1` by row, row i of the noise keeps to condition i, at a price of
    `condition_cost` times the mean cost for each other label, and in proportion to the squared
    distance of vectors. 2302.00482, 2503.10636.

    Args:
        x0, x1: (N, ...) and (N, ...).
        u: (N, N) uniform draws.
        conditions: None, labels (N,) or vectors (N, ...).
        epsilon, iterations: of `sinkhorn`.
    """
    x0, x1, u = as_floats(x0, x1, u)
    x0, x1 = (ops.reshape(x, (-1, math.prod(x.shape[1:]))) for x in (x0, x1))
    cost = _squared_distances(x0, x1)
    if conditions is not None:
        cost = cost + condition_cost * ops.mean(cost) * _condition_distances(conditions, cost.dtype)
    log_plan = sinkhorn(ops.stop_gradient(cost), epsilon=epsilon, iterations=iterations)
    # The largest of ln p + Gumbel noise is a draw from p.
    gumbel = -ops.log(-ops.log(ops.clip(u, 1e-7, 1 - 1e-6)))
    return ops.cast(ops.argmax(log_plan + gumbel, axis=1), "int32")


def _squared_distances(a, b):
    """‖a_i - b_j‖², (N, M), of rows (N, D) and (M, D)."""
    squares = ops.sum(ops.square(a), 1)[:, None] + ops.sum(ops.square(b), 1)[None]
    return ops.maximum(squares - 2 * ops.matmul(a, ops.transpose(b)), 0.0)


def _condition_distances(conditions, dtype):
    """1 between different labels; between vectors the squared distance over the mean one."""
    conditions = ops.convert_to_tensor(conditions)
    if len(conditions.shape) == 1:
        return ops.cast(ops.not_equal(conditions[:, None], conditions[None]), dtype)
    flat = ops.reshape(ops.cast(conditions, dtype), (-1, math.prod(conditions.shape[1:])))
    squares = _squared_distances(flat, flat)
    return squares / ops.maximum(ops.mean(squares), 1e-12)


def ot_coupling(x0, x1, u, *along, **options):
    """``(x_1, *along)`` with rows moved to the noise they are assigned to (`ot_assignment`).

    Labels, weights and whatever else belongs to the rows of `x1` come along, each a tensor or a
    structure of them; None stays None.
    """
    rows = ot_assignment(x0, x1, u, **options)
    permuted = tree.map_structure(
        lambda part: ops.take(part, rows, axis=0), (x1, *along), none_is_leaf=False
    )
    return permuted if along else permuted[0]


# Likelihood by change of variables


def change_of_variables(z, log_det, base_log_prob=None):
    """``ln p(x) = ln p_z(z) + ln|det ∂z/∂x|``, (B,) in nats, the base standard normal by default.

    `log_det` is that of the direction from data to base, summed over event axes.
    """
    base_log_prob = log_normal(z) if base_log_prob is None else base_log_prob
    base_log_prob, log_det = as_floats(base_log_prob, log_det)
    return base_log_prob + log_det


def dequantized(x, u, levels=256):
    """``(y, ln|det|)``: ``y = (x + u)/Q`` in [0, 1) of integers 0 .. Q-1, and ``-D ln Q``, (B,).

    `u` in [0, 1) has the shape of `x`. On average ln p(y) with this term is
    a lower bound of the log-probability of x. `bits_per_dim(-log_prob, D)` of it is an upper bound
    of the code length, and `elbo.importance_weighted_bound` over several draws of u a tighter one.
    1511.01844, 1605.08803.
    """
    x, u = as_floats(x, u)
    return (x + u) / levels, sum_event(ops.full_like(x, -math.log(levels)))


def logit(y, alpha=0.05):
    """``(z, ln|det|)``: ``z = ln v - ln(1-v)``, ``v = α/2 + (1-α) y``, of y in [0, 1].

    The log-determinant is ``Σ ln(1-α) - ln v - ln(1-v)``, (B,). 1605.08803.
    """
    y = as_floats(y)
    v = alpha / 2 + (1 - alpha) * y
    log_v, log_rest = ops.log(v), ops.log1p(-v)
    return log_v - log_rest, sum_event(math.log1p(-alpha) - log_v - log_rest)


def standardized(x, mean, std):
    """``(z, ln|det|)``: ``z = (x - μ)/s`` and ``-Σ ln s``, (B,); both broadcast against `x`."""
    x, mean, std = as_floats(x, mean, std)
    return (x - mean) / std, -sum_event(ops.log(std) + ops.zeros_like(x))
