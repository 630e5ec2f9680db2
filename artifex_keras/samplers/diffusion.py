"""Samplers of diffusion models as free functions of a denoiser.

A denoiser is ``denoise(x_t, t) -> x̂_0`` with t of shape (B,), as the schedule counts it. Given x̂_0,
every step here is linear,

    y ← keep · y + data · x̂_0(y, t) + previous · x̂_0(before) + scale · n,

so a sampler is a table of such coefficients, in float64, and one compiled loop runs any of them
with one evaluation of the network per row. Clipping x̂_0 therefore changes ε̂ along with it.

``x_t = a x_0 + s ε``; a dash marks the next level, which has less noise; the last is (1, 0).
"""

from typing import NamedTuple

import numpy as np
from keras import ops

from artifex_keras.arguments import lookup, share
from artifex_keras.objectives.masks import as_floats
from artifex_keras.samplers.noise_schedules import EDMSchedule

__all__ = [
    "SAMPLERS",
    "Coefficients",
    "Sampler",
    "ddim",
    "ddim_coefficients",
    "ddpm",
    "ddpm_coefficients",
    "dpm_solver",
    "dpm_solver_coefficients",
    "euler",
    "euler_ancestral",
    "euler_coefficients",
    "guidance",
    "heun",
    "heun_coefficients",
    "inpainted",
    "probability_flow",
    "run",
    "sample",
    "slerp",
    "trajectory",
]


class Coefficients(NamedTuple):
    """The coefficients of one sampler, K rows of them, in numpy.

    `timesteps` at which the network is asked; the factors `keep`, `data`, `previous` and `scale`
    of the update; `draw`, the number of the noise array that `scale` multiplies; `start`, the
    factor of noise 0 added to the first state.
    """

    timesteps: np.ndarray
    keep: np.ndarray
    data: np.ndarray
    previous: np.ndarray
    scale: np.ndarray
    draw: np.ndarray
    start: float = 0.0


def _coefficients(timesteps, keep, data, previous=0.0, scale=0.0):
    count = np.zeros(len(timesteps))
    return Coefficients(
        timesteps, keep, data, previous + count, scale + count, np.arange(len(timesteps))
    )


# The samplers' coefficients for S timesteps, which fall


def ddim_coefficients(schedule, timesteps, *, eta=0.0):
    """``x' = a' x̂_0 + √(s'² - σ²) ε̂ + σ n``, ``σ = η s' √(1 - (a s'/(a' s))²)``. 2010.02502 eq. 12.

    η = 0 is deterministic: Euler's method for the probability-flow ODE in s/a. η = 1 is ancestral
    sampling with the posterior's variance, in σ's terms "Euler ancestral".
    """
    eta = share("eta", eta)
    a, s = schedule.levels(timesteps)
    scale = eta * s[1:] * np.sqrt(1 - (a[:-1] * s[1:] / (a[1:] * s[:-1])) ** 2)
    keep = np.sqrt(s[1:] ** 2 - scale**2) / s[:-1]
    return _coefficients(timesteps, keep, a[1:] - keep * a[:-1], scale=scale)


def ddpm_coefficients(schedule, timesteps, *, variance="posterior"):
    """Ancestral sampling: the mean of q(x'|x_t, x̂_0), and its variance or the larger β.

    The step from t to t' has ``β = s² - (a/a')² s'²``, for neighbours the schedule's own β_t;
    ``β̃ = β s'²/s²`` is the posterior's. No noise in the last step. 2006.11239 section 3.2.
    """
    coefficients = ddim_coefficients(schedule, timesteps, eta=1.0)
    a, s = schedule.levels(timesteps)
    large = np.sqrt(s[:-1] ** 2 - (a[:-1] / a[1:] * s[1:]) ** 2)
    large[-1] = 0.0
    return coefficients._replace(
        scale=lookup({"posterior": coefficients.scale, "beta": large}, variance, "variance")
    )


def dpm_solver_coefficients(schedule, timesteps):
    """DPM-Solver++ 2M: ``x' = (s'/s) x + a'(1 - e^{-h}) [(1 + c) x̂_0 - c x̂_0(before)]``.

    ``h = λ' - λ``, ``λ = ln(a/s)``, ``c = h/(2 h_before)``; the first and the last step have
    c = 0. Second order with one evaluation per step. 2211.01095 algorithm 2.
    """
    a, s = schedule.levels(timesteps)
    with np.errstate(divide="ignore"):
        h = np.diff(np.log(a / s))
    second = np.zeros(len(h))
    second[1:] = np.where(np.isfinite(h[1:]), h[1:], 0.0) / (2 * h[:-1])
    data = a[1:] * -np.expm1(-h)
    return _coefficients(timesteps, s[1:] / s[:-1], data * (1 + second), previous=-data * second)


def euler_coefficients(
    schedule, timesteps, *, churn=0.0, churn_range=(0.0, np.inf), churn_noise=1.0
):
    """Euler's method for ``dx̄/dσ = (x̄ - x̂_0)/σ``, ``x̄ = x/a``, ``σ = s/a``: DDIM at η = 0.

    `churn` above 0 first raises σ by the factor ``1 + min(churn/S, √2-1)`` where it lies in
    `churn_range`, with noise of `churn_noise` times the right scale. 2206.00364 algorithm 2;
    only for EDM's schedule, which has levels between its timesteps.
    """
    options = {"churn": churn, "churn_range": churn_range, "churn_noise": churn_noise}
    raised, added = _churned(schedule, np.asarray(timesteps), **options)
    a, s, a_after, s_after = _pairs(schedule, raised, timesteps)
    keep, count = s_after / s, np.arange(len(raised))
    return Coefficients(
        raised,
        keep,
        a_after - keep * a,
        0.0 * keep,
        np.append(added[1:], 0.0),  # what raises the next step's level
        np.minimum(count + 1, count[-1]),
        added[0],
    )


def heun_coefficients(
    schedule, timesteps, *, churn=0.0, churn_range=(0.0, np.inf), churn_noise=1.0
):
    """Heun's method for the ODE of `euler_coefficients`, with its churn: two rows per step but the
    last.

    After Euler's step to x', ``x' + a'/2 (σ/σ' - 1)(x̂_0(x', t') - x̂_0(x, t))``. From pure noise
    without data, where σ is infinite, and to the clean data Euler's step is all. 2206.00364.
    """
    options = {"churn": churn, "churn_range": churn_range, "churn_noise": churn_noise}
    coefficients = euler_coefficients(schedule, timesteps, **options)
    a, s, a_after, s_after = (x[:-1] for x in _pairs(schedule, coefficients.timesteps, timesteps))
    # a'/2 (σ/σ' - 1), none where a = 0.
    ratio = np.divide(s * a_after, a * s_after, out=np.ones_like(a), where=a > 0)
    correction = a_after / 2 * (ratio - 1)
    none = np.zeros_like(coefficients.scale)
    return Coefficients(
        _woven(coefficients.timesteps, np.asarray(timesteps)[1:]),
        _woven(coefficients.keep, np.ones_like(correction)),
        _woven(coefficients.data, correction),
        _woven(coefficients.previous, -correction),
        np.append(_woven(none, coefficients.scale)[:-1], coefficients.scale[-1]),
        _woven(coefficients.draw, coefficients.draw[:-1]),
        coefficients.start,
    )


def _pairs(schedule, raised, timesteps):
    """``a, s, a', s'`` of each step, from its (raised) level to the next one."""
    return *(x[:-1] for x in schedule.levels(raised)), *(x[1:] for x in schedule.levels(timesteps))


def _woven(even, odd):
    """``even[0], odd[0], even[1], ..``, beginning and ending with `even`."""
    return np.insert(even, np.arange(1, len(even)), odd[: len(even) - 1])


def _churned(schedule, timesteps, churn, churn_range, churn_noise):
    """The timesteps with their σ raised, and the scale of the noise that raises each state."""
    if not churn:
        return timesteps, np.zeros(len(timesteps))
    if not isinstance(schedule, EDMSchedule) or churn < 0:
        raise ValueError(
            "`churn` must not be negative, and needs EDM's schedule, which has levels between its "
            f"timesteps. Received: churn={churn}, a {type(schedule).__name__}."
        )
    sigma = schedule.levels(timesteps)[1][:-1]
    inside = (churn_range[0] <= sigma) & (sigma <= churn_range[1])
    raised = sigma * (1 + inside * min(churn / len(sigma), np.sqrt(2) - 1))
    return np.log(raised) / 4, churn_noise * np.sqrt(raised**2 - sigma**2)


# Running them


def run(coefficients, denoise, x, *, noise=None, clip=None):
    """The state after all rows of `coefficients`, from the first state `x` (B, ...): the samples.

    Args:
        coefficients: the sampler.
        denoise: ``denoise(x_t, t) -> x̂_0``, t of shape (B,).
        x: noise with the scale of the first level.
        noise: ``(S, B, ...)`` standard normal draws; None for a deterministic sampler.
        clip: None, or ``(low, high)``: the range of the data, to which x̂_0 is clipped.

    Raises:
        ValueError: for noise that is missing or of another shape.
    """
    step, first = _steps(coefficients, denoise, x, noise, clip)
    state = (first, ops.zeros_like(first))
    return ops.fori_loop(0, len(coefficients.timesteps), lambda i, state: step(state, i), state)[0]


def trajectory(coefficients, denoise, x, *, noise=None, clip=None):
    """All states from the first to the last, (K + 1, B, ...), of what `run` does."""
    step, first = _steps(coefficients, denoise, x, noise, clip)

    def seen(state, i):
        state = step(state, i)
        return state, state  # of one structure, as Keras's scan needs it on TensorFlow

    count = ops.arange(len(coefficients.timesteps), dtype="int32")
    _, (states, _) = ops.scan(seen, (first, ops.zeros_like(first)), count)
    return ops.concatenate([first[None], states])


def _steps(coefficients, denoise, x, noise, clip):
    """``(step, x)``: ``step((y, x̂_0 before), i)`` is row i; x is the state to begin with."""
    x = as_floats(x)
    noise = _checked_noise(coefficients, x, noise)
    table = np.stack(
        [coefficients.keep, coefficients.data, coefficients.previous, coefficients.scale], axis=1
    )
    table = ops.convert_to_tensor(table, dtype=x.dtype)
    integral = np.issubdtype(coefficients.timesteps.dtype, np.integer)
    timesteps = ops.convert_to_tensor(
        coefficients.timesteps, dtype="int32" if integral else x.dtype
    )
    draws = ops.convert_to_tensor(coefficients.draw, dtype="int32")
    x = x if noise is None or not coefficients.start else x + float(coefficients.start) * noise[0]

    def step(state, i):
        y, before = state
        t = ops.broadcast_to(ops.take(timesteps, i, axis=0), (ops.shape(y)[0],))
        x_start = ops.cast(denoise(y, t), y.dtype)
        x_start = x_start if clip is None else ops.clip(x_start, *clip)
        keep, data, previous, scale = ops.unstack(ops.take(table, i, axis=0), 4)
        y = keep * y + data * x_start + previous * before
        if noise is not None:
            y = y + scale * ops.take(noise, ops.take(draws, i, axis=0), axis=0)
        return y, x_start

    return step, x


def _checked_noise(coefficients, x, noise):
    stochastic = bool(coefficients.start or np.any(coefficients.scale))
    if stochastic and noise is None:
        raise ValueError("A stochastic sampler needs `noise`. Received: noise=None.")
    if noise is None:
        return None
    noise = ops.cast(noise, x.dtype)
    count = coefficients.draw[-1] + 1
    if tuple(noise.shape[1:]) != tuple(x.shape) or noise.shape[0] < count:
        raise ValueError(
            f"`noise` must hold {count} arrays of the shape of the state, {tuple(x.shape)}. "
            f"Received: noise of shape {tuple(noise.shape)}."
        )
    return noise


def _check_noise_is_used(noise, name, amount):
    if noise is not None and not amount:
        raise ValueError(
            f"`noise` is for `{name}` above 0 and ignored otherwise. "
            f"Received: an array and {name}={amount}."
        )


def ddim(denoise, x, schedule, timesteps, *, eta=0.0, noise=None, clip=None):
    """Samples by `ddim_coefficients` and `run`; `noise` (S, B, ...) where η > 0, and only there."""
    _check_noise_is_used(noise, "eta", eta)
    return run(ddim_coefficients(schedule, timesteps, eta=eta), denoise, x, noise=noise, clip=clip)


def ddpm(denoise, x, schedule, timesteps, *, noise, variance="posterior", clip=None):
    """Samples by `ddpm_coefficients` and `run`."""
    coefficients = ddpm_coefficients(schedule, timesteps, variance=variance)
    return run(coefficients, denoise, x, noise=noise, clip=clip)


def euler_ancestral(denoise, x, schedule, timesteps, *, noise, eta=1.0, clip=None):
    """Euler's step to ``σ_down = √(σ'² - σ_up²)``, then noise of ``σ_up = η σ' √(1 - σ'²/σ²)``.

    The same as `ddim` with this η, which is 1 by custom.
    """
    return ddim(denoise, x, schedule, timesteps, eta=eta, noise=noise, clip=clip)


def euler(denoise, x, schedule, timesteps, *, noise=None, clip=None, **churn):
    """Samples by `euler_coefficients` and `run`; `noise` (S, B, ...) where there is churn."""
    _check_noise_is_used(noise, "churn", churn.get("churn", 0.0))
    return run(euler_coefficients(schedule, timesteps, **churn), denoise, x, noise=noise, clip=clip)


def heun(denoise, x, schedule, timesteps, *, noise=None, clip=None, **churn):
    """Samples by `heun_coefficients` and `run`: 2S - 1 evaluations. `noise` as for `euler`."""
    _check_noise_is_used(noise, "churn", churn.get("churn", 0.0))
    return run(heun_coefficients(schedule, timesteps, **churn), denoise, x, noise=noise, clip=clip)


def dpm_solver(denoise, x, schedule, timesteps, *, clip=None):
    """Samples by `dpm_solver_coefficients` and `run`."""
    return run(dpm_solver_coefficients(schedule, timesteps), denoise, x, clip=clip)


class Sampler(NamedTuple):
    """``sample(denoise, x, schedule, timesteps, ...)``, and whether it needs `noise` as it is."""

    sample: object
    stochastic: bool


SAMPLERS = {
    "ddpm": Sampler(ddpm, True),
    "ddim": Sampler(ddim, False),
    "euler": Sampler(euler, False),
    "euler_ancestral": Sampler(euler_ancestral, True),
    "heun": Sampler(heun, False),
    "dpm++": Sampler(dpm_solver, False),
}


def sample(denoise, x, schedule, timesteps, *, sampler="ddim", **options):
    """Samples (B, ...) of a row of `SAMPLERS` from ``x = s ε`` at the first timestep's level.

    Args:
        denoise: ``denoise(x_t, t) -> x̂_0``, t of shape (B,).
        x: (B, ...), the first state.
        schedule: a `NoiseSchedule`.
        timesteps: falling, as `schedule.timesteps(num_steps)` gives them.
        sampler: a name in `SAMPLERS`.
        options: the sampler's own: `noise`, `clip`, `eta`, `variance`, `churn`, ...

    Raises:
        ValueError: for an unknown name, or noise that doesn't fit.

    Example:

    ```python
    import numpy as np
    from artifex_keras.samplers import diffusion
    from artifex_keras.samplers.noise_schedules import NoiseSchedule

    schedule = NoiseSchedule("cosine", 100)
    steps = schedule.timesteps(10)
    x = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    zeros = diffusion.sample(lambda x, t: 0 * x, x, schedule, steps)  # a denoiser that says "0"
    ```
    """
    return lookup(SAMPLERS, sampler, "sampler").sample(denoise, x, schedule, timesteps, **options)


# Denoisers made from other denoisers


def guidance(unconditional, conditional, scale, *, rescale=0.0):
    """``g = u + w (c - u)``, classifier-free guidance: w = 1 is the conditional prediction c.

    With `rescale` φ the answer is ``φ g std(c)/std(g) + (1-φ) g``, standard deviations over event
    axes: it keeps large w from overexposing. 2207.12598, whose w is one less; 2305.08891 eq. 15,
    which rescales the network's own answer, v.
    """
    u, c = as_floats(unconditional, conditional)
    guided = u + scale * (c - u)
    if not rescale:
        return guided
    axes = tuple(range(1, len(c.shape)))
    ratio = ops.std(c, axes, keepdims=True) / ops.maximum(
        ops.std(guided, axes, keepdims=True), 1e-8
    )
    return guided * (rescale * ratio + 1 - rescale)


def probability_flow(denoise, schedule):
    """The field ``dx̄/dσ = (x̄ - x̂_0)/σ`` with x̄ = x_t/a and σ = s/a, for the functions of `ode`.

    σ takes the place of the time. ``integrate(field, x̄, times=sigmas)`` with falling values of
    ``s/a`` at the schedule's timesteps draws samples, with rising ones it encodes data as noise,
    and `log_likelihood` with rising ones, from data, gives their likelihood under the base at
    the last σ: N(0, 1 + σ²) where the variance is kept. A discrete schedule's network knows its
    own timesteps only: use "euler" or "heun" with it, which ask for no others. 2011.13456.
    """

    def field(x, sigma):
        t = schedule.timestep_at(sigma)
        a, s = schedule.scales(t, x)
        return (x - ops.cast(denoise(a * x, t), x.dtype)) * a / s

    return field


def inpainted(denoise, known, mask):
    """The denoiser whose x̂_0 is `known` wherever `mask` is true: the rest is sampled to fit.

    `known` and `mask` broadcast against the samples. An approximation: while there is noise, the
    rest sees the known part through it. 2212.00490, its null-space form for a mask.
    """

    def replaced(x_t, t):
        x_start = denoise(x_t, t)
        return ops.where(mask, ops.cast(known, x_start.dtype), x_start)

    return replaced


def slerp(start, end, share):
    """``(sin((1-u)θ) z_0 + sin(uθ) z_1)/sin θ`` for u = `share`, θ the angle between each pair.

    Between two draws of noise, (B, ...), it keeps their length, which a straight line shortens.
    """
    start, end = as_floats(start, end)
    share = ops.cast(share, start.dtype)
    axes = tuple(range(1, len(start.shape)))

    def dot(a, b):
        return ops.sum(a * b, axes, keepdims=True)

    lengths = ops.sqrt(dot(start, start) * dot(end, end))
    angle = ops.arccos(ops.clip(dot(start, end) / ops.maximum(lengths, 1e-12), -1.0, 1.0))
    sine = ops.sin(angle)
    apart = sine > 1e-4
    sine = ops.where(apart, sine, 1.0)
    first = ops.where(apart, ops.sin((1 - share) * angle) / sine, 1.0 - share)
    last = ops.where(apart, ops.sin(share * angle) / sine, share)
    return first * start + last * end
