"""Samplers of diffusion models as tables of coefficients, one row for each call of the network.

``x_t = a x_0 + s ε``; a dash marks the next level, which has less noise; the last is (1, 0).
"""

from typing import NamedTuple

import numpy as np

from artifex_keras.arguments import broken_rule, lookup, number, share
from artifex_keras.samplers.noise_schedules import EDMSchedule

__all__ = [
    "Coefficients",
    "ddim_coefficients",
    "ddpm_coefficients",
    "dpm_solver_coefficients",
    "euler_coefficients",
    "heun_coefficients",
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

    After Euler's step to x', ``x' + a' w (x̂_0(x', t') - x̂_0(x, t))`` with ``w = ½ (σ/σ' - 1)``.
    To the clean data Euler's step is all. 2206.00364 algorithm 1, as printed for EDM's schedule.
    The discrete schedules come from pure noise, or almost, where σ falls by a factor of thousands
    in a step: while there is more noise than data w is at most ½, the mean of both x̂_0.
    """
    options = {"churn": churn, "churn_range": churn_range, "churn_noise": churn_noise}
    coefficients = euler_coefficients(schedule, timesteps, **options)
    a, s, a_after, s_after = (x[:-1] for x in _pairs(schedule, coefficients.timesteps, timesteps))
    ratio = np.divide(s * a_after, a * s_after, out=np.full_like(a, np.inf), where=a > 0)
    noisy = (s_after > a_after) & (not isinstance(schedule, EDMSchedule))
    correction = a_after * np.where(noisy, np.minimum(ratio - 1, 1), ratio - 1) / 2
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
    if not number("churn", churn, minimum=0.0):
        return timesteps, np.zeros(len(timesteps))
    if not isinstance(schedule, EDMSchedule):
        raise ValueError(
            "`churn` needs EDM's schedule, which has levels between its timesteps. "
            f"Received: churn={churn}, a {type(schedule).__name__}."
        )
    churn_noise = number("churn_noise", churn_noise, minimum=0.0)
    if np.shape(churn_range) != (2,) or not churn_range[0] <= churn_range[1]:
        raise broken_rule("churn_range", churn_range, "two σ, the lower one first")
    sigma = schedule.levels(timesteps)[1][:-1]
    inside = (churn_range[0] <= sigma) & (sigma <= churn_range[1])
    raised = sigma * (1 + inside * min(churn / len(sigma), np.sqrt(2) - 1))
    return np.log(raised) / 4, churn_noise * np.sqrt(raised**2 - sigma**2)
