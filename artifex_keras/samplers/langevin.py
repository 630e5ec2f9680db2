"""Chains that draw from ``p(x) ∝ e^{-E(x)}``: Langevin, its corrected form, Hamiltonian, annealed.

An energy is ``energy(x) -> (B,)`` for x (B, ...). Each row is a chain of its own. Every result
comes without a gradient: none runs back through a chain.
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from artifex_keras.backend import input_gradient
from artifex_keras.objectives.masks import as_floats, sum_event

__all__ = [
    "AnnealedChain",
    "Chain",
    "annealed_importance",
    "clipped_gradient",
    "hmc",
    "langevin",
    "mala",
    "within",
]


class Chain(NamedTuple):
    """Where each chain ended, (B, ...), and its mean probability of acceptance, (B,)."""

    x: object
    acceptance: object


class AnnealedChain(NamedTuple):
    """As `Chain`, with the logarithm of each chain's weight, (B,), in nats."""

    x: object
    log_weights: object
    acceptance: object


def clipped_gradient(gradient, limit=None):
    """``g · min(1, c/‖g‖)`` by example, the norm over event axes; c = `limit`, None leaves g."""
    if limit is None:
        return gradient
    norm = ops.sqrt(sum_event(ops.square(gradient)))
    return gradient * _beside(ops.minimum(1.0, limit / ops.maximum(norm, 1e-12)), gradient)


def within(energy, limits):
    """The energy that is infinite outside ``(low, high)``: proposals that leave are refused."""
    low, high = limits

    def bounded(x):
        inside = ops.logical_and(ops.greater_equal(x, low), ops.less_equal(x, high))
        inside = ops.all(inside, axis=tuple(range(1, len(x.shape))))
        return ops.where(inside, as_floats(energy(x)), float("inf"))

    return bounded


def _slope(energy, x, limit=None):
    return ops.stop_gradient(clipped_gradient(input_gradient(energy, x), limit))


def langevin(energy, x, noise, *, step_size, noise_scale=None, gradient_clipping=None, clip=None):
    """The state after S steps ``x - step/2 ∇E + noise_scale n``, (B, ...).

    It draws from e^{-E} up to an error of first order in the step: on N(0, 1/a) the variance is
    ``1/(a (1 - a step/4))``. `mala` and `hmc` have no such error. Roberts and Tweedie 1996.

    Args:
        energy: ``E(x)``.
        x: (B, ...), where the chains start.
        noise: (S, B, ...) standard normal draws; S is the number of steps.
        step_size: the step.
        noise_scale: of the noise; None is Langevin's √step. Another value draws from e^{-E/T},
            ``T = noise_scale²/step``.
        gradient_clipping: None, or the norm that an example's gradient may have.
        clip: None, or ``(low, high)``, the data's range, to which each state is clipped.

    Example:

    ```python
    import numpy as np
    from keras import ops
    from artifex_keras.samplers.langevin import langevin

    noise = np.random.default_rng(0).normal(size=(100, 500, 1)).astype("float32")
    start = np.zeros((500, 1), "float32")
    chain = langevin(lambda x: ops.sum(x**2 / 2, -1), start, noise, step_size=0.1)
    ```
    """
    x, noise = _aligned(x, noise)
    noise_scale = step_size**0.5 if noise_scale is None else noise_scale

    def step(i, x):
        drift = 0.5 * step_size * _slope(energy, x, gradient_clipping)
        x = ops.stop_gradient(x - drift + noise_scale * ops.take(noise, i, axis=0))
        return x if clip is None else ops.clip(x, *clip)

    return ops.fori_loop(0, noise.shape[0], step, x)


def mala(energy, x, noise, uniforms, *, step_size, gradient_clipping=None):
    """The `Chain` of S Langevin steps, each accepted with the probability that makes e^{-E} exact.

    ``min(1, e^{E(x) - E(x')} q(x|x')/q(x'|x))``; a state of NaN energy is refused. Clipped
    gradients only propose, and leave the law exact. Roberts and Tweedie 1996.

    Args:
        energy, x, noise, step_size, gradient_clipping: as for `langevin`.
        uniforms: (S, B) uniform draws.
    """

    def propose(x, slope, n):
        proposal = x - 0.5 * step_size * slope + step_size**0.5 * n
        value, new_slope = _measured(energy, proposal, gradient_clipping)
        back = x - proposal + 0.5 * step_size * new_slope
        forth = sum_event(ops.square(n))
        return proposal, value, new_slope, 0.5 * (forth - sum_event(ops.square(back)) / step_size)

    return _corrected(energy, propose, x, noise, uniforms, gradient_clipping)


def hmc(energy, x, noise, uniforms, *, step_size, leapfrog_steps=10):
    """The `Chain` of S Hamiltonian proposals of `leapfrog_steps` steps of length `step_size`.

    Accepted with ``min(1, e^{H(x, p) - H(x', p')})``, ``H = E + ½‖p‖²``; e^{-E} is exact. One
    leapfrog step of √h is `mala` with step h. 1206.1901.

    Args:
        energy, x: as for `langevin`.
        noise: (S, B, ...) standard normal draws: the momenta p.
        uniforms: (S, B) uniform draws.
        step_size, leapfrog_steps: of the trajectory.
    """

    def propose(x, slope, n):
        return _trajectory(energy, x, slope, n, step_size, leapfrog_steps)

    return _corrected(energy, propose, x, noise, uniforms)


def _trajectory(energy, x, slope, momentum, step_size, leapfrog_steps):
    """``(x', E(x'), ∇E(x'), ½‖p‖² - ½‖p'‖²)`` after leapfrog steps."""

    def step(_, state):
        x, slope, p = state
        p = p - 0.5 * step_size * slope
        x = ops.stop_gradient(x + step_size * p)
        slope = _slope(energy, x)
        return x, slope, p - 0.5 * step_size * slope

    end, slope, p = ops.fori_loop(0, leapfrog_steps, step, (x, slope, momentum))
    lost = 0.5 * (sum_event(ops.square(momentum)) - sum_event(ops.square(p)))
    return end, ops.stop_gradient(as_floats(energy(end))), slope, lost


def _measured(energy, x, limit=None):
    """E and ∇E at x, without a gradient of their own."""
    return ops.stop_gradient(as_floats(energy(x))), _slope(energy, x, limit)


def _corrected(energy, propose, x, noise, uniforms, limit=None):
    """The `Chain` of proposals, each accepted by the rule of Metropolis and Hastings."""
    x, noise = _aligned(x, noise)
    log_uniforms = _log_uniforms(noise, uniforms)

    def step(i, state):
        x, value, slope, total = state
        proposed = propose(x, slope, ops.take(noise, i, axis=0))
        log_u = ops.take(log_uniforms, i, axis=0)
        (x, value, slope), probability = _chosen(proposed, (x, value, slope), log_u)
        return x, value, slope, total + probability

    value, slope = _measured(energy, x, limit)
    state = (x, value, slope, ops.zeros_like(value))
    x, _, _, total = ops.fori_loop(0, noise.shape[0], step, state)
    return Chain(x, total / noise.shape[0])


def _chosen(proposed, current, log_u):
    """The accepted of two ``(x, E, ∇E)``, row by row, and the probability of the proposal."""
    *new, log_ratio = proposed
    log_ratio = current[1] - new[1] + log_ratio
    # A ratio of NaN compares false: the proposal is refused.
    accepted = log_u < log_ratio
    state = [ops.where(_beside(accepted, a), a, b) for a, b in zip(new, current, strict=True)]
    probability = ops.exp(ops.minimum(log_ratio, 0.0))
    probability = ops.where(ops.isnan(log_ratio), ops.zeros_like(probability), probability)
    return [ops.stop_gradient(part) for part in state], probability


def annealed_importance(
    energy,
    x,
    noise,
    uniforms,
    *,
    step_size,
    leapfrog_steps=10,
    base_scale=1.0,
    betas=None,
    limits=None,
):
    """The `AnnealedChain` from N(0, s² I) to e^{-E}: ``logsumexp(log_weights) - ln B`` is ln Z.

    Its exponential estimates Z = ∫ e^{-E} without bias. Between, the energy is
    ``(1-β) ‖x‖²/(2s²) + β E``; each of S values of β adds its part to the weight, and one
    Hamiltonian proposal follows. Neal, Statistics and Computing 11, 2001.

    With `limits` the integral is over the box alone, and the chains come from the uniform
    distribution in it, with ``β E`` between.

    Args:
        energy: ``E(x)``.
        x: (B, ...) draws from N(0, s² I), s = `base_scale`; with `limits` uniform between them.
        noise: (S, B, ...) standard normal draws.
        uniforms: (S, B) uniform draws.
        step_size, leapfrog_steps: of each proposal.
        betas: S + 1 rising values from 0 to 1; equal steps if left out.
        limits: None, or ``(low, high)`` of each coordinate.
    """
    x, noise = _aligned(x, noise)
    log_uniforms = _log_uniforms(noise, uniforms)
    betas = np.linspace(0, 1, noise.shape[0] + 1) if betas is None else np.asarray(betas)
    if len(betas) != noise.shape[0] + 1 or betas[0] != 0 or betas[-1] != 1:
        raise ValueError(
            f"`betas` must be {noise.shape[0] + 1} values from 0 to 1, one more than the noise has "
            f"steps. Received: {len(betas)} from {betas[0]} to {betas[-1]}."
        )
    temperatures = ops.convert_to_tensor(np.stack([betas[1:], np.diff(betas)], 1), dtype=x.dtype)

    energy = energy if limits is None else within(energy, limits)

    def base(x):
        square = 0.5 * sum_event(ops.square(x)) / base_scale**2
        return square if limits is None else ops.zeros_like(square)

    def step(i, state):
        x, log_weights, total = state
        beta, change = ops.unstack(ops.take(temperatures, i, axis=0), 2)

        def between(x):
            return (1 - beta) * base(x) + beta * as_floats(energy(x))

        log_weights = log_weights + ops.stop_gradient(change * (base(x) - as_floats(energy(x))))
        value, slope = _measured(between, x)
        momentum = ops.take(noise, i, axis=0)
        proposed = _trajectory(between, x, slope, momentum, step_size, leapfrog_steps)
        log_u = ops.take(log_uniforms, i, axis=0)
        (x, _, _), probability = _chosen(proposed, (x, value, slope), log_u)
        return x, log_weights, total + probability

    start = sum_event(ops.zeros_like(x))
    width = base_scale * math.sqrt(2 * math.pi) if limits is None else limits[1] - limits[0]
    log_z = math.prod(x.shape[1:]) * math.log(width)
    x, log_weights, total = ops.fori_loop(0, noise.shape[0], step, (x, start + log_z, start))
    return AnnealedChain(x, log_weights, total / noise.shape[0])


def _aligned(x, noise):
    """Both as floats of one type, `x` without a gradient; the noise must be (S, *x.shape)."""
    x, noise = as_floats(x, noise)
    if tuple(noise.shape[1:]) != tuple(x.shape) or noise.shape[0] == 0:
        raise ValueError(
            "`noise` must hold an array of the shape of `x` for each step. "
            f"Received: noise of shape {tuple(noise.shape)}, x of shape {tuple(x.shape)}."
        )
    return ops.stop_gradient(x), noise


def _log_uniforms(noise, uniforms):
    if tuple(uniforms.shape) != tuple(noise.shape[:2]):
        raise ValueError(
            "`uniforms` must be (S, B), one for each step and chain. "
            f"Received: shape {tuple(uniforms.shape)} beside noise of shape {tuple(noise.shape)}."
        )
    # A draw of 0 accepts whatever has a probability.
    return ops.log(ops.maximum(ops.cast(uniforms, noise.dtype), 1e-30))


def _beside(values, like):
    """`values` (B,) with axes of length 1 appended up to the rank of `like`."""
    return ops.reshape(values, (-1,) + (1,) * (len(like.shape) - 1))
