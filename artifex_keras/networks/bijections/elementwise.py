"""Bijections that treat each number by itself."""

from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import bounded, broken_rule, checked
from artifex_keras.columns import column_moments, warn_of_constants
from artifex_keras.networks.bijections.base import (
    Bijection,
    register,
    same_for_each_row,
    sum_event,
)
from artifex_keras.networks.bijections.moments import ROWS, Moments, gathered
from artifex_keras.objectives import flow

__all__ = ["ActNorm", "Affine", "Logit", "Standardise"]


class _Scaled(Bijection):
    """``z = x e^s + t``, s and t of the shape that `_scale_and_shift` gives, broadcast over x."""

    def to_latent(self, x, context=None, training=False):
        log_scale, shift = self._scale_and_shift()
        return x * ops.exp(log_scale) + shift, self._log_det(log_scale, x)

    def to_data(self, z, context=None, training=False):
        log_scale, shift = self._scale_and_shift()
        return (z - shift) * ops.exp(-log_scale), -self._log_det(log_scale, z)

    def _log_det(self, log_scale, x):
        repeats = np.prod(self.event_shape) / max(np.prod(log_scale.shape), 1)
        return same_for_each_row(float(repeats) * ops.sum(log_scale), x)

    def _vector(self, name, shape, initializer="zeros", trainable=True):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            dtype="float32",
            trainable=trainable,
            autocast=False,
        )


@register
class Affine(_Scaled):
    """``z = x e^s + t`` with a learned s and t for each number of an event, 0 at first.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import Affine

    z, log_det = Affine().forward_and_log_det(np.ones((4, 3), "float32"))  # the identity at first
    ```
    """

    def build(self, inputs_shape, context_shape=None):
        super().build(inputs_shape, context_shape)
        self.log_scale = self._vector("log_scale", self.event_shape)
        self.shift = self._vector("shift", self.event_shape)

    def _scale_and_shift(self):
        return self.log_scale + 0.0, self.shift + 0.0


@register
@checked(epsilon=bounded(above=0.0))
class ActNorm(_Scaled):
    """``z = (x - μ)/σ e^s + t`` per entry of the last axis, μ and σ from the first `ROWS` rows.

    A `NormalizingFlow` gathers them: from rows of all of the data before the first update, where
    `fit` gets arrays, else from the batches as they come, on compiled steps too. They are saved
    with the model, and stay once they are gathered. Before that μ = 0 and σ = 1. s and t are
    learned from 0. 1807.03039 section 3.1.

    Few rows say little of σ: so the variance of n rows is ``exp((n ln v + k ln p)/(n + k))``, v
    their own, k = 4 and p the typical variance of the entries, and one that hasn't varied has p.
    σ is at least a quarter of the largest distance from μ, so that rare values stay near.

    Args:
        epsilon: the smallest σ.

    Example:

    ```python
    import artifex_keras as ak
    from artifex_keras.networks import ActNorm, AffineCoupling, Chain, Reverse

    flow = ak.NormalizingFlow(Chain([ActNorm(), AffineCoupling((32,)), Reverse()]))
    ```
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs: Any):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, inputs_shape, context_shape=None):
        super().build(inputs_shape, context_shape)
        shape = self.event_shape[-1:]
        self.log_scale = self._vector("log_scale", shape)
        self.shift = self._vector("shift", shape)
        self.mean = self._vector("mean", shape, trainable=False)
        self.log_std = self._vector("log_std", shape, trainable=False)
        # The share of `ROWS` that was seen. Floating, as all that an average of the weights holds.
        self.done = self._vector("initialised", (), trainable=False)

    def _scale_and_shift(self):
        log_scale = self.log_scale - self.log_std
        return log_scale, self.shift - self.mean * ops.exp(log_scale)

    @property
    def initialised(self):
        return self.done + 0.0

    def initialise(self, x, context=None, weight=None):
        before = Moments(self.initialised * ROWS, self.mean + 0.0, ops.exp(2 * self.log_std))
        after = gathered(before, ops.stop_gradient(x), weight)
        log_std = 0.5 * ops.log(ops.maximum(after.variance, self.epsilon**2))
        share = ops.minimum(after.rows / ROWS, 1.0)
        # An average of the weights comes as near to 1 as this, and is done too.
        ignore = ops.logical_or(self.initialised > 0.99, after.rows <= before.rows)
        for variable, value in (
            (self.mean, after.mean),
            (self.log_std, log_std),
            (self.done, ops.where(share > 0.99, 1.0, share)),
        ):
            variable.assign(ops.where(ignore, variable.value, value))
        return self.to_latent(x)[0]

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


def _numbers(name, value):
    """A number or an array of finite numbers, as float64."""
    if isinstance(value, str | bytes | bool | dict | set):
        raise broken_rule(name, value, "a number or an array of numbers")
    try:
        array = np.asarray(value)
        good = array.dtype.kind in "iuf" and array.size and np.isfinite(array).all()
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise broken_rule(name, value, "a finite number or an array of them")
    return array.astype("float64")


@register
@checked(mean=_numbers, std=_numbers)
class Standardise(_Scaled):
    """``z = (x - μ)/σ`` with a given μ and σ, which aren't trained.

    Args:
        mean, std: numbers, or arrays of the shape of an event or of what broadcasts against it.
            `adapt(x)` sets them from data instead.

    Raises:
        ValueError: for a `std` that isn't positive; on building, for shapes that don't fit.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import Standardise

    heights = np.random.default_rng(0).normal(170, 10, (100, 1))
    z, _ = Standardise().adapt(heights).forward_and_log_det(heights)  # mean 0, deviation 1
    ```
    """

    def __init__(self, mean: Tensor = 0.0, std: Tensor = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self._given = {"mean": np.asarray(mean).tolist(), "std": np.asarray(std).tolist()}
        if not np.all(np.asarray(std) > 0):
            raise ValueError(f"`std` must be positive. Received: std={std!r}.")

    def build(self, inputs_shape, context_shape=None):
        super().build(inputs_shape, context_shape)
        self.mean = self._filled("mean", self._given["mean"])
        self.log_std = self._filled("log_std", np.log(self._given["std"]))

    def _filled(self, name, values):
        try:
            values = np.broadcast_to(np.asarray(values, "float32"), self.event_shape)
        except ValueError as error:
            raise ValueError(
                f"`mean` and `std` must broadcast against events of shape {self.event_shape}. "
                f"Received: an array of shape {np.shape(values)}."
            ) from error
        initializer = keras.initializers.Zeros() if not values.any() else _constant(values)
        return self._vector(name, self.event_shape, initializer, trainable=False)

    def adapt(self, x, epsilon=1e-6):
        """Sets μ and σ to those of x (N, ...), σ to at least `epsilon`. Gives the bijection.

        No value of x is then further than 20 from 0, however rare. An entry that does not vary
        has the typical σ of the others, and a warning names it.
        """
        x = np.asarray(x)
        if not self.built:
            self.build((None, *x.shape[1:]))
        warn_of_constants(x, "they are divided by the typical deviation of the others.")
        mean, std = column_moments(x)
        self.mean.assign(mean.astype("float32"))
        self.log_std.assign(np.log(np.maximum(std, epsilon)).astype("float32"))
        return self

    def _scale_and_shift(self):
        log_scale = 0.0 - self.log_std
        return log_scale, -self.mean * ops.exp(log_scale)

    def get_config(self):
        return {**super().get_config(), **self._given}


def _constant(values):
    return lambda shape, dtype=None: ops.convert_to_tensor(values, dtype=dtype)


@register
@checked(alpha=bounded(above=0, below=1))
class Logit(Bijection):
    """``z = ln v - ln(1-v)`` with ``v = α/2 + (1-α) x``, for data x in [0, 1]. 1605.08803.

    Args:
        alpha: α in (0, 1): keeps v away from 0 and 1, where z is infinite.

    Example:

    ```python
    import artifex_keras as ak

    bijection = ak.networks.realnvp((64,), 2, first=[ak.networks.Logit()])  # data in [0, 1]
    flow = ak.NormalizingFlow(bijection)
    ```
    """

    def __init__(self, alpha: float = 0.05, **kwargs: Any):
        super().__init__(**kwargs)
        self.alpha = alpha

    def to_latent(self, x, context=None, training=False):
        return flow.logit(x, self.alpha)

    def to_data(self, z, context=None, training=False):
        v = ops.sigmoid(z)
        # ln σ(z) + ln σ(-z) in a form that doesn't overflow
        log_slope = -ops.softplus(z) - ops.softplus(-z) - float(np.log1p(-self.alpha))
        return (v - self.alpha / 2) / (1 - self.alpha), sum_event(log_slope)

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha}
