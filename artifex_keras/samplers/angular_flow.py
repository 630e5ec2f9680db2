"""The probability flow of a diffusion in the angle φ, from data to noise and back.

In units of the data's scale d, ``y = x_t/√((d a)² + s²) = cos φ x_0/d + sin φ ε`` with
``tan φ = s/(d a)``: a point that turns from data, φ = 0, to noise, φ = π/2. Its ODE is

    dy/dφ = v̂(y, φ) = cos φ ε̂ - sin φ x̂_0/d = (cos φ y - x̂_0/d)/sin φ,

whose slope stays of the size of y all the way, where that of ``x_t/a`` over ``s/a`` runs through
five orders of magnitude. 2011.13456 appendix D; 2202.00512 appendix D for the angle.
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops, tree

from artifex_keras.objectives.elbo import log_normal
from artifex_keras.objectives.masks import as_floats, sum_event
from artifex_keras.samplers import ode
from artifex_keras.samplers.noise_schedules import EDMSchedule, NoiseSchedule

__all__ = ["AngularFlow", "angular_flow", "from_noise", "log_likelihood", "to_noise"]

ORDER = 5  # of the steps between the angles
LEAST_SNR = 2e-5  # below it a predicted noise or a path says too little of the data to go by


class AngularFlow(NamedTuple):
    """The schedule, the data's scale, the angles (K,) at which the network is asked, rising, and
    whether it is asked twice at each."""

    schedule: NoiseSchedule
    scale: float
    angles: np.ndarray
    twice: bool

    def velocity(self, denoise):
        """``v̂(y, φ)`` of a denoiser, for the functions of `ode`, at the flow's own angles and 0."""

        def field(y, angle):
            at_data = ops.equal(angle, 0)  # where EDM's clock is at -∞
            noisy = ops.where(at_data, ops.cast(self.angles[0], angle.dtype), angle)
            t = self.schedule.timestep_at(self.scale * ops.tan(noisy))
            a, s = self.schedule.scales(t, y)
            root = ops.sqrt(ops.square(self.scale * a) + ops.square(s))
            x_start = ops.cast(denoise(root * y, t), y.dtype) / self.scale
            slope = (self.scale * a * y - root * x_start) / s
            # Clean data do not move: the noise is independent of them, and its mean is 0.
            at_data = ops.reshape(at_data, (-1,) + (1,) * (len(y.shape) - 1))
            return ops.where(at_data, 0.0, slope)

        return field


def angular_flow(schedule, num_steps):
    """The `AngularFlow` of a schedule with two evaluations of the network for each of `num_steps`:
    one at each of twice as many levels, or two at the fewer ones that a discrete schedule has.

    They lie at equal distances in ``arctan √tan φ``: closer at both ends, where data that are much
    narrower or much wider than the schedule supposes turn into noise, than in the angle itself.
    """
    scale = schedule.sigma_data if isinstance(schedule, EDMSchedule) else 1.0
    table = schedule.timesteps(schedule.num_timesteps)
    schedule.timesteps(num_steps)  # raises for more than there are
    a, s = (level[:-1][::-1] for level in schedule.levels(table))
    kept = a**2 >= LEAST_SNR * s**2
    kept[0] = True
    tangents = s[kept] / (scale * a[kept])
    places = np.arctan(np.sqrt(tangents))
    many = 2 * num_steps if num_steps > 1 else 1
    if isinstance(schedule, EDMSchedule):
        return AngularFlow(schedule, scale, np.arctan(np.tan(_even(places, many)) ** 2), False)
    for count in (many, num_steps):
        wanted = _even(places, count)
        chosen = np.unique(np.abs(places[:, None] - wanted).argmin(axis=0))
        if len(chosen) > num_steps:
            break
    return AngularFlow(schedule, scale, np.arctan(tangents[chosen]), len(chosen) <= num_steps)


def _even(places, count):
    """`count` places at equal distances from the first to the last; one lies in the middle."""
    share = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    return places[0] + share * (places[-1] - places[0])


def to_noise(flow, denoise, x):
    """The noise (B, ...) that the flow makes of clean data x."""
    return _carried(flow, denoise, x, lambda v: lambda y, t: (v(y[0], t), ops.zeros_like(y[1])))[0]


def log_likelihood(flow, denoise, x, *, probes=None):
    """ln p(x) in nats, (B,): ``ln N(z; 0, I) + ∫ div v̂ dφ - D ln d`` for clean data x, of which the
    flow makes the noise z. `probes` as for `ode.log_likelihood`."""
    z, integral = _carried(flow, denoise, x, lambda v: ode.with_divergence(v, probes))
    return log_normal(z) + integral - math.prod(z.shape[1:]) * math.log(flow.scale)


def _carried(flow, denoise, x, with_integral):
    """``(z, the integral of the second slope)`` at φ = π/2."""
    field = with_integral(flow.velocity(denoise))
    x = as_floats(x) / flow.scale
    state = (x, sum_event(ops.zeros_like(x)))
    last = flow.angles[-1]
    # What data become depends on φ² alone, through the variance of the noise: the slope is odd.
    state = ode.multistep(field, state, times=flow.angles, order=ORDER, again=flow.twice, odd=True)
    length = (math.pi / 2 - last) / 2
    ends = _at(field, state, last), _pure_noise_slope(flow, denoise, x)
    return _euler_step(state, *((length, slope) for slope in ends))


def from_noise(flow, denoise, z):
    """The clean data (B, ...) that the flow makes of noise z."""
    field = flow.velocity(denoise)
    z = as_floats(z)
    last = flow.angles[-1]
    length, start = math.pi / 2 - last, _pure_noise_slope(flow, denoise, z)[0]
    guess = z - length * start
    y = z - length / 2 * (start + _at(field, guess, last))
    times = np.append(flow.angles[::-1], 0.0)
    return flow.scale * ode.multistep(field, y, times=times, order=ORDER, again=flow.twice)


def _pure_noise_slope(flow, denoise, y):
    """The slope where nothing is left of the data, ``-E x_0/d`` whatever y: as the last level has
    it in the middle of the noise. Its divergence is 0."""
    slope = _at(flow.velocity(denoise), ops.zeros_like(y), flow.angles[-1])
    return slope, sum_event(ops.zeros_like(y))


def _at(field, state, angle):
    y = tree.flatten(state)[0]
    return field(state, ops.full((ops.shape(y)[0],), angle, dtype=y.dtype))


def _euler_step(state, *steps):
    """`state` and the sum of ``length · slope`` of each of `steps`."""
    for length, slope in steps:
        state = tree.map_structure(lambda x, k, h=float(length): x + h * k, state, slope)
    return state
