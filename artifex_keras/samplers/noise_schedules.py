"""How much of the data and how much noise there is at each timestep of a diffusion.

``x_t = a_t x_0 + s_t ε``: a_t scales the data, s_t the noise, ``SNR = a²/s²``. The discrete
schedules keep the variance, ``a = √ᾱ, s = √(1-ᾱ)``, and number their levels t = 0 .. T-1 from
little noise to much; EDM's leaves the data alone, ``a = 1, s = σ``, and calls its levels
``t = ln(σ)/4``. Tables are made in float64 and cast when they are looked up.
"""

import inspect
import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import broken_rule, checked, count, integer, known_name, lookup
from artifex_keras.objectives.masks import as_floats
from artifex_keras.samplers.noise_levels import (
    RULES,
    TIMESTEP_SPACINGS,
    cosine_alphas,
    karras_sigmas,
    linear_alphas,
    scaled_linear_alphas,
    sigmoid_alphas,
    zero_terminal_alphas,
)

__all__ = [
    "NOISE_SCHEDULES",
    "PREDICTION_TYPES",
    "EDMSchedule",
    "NoiseSchedule",
    "noise_schedule",
]

# What a network predicts. `a` and `s` broadcast against the tensors.


class Prediction(NamedTuple):
    """``target(x_0, ε, a, s)`` to regress on; ``x_start(prediction, x_t, a, s)``: x̂_0 from it."""

    target: object
    x_start: object


def _velocity(x_start, noise, a, s):
    return (a * noise - s * x_start) / ops.sqrt(a * a + s * s)


def _x_start_of_velocity(prediction, x_t, a, s):
    square = a * a + s * s
    return (a * x_t - s * ops.sqrt(square) * prediction) / square


PREDICTION_TYPES = {
    "epsilon": Prediction(
        lambda x_start, noise, a, s: noise, lambda prediction, x_t, a, s: (x_t - s * prediction) / a
    ),
    # 2202.00512, divided by √(a² + s²) where that is not 1.
    "v_prediction": Prediction(_velocity, _x_start_of_velocity),
    "x_start": Prediction(
        lambda x_start, noise, a, s: x_start, lambda prediction, x_t, a, s: prediction
    ),
}


def _fall(alphas):
    """Whether they are falling numbers in [0, 1], two or more."""
    good = alphas.ndim == 1 and len(alphas) > 1 and alphas[0] <= 1 and alphas[-1] >= 0
    return good and (np.diff(alphas) < 0).all()


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES, num_timesteps=count(2, optional=True))
class NoiseSchedule:
    """A discrete schedule that keeps the variance: ``x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε``, t = 0 .. T-1.

    Timesteps are integers of shape (B,); one outside [0, T) is an error where its value is known
    (inside a compiled function it is not). Everything looked up is float32, or the floating type
    of the tensors that come with it if that is float64.

    Args:
        schedule: a row of `NOISE_SCHEDULES` ("linear", "scaled_linear", "cosine", "sigmoid"), or
            the table ᾱ itself, T falling numbers in [0, 1].
        num_timesteps: T; the length of the table where one is given.
        zero_terminal_snr: rescale, so that the last level is pure noise (2305.08891).
        options: what the row takes besides, such as `beta_end` or `offset`.

    Example:

    ```python
    import numpy as np
    from artifex_keras.samplers.noise_schedules import NoiseSchedule

    schedule = NoiseSchedule("cosine", 1000)
    x = np.ones((2, 3), "float32")
    noisy = schedule.add_noise(x, np.zeros_like(x), np.array([0, 999]))  # almost x, almost nothing
    ```
    """

    spacing = "trailing"

    def __init__(
        self, schedule="linear", num_timesteps=None, *, zero_terminal_snr=False, **options
    ):
        self.schedule, self.options = schedule, options
        self.zero_terminal_snr = zero_terminal_snr
        alphas = self._table(schedule, num_timesteps, options)
        self.num_timesteps = len(alphas)
        alphas = zero_terminal_alphas(alphas) if zero_terminal_snr else alphas
        self._set_levels(alphas, np.sqrt(alphas), np.sqrt(1 - alphas))

    def _table(self, schedule, num_timesteps, options):
        if isinstance(schedule, str):
            row = lookup(NOISE_SCHEDULES, schedule, "noise schedule")
            if isinstance(row, type):
                raise ValueError(f"The schedule {schedule!r} is made by {row.__name__}().")
            known = ("schedule", "zero_terminal_snr", *inspect.signature(row).parameters)
            for name in options:
                known_name(name, known, f"argument of the noise schedule {schedule!r}")
            alphas = row(integer("num_timesteps", num_timesteps or 1000, minimum=2), **options)
            if not _fall(alphas):
                raise ValueError(
                    f"The ᾱ of the schedule {schedule!r} must fall from step to step, in [0, 1]; "
                    f"these options are too extreme. Received: num_timesteps={len(alphas)}, "
                    f"options={options}, ᾱ {alphas[:3]} .. {alphas[-3:]}."
                )
            return alphas
        try:
            alphas = np.asarray(schedule, "float64")
        except (TypeError, ValueError, OverflowError) as error:
            raise broken_rule("schedule", schedule, "a name or a table of ᾱ") from error
        if not _fall(alphas):
            raise ValueError(
                "`schedule`, as a table of ᾱ, must be two or more falling numbers in [0, 1]. "
                f"Received: shape {alphas.shape}, values {alphas.ravel()[:3]} .. "
                f"{alphas.ravel()[-3:]}."
            )
        if options or num_timesteps not in (None, len(alphas)):
            raise ValueError(
                "A table of ᾱ takes no options and has its own length. "
                f"Received: num_timesteps={num_timesteps}, options={options}."
            )
        self.schedule = alphas.tolist()
        return alphas

    def _set_levels(self, alphas, signal, noise):
        self._alphas, self._signal, self._noise = alphas, signal, noise

    # The levels

    @property
    def alphas_cumprod(self):
        """ᾱ, (T,) in float32: the share of the data in the variance, falling with t."""
        return ops.convert_to_tensor(self._alphas, dtype="float32")

    def scales(self, t, like=None):
        """``(a_t, s_t)`` of shape (B,): the factors of data and of noise.

        With a tensor `like` (B, ...) they have its type and broadcast against it.
        """
        t = self._checked(t)
        dtype = "float32" if like is None else like.dtype
        found = [
            ops.take(ops.convert_to_tensor(table, dtype=dtype), t, axis=0)
            for table in (self._signal, self._noise)
        ]
        return [_beside(part, like) for part in found]

    def snr(self, t):
        """``a²/s²`` at t, (B,): the signal-to-noise ratio; 0 for pure noise."""
        ratio = ops.convert_to_tensor((self._signal / self._noise) ** 2, dtype="float32")
        return ops.take(ratio, self._checked(t), axis=0)

    def posterior_variance(self, t):
        """``β_t (1-ᾱ_{t-1})/(1-ᾱ_t)``, (B,): variance of q(x_{t-1}|x_t, x_0). 2006.11239 (7)."""
        before = np.concatenate([[1.0], self._alphas[:-1]])
        variance = (1 - self._alphas / before) * (1 - before) / (1 - self._alphas)
        table = ops.convert_to_tensor(variance, dtype="float32")
        return ops.take(table, self._checked(t), axis=0)

    def _checked(self, t):
        """t as int32. Known values must lie in [0, T)."""
        known = _known(t)
        if (
            known is not None
            and known.size
            and not (0 <= known.min() and known.max() < self.num_timesteps)
        ):
            raise ValueError(
                f"Timesteps must lie in [0, {self.num_timesteps}). "
                f"Received: values from {known.min()} to {known.max()}."
            )
        return ops.cast(ops.convert_to_tensor(t), "int32")

    def timestep(self, u):
        """The timestep ``⌊u T⌋`` at the share u of the noise levels, int32 of the shape of `u`.

        `u` in [0, 1): uniform draws visit all levels equally often.
        """
        t = ops.cast(ops.floor(as_floats(u) * self.num_timesteps), "int32")
        return ops.clip(t, 0, self.num_timesteps - 1)

    def timestep_at(self, sigma):
        """The timestep whose ``s/a`` is nearest to `sigma` (B,) in logarithms, int32."""
        with np.errstate(divide="ignore"):
            table = np.log(self._noise / self._signal)
        log_sigma = ops.log(as_floats(sigma))
        table = ops.convert_to_tensor(table, dtype=log_sigma.dtype)
        return ops.cast(ops.argmin(ops.abs(table - log_sigma[:, None]), axis=1), "int32")

    # Noising and predictions

    def add_noise(self, x, noise, t):
        """``x_t = a_t x + s_t ε`` of the shape of `x`; `noise` is ε ~ N(0, I), t (B,)."""
        x, noise = as_floats(x, noise)
        a, s = self.scales(t, x)
        return a * x + s * noise

    def target(self, x, noise, t, prediction_type="epsilon"):
        """What a network of that type is to answer: ε, ``v = a ε - s x_0`` (2202.00512) or x_0.

        Raises:
            ValueError: for an unknown type, or ε where the schedule ends in pure noise.
        """
        x, noise = as_floats(x, noise)
        return self.prediction(prediction_type).target(x, noise, *self.scales(t, x))

    def x_start(self, prediction, x_t, t, prediction_type="epsilon"):
        """x̂_0 from what a network of that type answered at x_t. Raises as `target` does."""
        prediction, x_t = as_floats(prediction, x_t)
        return self.prediction(prediction_type).x_start(prediction, x_t, *self.scales(t, x_t))

    def noise(self, x_start, x_t, t):
        """``ε̂ = (x_t - a x̂_0)/s``: the noise that makes x_t of x̂_0."""
        x_start, x_t = as_floats(x_start, x_t)
        a, s = self.scales(t, x_t)
        return (x_t - a * x_start) / s

    def velocity(self, x_start, x_t, t):
        """``v̂ = (a ε̂ - s x̂_0)/√(a² + s²)`` of the same x̂_0."""
        x_start, x_t = as_floats(x_start, x_t)
        a, s = self.scales(t, x_t)
        return _velocity(x_start, (x_t - a * x_start) / s, a, s)

    def prediction(self, prediction_type):
        """The row of `PREDICTION_TYPES`, if the schedule allows it."""
        row = lookup(PREDICTION_TYPES, prediction_type, "prediction type")
        if prediction_type == "epsilon" and self._signal[-1] == 0:
            raise ValueError(
                "A schedule with zero terminal SNR has no data left at its last timestep, so that "
                "ε does not determine x_0 there. Use `prediction_type` 'v_prediction' or "
                "'x_start'. Received: prediction_type='epsilon'."
            )
        return row

    # Sampling

    def timesteps(self, num_steps, spacing=None):
        """`num_steps` timesteps for a sampler, falling, a numpy array.

        `spacing` is a row of `TIMESTEP_SPACINGS`, "trailing" by default; 'trailing' and
        'linspace' start at T-1, where the noise of a sampler's first state belongs.

        Raises:
            ValueError: if `num_steps` is not in 1 .. T.
        """
        num_steps = integer("num_steps", num_steps, minimum=1)
        if num_steps > self.num_timesteps:
            raise ValueError(
                f"`num_steps` must not exceed the {self.num_timesteps} timesteps of the schedule. "
                f"Received: num_steps={num_steps}."
            )
        row = lookup(TIMESTEP_SPACINGS, spacing or self.spacing, "timestep spacing")
        return row(self.num_timesteps, num_steps).astype("int32")

    def levels(self, timesteps):
        """``(a, s)`` along a sampler's path: S timesteps and then clean data, (1, 0).

        Two float64 numpy arrays of S + 1 values.
        """
        timesteps = np.asarray(timesteps)
        self._checked(timesteps)
        a, s = self._signal[timesteps], self._noise[timesteps]
        return np.append(a, 1.0), np.append(s, 0.0)

    def get_config(self):
        return {
            "schedule": self.schedule,
            "num_timesteps": self.num_timesteps,
            "zero_terminal_snr": self.zero_terminal_snr,
            **self.options,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES)
class EDMSchedule(NoiseSchedule):
    """The continuous schedule ``x_t = x_0 + σ ε`` whose timestep is ``t = ln(σ)/4``. 2206.00364.

    Any σ > 0 may be asked for. The table `alphas_cumprod`, ``1/(1+σ²)``, lists the
    `num_timesteps` levels of Karras from `sigma_min` to `sigma_max`, by rising noise as always.

    Args:
        num_timesteps: the length of that table.
        sigma_min, sigma_max, rho: the range of σ when sampling, and how it is spaced.
        sigma_data: the standard deviation of the data.
        mean, std: of ln σ in training, a normal distribution.
    """

    spacing = "karras"

    def __init__(
        self,
        num_timesteps=1000,
        *,
        sigma_min=0.002,
        sigma_max=80.0,
        rho=7.0,
        sigma_data=0.5,
        mean=-1.2,
        std=1.2,
    ):
        if not (0 < sigma_min < sigma_max and rho > 0 and sigma_data > 0 and std > 0):
            raise ValueError(
                "EDM needs 0 < `sigma_min` < `sigma_max` and positive `rho`, `sigma_data` and "
                f"`std`. Received: sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}, "
                f"sigma_data={sigma_data}, std={std}."
            )
        self.num_timesteps = integer("num_timesteps", num_timesteps, minimum=2)
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self.sigma_data, self.mean, self.std = sigma_data, mean, std
        sigmas = self._sigmas(self.num_timesteps)[::-1]
        self._set_levels(1 / (1 + sigmas**2), np.ones_like(sigmas), sigmas)

    def _sigmas(self, count):
        return karras_sigmas(
            count, sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho
        )

    def _checked(self, t):
        known = _known(t)
        if known is not None and not np.isfinite(known).all():
            raise ValueError(f"Timesteps ln(σ)/4 must be finite. Received: {known}.")
        return as_floats(t)

    def scales(self, t, like=None):
        """``(1, σ)`` with ``σ = e^{4t}``, of shape (B,), or broadcasting against `like`."""
        sigma = ops.exp(4 * self._checked(t))
        sigma = sigma if like is None else ops.cast(sigma, like.dtype)
        return [_beside(part, like) for part in (ops.ones_like(sigma), sigma)]

    def snr(self, t):
        """``1/σ²`` at t, (B,)."""
        return ops.exp(-8 * self._checked(t))

    def posterior_variance(self, t):
        """Not defined: a continuous schedule has no level before t."""
        raise ValueError("EDM's schedule is continuous and has no posterior of one step.")

    def timestep(self, u):
        """``ln(σ)/4`` with ln σ the quantile u of N(mean, std²), the density of training."""
        # erfinv gives infinity at 0 and 1, which float32 draws do reach.
        u = ops.clip(as_floats(u), 1e-6, 1 - 1e-6)
        return (self.mean + self.std * math.sqrt(2) * ops.erfinv(2 * u - 1)) / 4

    def timestep_at(self, sigma):
        """``ln(σ)/4`` of `sigma` (B,)."""
        return ops.log(as_floats(sigma)) / 4

    def timesteps(self, num_steps, spacing=None):
        """``ln(σ)/4`` of `karras_sigmas`, (num_steps,), falling: a numpy array in float64."""
        lookup({"karras": None}, spacing or self.spacing, "timestep spacing")
        return np.log(self._sigmas(integer("num_steps", num_steps, minimum=1))) / 4

    def levels(self, timesteps):
        """``(a, s)`` along a sampler's path: ones, and S falling σ with a final 0."""
        sigmas = np.exp(4 * np.asarray(timesteps, "float64"))
        return np.ones(len(sigmas) + 1), np.append(sigmas, 0.0)

    def get_config(self):
        names = ("num_timesteps", "sigma_min", "sigma_max", "rho", "sigma_data", "mean", "std")
        return {name: getattr(self, name) for name in names}


NOISE_SCHEDULES = {
    "linear": linear_alphas,
    "scaled_linear": scaled_linear_alphas,
    "cosine": cosine_alphas,
    "sigmoid": sigmoid_alphas,
    "edm": EDMSchedule,
}


@checked(RULES)
def noise_schedule(schedule, num_timesteps=1000, **options):
    """The schedule of that name, a row of `NOISE_SCHEDULES`, or the `NoiseSchedule` itself.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(schedule, NoiseSchedule):
        return schedule
    row = lookup(NOISE_SCHEDULES, schedule, "noise schedule")
    if isinstance(row, type):
        return row(num_timesteps, **options)
    return NoiseSchedule(schedule, num_timesteps, **options)


def _known(t):
    """The values of `t` as numpy, or None while a function is being traced."""
    try:
        return np.asarray(ops.convert_to_numpy(t))
    except (TypeError, NotImplementedError):
        return None


def _beside(scale, like):
    """`scale` (B,) with axes of length 1 appended up to the rank of `like`."""
    if like is None:
        return scale
    missing = len(like.shape) - len(scale.shape)
    return ops.reshape(scale, tuple(ops.shape(scale)) + (1,) * max(missing, 0))
