"""Sampling as a chain of random steps, each with a probability: what fine-tuning by rewards needs.

A step that draws its next state from a Gaussian is an action, and its log-density that of the
action. Every chain here is a table of steps,

    x' = keep · x + change · answer(x, t) + std · n,    n ~ N(0, I),

where the network's answer is x̂_0 of a diffusion model or the velocity of flow matching. The last
step has std 0: it is no action, and only finishes the sample, so that S + 1 evaluations of the
network are S actions. Log-densities and divergences are *means over event axes*, as in DDPO and
Flow-GRPO: sums would make the ratio of two policies on images explode.
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from artifex_keras.arguments import bounded, checked, known_name
from artifex_keras.objectives.flow import path_factors
from artifex_keras.objectives.masks import as_floats, mean_event
from artifex_keras.samplers.coefficients import ddim_coefficients

__all__ = [
    "SDE_PATHS",
    "Chain",
    "ddim_chain",
    "flow_chain",
    "sample_chain",
    "score_chain",
    "transition_entropy",
    "transition_kl",
    "transition_log_prob",
]

SDE_PATHS = ("linear", "ot", "trigonometric")  # those that begin without any data


class Chain(NamedTuple):
    """The S + 1 steps of one chain, in numpy.

    `times` at which the network is asked; the factors `keep`, `change` and `std` of a step, std
    above 0 in all but the last; `start`, the scale of the noise that is the first state.
    """

    times: np.ndarray
    keep: np.ndarray
    change: np.ndarray
    std: np.ndarray
    start: float = 1.0

    @property
    def actions(self):
        """S, how many steps are actions."""
        return len(self.times) - 1


@checked(eta=bounded(above=0.0, maximum=1.0))
def ddim_chain(schedule, timesteps, *, eta=1.0):
    """The steps of DDIM, whose answer is x̂_0: ``N(a' x̂_0 + √(s'² - σ²) ε̂, σ²)``. 2305.13301.

    ``σ = η s' √(1 - (a s'/(a' s))²)``, with η = 1 the posterior's. The last step, to x̂_0 itself,
    has σ = 0.

    Args:
        schedule: a `NoiseSchedule`, discrete or EDM's.
        timesteps: falling, at least two.
        eta: η in (0, 1].
    """
    rows = ddim_coefficients(schedule, _several("timesteps", timesteps, 2), eta=eta)
    start = float(schedule.levels(timesteps)[1][0])
    return Chain(rows.timesteps, rows.keep, rows.data, rows.scale, start)


@checked(noise_level=bounded(above=0.0))
def flow_chain(times, *, noise_level=0.7, path="linear"):
    """The steps of flow matching's stochastic differential equation. 2505.05470.

    For every g the equation

        dx = [v + g²/2 · ∇ln p_t(x)] dt + g dW,    ∇ln p_t(x) = -x̂_0/β,

    has the marginals of the flow ``dx = v dt``. Flow-GRPO takes ``g = a √(β/α)`` with a =
    `noise_level`: on the linear path, with its noise level s = 1 - t, ``g = a √(s/(1-s))`` and

        x' = x (1 - g²dt/(2s)) + v (1 + g²(1-s)/(2s)) dt + g √dt · n.

    The paper's time is s, which falls, and its velocity is -v: its dt is negative. At t = 0, where
    g is infinite, the step takes α of the next time; the state's variance is then 1 + a⁴/4 for a
    while. The last step is the flow's own, without noise, which would stay on the samples.

    Args:
        times: rising from noise at 0 to data at 1, at least three.
        noise_level: a, above 0.
        path: of `SDE_PATHS`.
    """
    known_name(path, SDE_PATHS, "path of a stochastic chain")
    times = _several("times", times, 3).astype("float64")
    t, dt = times[:-1], np.diff(times)
    data, noise, data_rate, noise_rate = (
        ops.convert_to_numpy(factor).astype("float64") for factor in path_factors(t, path)
    )
    known = np.where(data > 0, data, np.append(data[1:], 1.0))
    square = noise_level**2 * noise / known
    square[-1] = 0.0
    # x̂_0 = (α' x - α v)/(β α' - β' α), of which g²/(2β) is taken off v.
    share = square / (2 * noise * (noise * data_rate - noise_rate * data))
    return Chain(
        t, 1 - share * data_rate * dt, (1 + share * data) * dt, np.sqrt(square * dt), noise[0]
    )


def _several(name, times, least):
    times = np.asarray(times)
    if times.ndim != 1 or len(times) < least:
        raise ValueError(
            f"`{name}` must be a row of at least {least}, or there is no action. "
            f"Received: shape {times.shape}."
        )
    return times


# Of one step


def transition_log_prob(x, mean, std):
    """``-(x - μ)²/(2σ²) - ln σ - ½ ln 2π``, the mean over event axes, (B,) in nats per dimension.

    `std` is σ, a scalar or (B,).
    """
    x, mean, std = as_floats(x, mean, std)
    error = mean_event(ops.square(x - mean))
    return -0.5 * error / ops.square(std) - ops.log(std) - 0.5 * math.log(2 * math.pi)


def transition_kl(mean, other_mean, std):
    """``(μ - μ')²/(2σ²)``, the divergence of two Gaussians of one σ, the mean over event axes.

    It is that of the densities of `transition_log_prob`, (B,) in nats per dimension.
    """
    mean, other_mean, std = as_floats(mean, other_mean, std)
    return 0.5 * mean_event(ops.square(mean - other_mean)) / ops.square(std)


def transition_entropy(std):
    """``½ ln(2πe σ²)``, in nats per dimension, of the shape of `std`."""
    return ops.log(as_floats(std)) + 0.5 * math.log(2 * math.pi * math.e)


# Of all


def sample_chain(chain, answer, noise):
    """`(states, log_probs, samples)`: B chains, from their first state to the finished samples.

    Args:
        chain: a `Chain` of S actions.
        answer: ``answer(x, t)``, t of shape (B,).
        noise: (S + 1, B, ...) standard normal draws: the first state's, then each action's.

    Returns:
        the states (B, S + 1, ...) before and after each action, the log-densities (B, S) of the
        actions, and the samples (B, ...), which follow from the last state.
    """
    noise = as_floats(noise)
    step, std = _means(chain, answer, noise.dtype)
    first = float(chain.start) * noise[0]

    def acted(state, i):
        mean, sigma = step(state[0], i), ops.take(std, i, axis=0)
        after = mean + sigma * ops.take(noise, i + 1, axis=0)
        state = after, transition_log_prob(after, mean, sigma)
        return state, state  # of one structure, as Keras's scan needs it on TensorFlow

    count = ops.arange(chain.actions, dtype="int32")
    begin = (first, mean_event(ops.zeros_like(first)))
    (last, _), (states, log_probs) = ops.scan(acted, begin, count)
    states = ops.concatenate([first[None], states])
    axes = (1, 0, *range(2, len(states.shape)))
    return ops.transpose(states, axes), ops.transpose(log_probs), step(last, chain.actions)


def _means(chain, answer, dtype):
    """``(step, std)``: ``step(x, i)`` is the mean of the state after step i."""
    times, keep, change, std = (_tensor(part, dtype) for part in chain[:4])

    def step(x, i):
        t = ops.broadcast_to(ops.take(times, i, axis=0), (ops.shape(x)[0],))
        answered = ops.cast(answer(x, t), x.dtype)
        return ops.take(keep, i, axis=0) * x + ops.take(change, i, axis=0) * answered

    return step, std


def _tensor(table, dtype):
    integral = np.issubdtype(table.dtype, np.integer)
    return ops.convert_to_tensor(table, dtype="int32" if integral else dtype)


def score_chain(chain, answer, states):
    """`(log_probs, means)`, (B, S) and (B, S, ...), of the actions between states (B, S + 1, ...).

    All steps are one call of the network, of B·S rows: `answer(x, t)` gets those of an example
    side by side, its first action first.
    """
    states = as_floats(states)
    count, shape = chain.actions, tuple(states.shape[2:])
    before, after = (ops.reshape(part, (-1, *shape)) for part in (states[:, :-1], states[:, 1:]))
    times, keep, change, std = (
        ops.tile(_tensor(part[:count], states.dtype), (ops.shape(states)[0],)) for part in chain[:4]
    )
    keep, change = (ops.reshape(part, (-1,) + (1,) * len(shape)) for part in (keep, change))
    mean = keep * before + change * ops.cast(answer(before, times), states.dtype)
    log_probs = transition_log_prob(after, mean, std)
    return ops.reshape(log_probs, (-1, count)), ops.reshape(mean, (-1, count, *shape))
