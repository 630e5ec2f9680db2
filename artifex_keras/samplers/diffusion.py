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

from artifex_keras.arguments import lookup
from artifex_keras.objectives.masks import as_floats
from artifex_keras.samplers.coefficients import (
    ddim_coefficients,
    ddpm_coefficients,
    dpm_solver_coefficients,
    euler_coefficients,
    heun_coefficients,
)

__all__ = [
    "SAMPLERS",
    "Sampler",
    "ddim",
    "ddpm",
    "dpm_solver",
    "euler",
    "euler_ancestral",
    "guidance",
    "heun",
    "inpainted",
    "probability_flow",
    "run",
    "sample",
    "slerp",
    "trajectory",
]


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
