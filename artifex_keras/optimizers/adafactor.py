"""Adafactor, for models whose second moments don't fit beside them."""

from typing import Any

import keras
from keras import ops

from artifex_keras.aliases import LearningRate
from artifex_keras.arguments import checked
from artifex_keras.backend import keras_internals
from artifex_keras.optimizers.base import OptimizerMixin
from artifex_keras.optimizers.rules import RULES

__all__ = ["Adafactor"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES)
class Adafactor(OptimizerMixin, keras.optimizers.Optimizer):
    """Adafactor (1804.04235, algorithms 4 and 5): second moments as row and column means.

        α_t = max(ε₂, RMS(w)) ρ_t,   β̂₂ = 1 - t^-0.8,
        u = g / √(r cᵀ / mean r),    w ← w - α_t u / max(1, RMS(u) / d).

    An (n, m) matrix has n + m numbers of state, not n·m: Keras's class keeps the whole moment
    beside the factors, which spares nothing, and bounds the rate by 1/√t even if `relative_step`
    is off. The last two axes are factored; a vector keeps its whole moment.

    Args:
        learning_rate: ρ, relative to the size of the weights; 1e-2 in the paper.
        beta_2_decay: the exponent of β̂₂.
        epsilon_1: added to the squared gradient.
        epsilon_2: least size of the weights in α.
        clip_threshold: d.
        relative_step: with a constant rate, ρ_t = min(learning_rate, 1/√t). A schedule is taken as
            it is.
        scale_parameter: False makes α_t = ρ_t, an absolute rate.

    Example:

    ```python
    import keras
    import artifex_keras as ak

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
    model.compile(ak.optimizers.Adafactor(learning_rate=1e-2), "mse")
    ```
    """

    def __init__(
        self,
        learning_rate: LearningRate = 1e-2,
        beta_2_decay: float = -0.8,
        epsilon_1: float = 1e-30,
        epsilon_2: float = 1e-3,
        clip_threshold: float = 1.0,
        relative_step: bool = True,
        scale_parameter: bool = True,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_2_decay = beta_2_decay
        self.epsilon_1 = epsilon_1
        self.epsilon_2 = epsilon_2
        self.clip_threshold = clip_threshold
        self.relative_step = relative_step
        self.scale_parameter = scale_parameter

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._moments = [
            self._factors(v) if len(v.shape) >= 2 else self._full_moment(v) for v in variables
        ]

    def _factors(self, variable):
        """Means over the last axis and over the one before it."""
        name = variable.path.replace("/", "_")
        *batch, rows, columns = variable.shape
        return tuple(
            self.add_variable((*batch, size), dtype=variable.dtype, name=f"{name}_{kind}")
            for size, kind in ((rows, "row_moment"), (columns, "column_moment"))
        )

    def _full_moment(self, variable):
        return (self.add_variable_from_reference(variable, name="moment"),)

    def _apply_weight_decay(self, variables):
        pass  # in the update, whose rate depends on the weights as they are before the decay

    def update_step(self, gradient, variable, learning_rate):
        g = ops.cast(gradient, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        step = ops.cast(self.iterations + 1, variable.dtype)
        decay = 0.0
        if self.weight_decay and self._use_weight_decay(variable):
            decay = rate * self.weight_decay * variable
        if self.relative_step and not callable(keras_internals.given_learning_rate(self)):
            rate = ops.minimum(rate, ops.rsqrt(step))
        if self.scale_parameter:
            rate = rate * ops.maximum(_rms(variable), self.epsilon_2)
        update = g * self._inverse_root(variable, ops.square(g) + self.epsilon_1, step)
        update = update / ops.maximum(1.0, _rms(update) / self.clip_threshold)
        self.assign_sub(variable, rate * update + decay)

    def _inverse_root(self, variable, square, step):
        """1/√v̂ of the updated moments."""
        moments = self._moments[keras_internals.variable_index(self, variable)]
        axes = (-1, -2) if len(moments) == 2 else (None,)
        beta = 1.0 - ops.power(step, self.beta_2_decay)
        for moment, axis in zip(moments, axes, strict=True):
            value = square if axis is None else ops.mean(square, axis=axis)
            self.assign(moment, beta * moment + (1.0 - beta) * value)
        if len(moments) == 1:
            return ops.rsqrt(ops.convert_to_tensor(moments[0]))
        rows, columns = moments
        relative = rows / ops.mean(rows, axis=-1, keepdims=True)
        return ops.expand_dims(ops.rsqrt(relative), -1) * ops.expand_dims(
            ops.rsqrt(ops.convert_to_tensor(columns)), -2
        )

    def get_config(self):
        own = (
            "beta_2_decay",
            "epsilon_1",
            "epsilon_2",
            "clip_threshold",
            "relative_step",
            "scale_parameter",
        )
        return super().get_config() | {name: getattr(self, name) for name in own}


def _rms(x):
    return ops.sqrt(ops.mean(ops.square(x)))
