"""Networks that know the time: of `[x_t, t]` or `[x_t, t, condition]`, as diffusion and flow
matching call them."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from artifex_keras.aliases import Activation, Shape
from artifex_keras.arguments import bounded, broken_rule, checked, integer, sizes
from artifex_keras.backend.frozen import KeepsFrozen
from artifex_keras.networks.rules import RULES

__all__ = ["Gate", "Modulation", "TimeEmbedding", "timed_mlp"]


def _even(name, value):
    if integer(name, value, minimum=2) % 2:
        raise broken_rule(name, value, "an even number, at least 2")
    return int(value)


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES, dim=_even, max_period=bounded(above=0.0))
class TimeEmbedding(keras.layers.Layer):
    """``[cos(ω c t), sin(ω c t)]``, (B, dim), of times t (B,); ω falls from 1 to 1/`max_period`.

    1706.03762 section 3.5. In float32 under every dtype policy, since in bfloat16 t = 997 and
    t = 1000 are the same number.

    Args:
        dim: how many numbers, even.
        time_scale: c. The features separate times that differ by about 1/c: 1 suits integer
            timesteps, 1000 times in [0, 1], 100 the ``ln(σ)/4`` of EDM's schedule.
        max_period: the longest of the periods, by 2π, in units of 1/c.

    Example:

    ```python
    import numpy as np
    import artifex_keras as ak

    features = ak.networks.TimeEmbedding(64)(np.array([0.0, 500.0, 999.0]))
    print(features.shape)  # (3, 64)
    ```
    """

    def __init__(
        self, dim: int, *, time_scale: float = 1.0, max_period: float = 10_000.0, **kwargs: Any
    ):
        # Times come as they are: by Keras's own cast they would be in half precision already.
        super().__init__(**{"autocast": False, **kwargs})
        self.dim, self.time_scale, self.max_period = dim, time_scale, max_period

    def call(self, t):
        half = self.dim // 2
        frequencies = np.exp(-math.log(self.max_period) * np.arange(half) / half)
        t = ops.cast(ops.reshape(t, (-1, 1)), "float32")
        angles = t * ops.convert_to_tensor(self.time_scale * frequencies, dtype="float32")
        features = ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=1)
        return ops.cast(features, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.dim)

    def get_config(self):
        config = {name: getattr(self, name) for name in ("dim", "time_scale", "max_period")}
        return {**super().get_config(), **config}


class _Featured(KeepsFrozen, keras.layers.Layer):
    """A layer of `(h, e)`: h (B, ..., C) and features e (B, F), of which a dense layer makes
    `parts` numbers for each channel."""

    parts = 1

    def __init__(self, *, zero=True, **kwargs):
        super().__init__(**kwargs)
        self.zero = zero

    def build(self, h_shape, features_shape):
        self.dense = layers.Dense(
            self.parts * h_shape[-1],
            kernel_initializer="zeros" if self.zero else "glorot_uniform",
            dtype=self.dtype_policy,
            name="dense",
        )
        self.dense.build(features_shape)
        self.built = True

    def numbers(self, h, features):
        """The dense layer's output as `parts` tensors that broadcast against h."""
        made = self.dense(features)
        made = ops.reshape(made, (-1, *(1,) * (len(h.shape) - 2), made.shape[-1]))
        return ops.split(made, self.parts, axis=-1)

    def compute_output_shape(self, h_shape, features_shape):
        return h_shape

    def get_config(self):
        return {**super().get_config(), "zero": self.zero}


@keras.saving.register_keras_serializable(package="artifex_keras")
class Modulation(_Featured):
    """``h (1 + scale(e)) + shift(e)`` for each channel, of the features e. 1709.07871.

    With `zero` it starts as the identity (2212.09748).
    """

    parts = 2

    def call(self, h, features):
        scale, shift = self.numbers(h, features)
        return h * (1 + scale) + shift


@keras.saving.register_keras_serializable(package="artifex_keras")
class Gate(_Featured):
    """``h gate(e)`` for each channel; with `zero` it starts closed (2212.09748)."""

    def call(self, h, features):
        return h * self.numbers(h, features)[0]


def timed_inputs(input_shape, width, num_classes, condition_dim, time_scale, activation, name):
    """The inputs `[x, t(, condition)]` and the features (B, width) of the time and condition."""
    if num_classes is not None and condition_dim is not None:
        raise ValueError(
            "A network takes labels or vectors: give `num_classes` or `condition_dim`. "
            f"Received: num_classes={num_classes}, condition_dim={condition_dim}."
        )
    x = keras.Input(input_shape, name=f"{name}_input")
    t = keras.Input((), dtype="float32", name=f"{name}_time")
    embedded = TimeEmbedding(width + width % 2, time_scale=time_scale, name=f"{name}_embedding")(t)
    embedded = layers.Dense(width, activation=activation, name=f"{name}_time_hidden")(embedded)
    features = layers.Dense(width, name=f"{name}_time_features")(embedded)
    inputs = [x, t]
    if num_classes is not None or condition_dim is not None:
        condition, known = _condition(width, num_classes, condition_dim, name)
        inputs.append(condition)
        features = layers.Add(name=f"{name}_features")([features, known])
    return inputs, layers.Activation(activation, name=f"{name}_features_activation")(features)


def _condition(width, num_classes, condition_dim, name):
    """The condition's input and its features (B, width)."""
    if num_classes is None:
        condition = keras.Input(condition_dim, name=f"{name}_condition")
        flat = layers.Flatten(name=f"{name}_condition_flatten")(condition)
        return condition, layers.Dense(width, name=f"{name}_condition_features")(flat)
    labels = keras.Input((), dtype="int32", name=f"{name}_labels")
    # The last row stands for a label that is not given.
    return labels, layers.Embedding(num_classes + 1, width, name=f"{name}_class")(labels)


@checked(RULES, units=sizes)
def timed_mlp(
    input_shape: Shape,
    units: Sequence[int] = (128, 128, 128),
    *,
    num_classes: int | None = None,
    condition_dim: int | None = None,
    residual: bool = False,
    skip: bool = False,
    time_scale: float = 1.0,
    activation: Activation = "silu",
    name: str = "network",
) -> keras.Model:
    """A network `[x_t, t]` -> (B, *input_shape); `[x_t, t, condition]` where there is a condition.

    Every hidden layer sees the time: ``h ← φ(W h + V e)``, e the features of t and of the
    condition. It starts as the function 0.

    Args:
        input_shape: of one example.
        units: widths of the hidden layers. Layers narrower than an example lose a part of
            its noise: then pass `skip=True`, or let `Diffusion` predict `"x_start"`.
        num_classes: K, where the condition is a label in 0..K-1, (B,). The embedding has K + 1
            rows, the last one for a label that is not given, the learned null of guidance.
        condition_dim: width or shape, where the condition is a vector.
        residual: ``h ← h + U φ(W norm(h) + V e)`` instead, for `units` of one width.
        skip: add ``(v · e) x_t`` to the output, v learned: noise that is predicted, or stands in a
            velocity, then need not pass through the layers.
        time_scale: see `TimeEmbedding`: 1 for integer timesteps, 1000 for t in [0, 1], 100 for
            EDM's ``ln(σ)/4``.
        activation: φ.
        name: of the network; the layers' names begin with it.

    Example:

    ```python
    import artifex_keras as ak

    denoiser = ak.networks.timed_mlp((2,), (64, 64))
    diffusion = ak.Diffusion(denoiser)
    velocity = ak.networks.timed_mlp((2,), (64, 64), time_scale=1000)
    flow_matching = ak.FlowMatching(velocity)
    ```
    """
    if residual and len(set(units)) > 1:
        raise ValueError(f"`residual` needs `units` of one width. Received: units={units}.")
    inputs, features = timed_inputs(
        input_shape, units[0], num_classes, condition_dim, time_scale, activation, name
    )
    h = layers.Flatten(name=f"{name}_flatten")(inputs[0])
    if residual:
        h = layers.Dense(units[0], name=f"{name}_entry")(h)
    for index, width in enumerate(units, 1):
        block = _residual_layer if residual else _timed_layer
        h = block(h, features, width, activation, f"{name}_hidden_{index}")
    output = _zero_output(h, inputs[0].shape[1:], name)
    if skip:
        output = _with_input(output, inputs[0], features, name)
    return keras.Model(inputs, output, name=name)


def _timed_layer(h, features, width, activation, name):
    h = layers.Dense(width, name=name)(h)
    shift = layers.Dense(width, use_bias=False, name=f"{name}_time")(features)
    h = layers.Add(name=f"{name}_sum")([h, shift])
    return layers.Activation(activation, name=f"{name}_activation")(h)


def _residual_layer(h, features, width, activation, name):
    inside = layers.LayerNormalization(name=f"{name}_norm")(h)
    inside = _timed_layer(inside, features, width, activation, name)
    return layers.Add(name=f"{name}_skip")([h, layers.Dense(width, name=f"{name}_out")(inside)])


def _zero_output(h, output_shape, name):
    width = math.prod(output_shape)
    output = layers.Dense(
        width, kernel_initializer="zeros", dtype="float32", name=f"{name}_output"
    )(h)
    return layers.Reshape(tuple(output_shape), dtype="float32", name=f"{name}_reshape")(output)


def _with_input(output, x, features, name):
    """The output, and as much of `x` as the time says, nothing at first."""
    scale = layers.Dense(1, kernel_initializer="zeros", dtype="float32", name=f"{name}_scale")
    shape = (1,) * (len(x.shape) - 1)
    scale = layers.Reshape(shape, dtype="float32", name=f"{name}_scale_reshape")(scale(features))
    passed = layers.Multiply(dtype="float32", name=f"{name}_passed")([x, scale])
    return layers.Add(dtype="float32", name=f"{name}_with_input")([output, passed])
