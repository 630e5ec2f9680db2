"""Tables of noise levels, and the levels that a sampler of few steps visits. NumPy, float64."""

import math

import numpy as np

from artifex_keras.arguments import boolean, bounded, checked
from artifex_keras.arguments import count as count_rule

__all__ = [
    "TIMESTEP_SPACINGS",
    "cosine_alphas",
    "karras_sigmas",
    "leading_timesteps",
    "linear_alphas",
    "linspace_timesteps",
    "scaled_linear_alphas",
    "sigmoid_alphas",
    "trailing_timesteps",
    "zero_terminal_alphas",
]

# The tables of ᾱ, float64 of shape (T,), falling


UP_TO_1 = bounded(above=0.0, maximum=1.0)
ABOVE_0 = bounded(above=0.0)
RULES = {
    "beta_end": UP_TO_1,
    "beta_start": UP_TO_1,
    "count": count_rule(2),
    "end": bounded(),
    "max_beta": UP_TO_1,
    "mean": bounded(),
    "num_timesteps": count_rule(2),
    "offset": bounded(minimum=0.0),
    "rho": ABOVE_0,
    "sigma_data": ABOVE_0,
    "sigma_max": ABOVE_0,
    "sigma_min": ABOVE_0,
    "start": bounded(),
    "std": ABOVE_0,
    "temperature": ABOVE_0,
    "zero_terminal_snr": boolean,
}


@checked(RULES)
def linear_alphas(num_timesteps, *, beta_start=1e-4, beta_end=2e-2):
    """``ᾱ_t = Π (1-β)`` with β from `beta_start` to `beta_end` in equal steps. 2006.11239.

    The ends stay where they are for any number of timesteps.
    """
    return np.cumprod(1 - np.linspace(beta_start, beta_end, num_timesteps))


@checked(RULES)
def scaled_linear_alphas(num_timesteps, *, beta_start=1e-4, beta_end=2e-2):
    """``ᾱ_t = Π (1-β)`` with √β in equal steps. 2112.10752, whose text-to-image model has β from
    .00085 to .012."""
    roots = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_timesteps)
    return np.cumprod(1 - roots**2)


@checked(RULES)
def cosine_alphas(num_timesteps, *, offset=0.008, max_beta=0.999):
    """``ᾱ(τ) ∝ cos²(π/2 (τ+s)/(1+s))``, s = `offset`; no β above `max_beta`. 2102.09672 (17)."""
    times = np.linspace(0, 1, num_timesteps + 1)
    return _from_curve(np.cos((times + offset) / (1 + offset) * np.pi / 2) ** 2, max_beta)


@checked(RULES)
def sigmoid_alphas(num_timesteps, *, start=-3.0, end=3.0, temperature=1.0, max_beta=0.999):
    """``ᾱ(τ)``: a logistic curve between `start` and `end`, stretched to run from 1 to 0.

    A greater `temperature` makes it straighter. No β above `max_beta`. 2212.11972, 2301.10972.
    """
    times = np.linspace(start, end, num_timesteps + 1) / temperature
    curve = 1 / (1 + np.exp(np.minimum(-times, 700.0)))  # beyond, exp overflows
    if curve[-1] <= curve[0]:
        raise ValueError(
            "`start` must be below `end`, and `temperature` leave a difference between them. "
            f"Received: start={start}, end={end}, temperature={temperature}."
        )
    return _from_curve((curve[-1] - curve) / (curve[-1] - curve[0]), max_beta)


def _from_curve(curve, max_beta):
    """ᾱ of a curve over T + 1 times, whose ratios are 1-β; the last would otherwise be 0, and so
    would those behind a curve that has come to 0 before its end."""
    ratios = np.divide(curve[1:], curve[:-1], out=np.zeros(len(curve) - 1), where=curve[:-1] > 0)
    return np.cumprod(np.maximum(ratios, 1 - max_beta))


@checked(RULES)
def karras_sigmas(count, *, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """σ from `sigma_max` down to `sigma_min`, (count,) in float64, equally spaced in σ^(1/ρ).

    2206.00364 equation 5, without its final 0.
    """
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return np.linspace(high, low, count) ** rho


def zero_terminal_alphas(alphas_cumprod):
    """The table with √ᾱ shifted and stretched to end in exactly 0; its first value stays.

    2305.08891 algorithm 1. ε says nothing about the data at the last level then: predict v or x0.
    """
    roots = np.sqrt(np.asarray(alphas_cumprod, "float64"))
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


# Which timesteps a sampler of few steps visits, from much noise to little


def leading_timesteps(num_timesteps, count):
    """``0, k, 2k, ..``, k = ⌊T/count⌋, reversed: never visits T-1. 2010.02502."""
    return (np.arange(count) * (num_timesteps // count))[::-1]


def linspace_timesteps(num_timesteps, count):
    """From T-1 down to 0, both visited, rounded. 2102.09672."""
    return np.round(np.linspace(num_timesteps - 1, 0, count))


def trailing_timesteps(num_timesteps, count):
    """``T-1, T-1-k, ..``, k = T/count, rounded: starts from pure noise. 2305.08891 table 2."""
    return np.round(num_timesteps - np.arange(count) * (num_timesteps / count)) - 1


TIMESTEP_SPACINGS = {
    "leading": leading_timesteps,
    "linspace": linspace_timesteps,
    "trailing": trailing_timesteps,
}
