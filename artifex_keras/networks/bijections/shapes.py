"""Bijections that change the shape of events, as multi-scale flows need it."""

import math
from typing import Any

from keras import ops

from artifex_keras.arguments import checked, count
from artifex_keras.networks.bijections.base import (
    Bijection,
    bijection_rule,
    deserialised,
    register,
    same_for_each_row,
    serialised,
)

__all__ = ["Flatten", "Split", "Squeeze"]


@register
class Flatten(Bijection):
    """Events of any shape as vectors.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import Flatten

    z, _ = Flatten().forward_and_log_det(np.zeros((4, 8, 8, 1), "float32"))
    print(z.shape)  # (4, 64)
    ```
    """

    def to_latent(self, x, context=None, training=False):
        return ops.reshape(x, (-1, math.prod(self.event_shape))), same_for_each_row(0.0, x)

    def to_data(self, z, context=None, training=False):
        return ops.reshape(z, (-1, *self.event_shape)), same_for_each_row(0.0, z)

    def compute_output_shape(self, inputs_shape, context_shape=None):
        return (inputs_shape[0], math.prod(inputs_shape[1:]))


@register
@checked(factor=count())
class Squeeze(Bijection):
    """Squares of `factor`² pixels as channels: (H, W, C) -> (H/f, W/f, f² C). 1605.08803.

    Raises:
        ValueError: on building, for events that aren't images or that `factor` doesn't divide.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import Squeeze

    z, _ = Squeeze().forward_and_log_det(np.zeros((4, 8, 8, 1), "float32"))
    print(z.shape)  # (4, 4, 4, 4)
    ```
    """

    def __init__(self, factor: int = 2, **kwargs: Any):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, inputs_shape, context_shape=None):
        super().build(inputs_shape, context_shape)
        shape = self.event_shape
        if len(shape) != 3 or shape[0] % self.factor or shape[1] % self.factor:
            raise ValueError(
                f"`Squeeze` takes images (H, W, C) whose sides {self.factor} divides. Received: "
                f"events of shape {shape}."
            )

    def to_latent(self, x, context=None, training=False):
        rows, columns, channels = self.event_shape
        f = self.factor
        x = ops.reshape(x, (-1, rows // f, f, columns // f, f, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, rows // f, columns // f, f * f * channels))
        return x, same_for_each_row(0.0, x)

    def to_data(self, z, context=None, training=False):
        rows, columns, channels = self.event_shape
        f = self.factor
        z = ops.reshape(z, (-1, rows // f, columns // f, f, f, channels))
        z = ops.transpose(z, (0, 1, 3, 2, 4, 5))
        return ops.reshape(z, (-1, *self.event_shape)), same_for_each_row(0.0, z)

    def compute_output_shape(self, inputs_shape, context_shape=None):
        rows, batch = inputs_shape[1:], inputs_shape[0]
        f = self.factor
        return (batch, rows[0] // f, rows[1] // f, f * f * rows[2])

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@register
@checked(bijection=bijection_rule)
class Split(Bijection):
    """Half of the last axis goes on through `bijection`, the other half is done; z is flat.

    With x = [a, b], z is all numbers of ``bijection(a)`` and then those of b. In a chain, after
    the steps of one scale, `Split(Chain([...]))` holds the scales that follow. 1605.08803
    section 3.6.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import AffineCoupling, Split

    z, _ = Split(AffineCoupling((16,))).forward_and_log_det(np.zeros((4, 8), "float32"))
    print(z.shape)  # (4, 8): four numbers through the coupling, four as they came
    ```
    """

    def __init__(self, bijection: Bijection, **kwargs: Any):
        super().__init__(**kwargs)
        self.bijection = bijection

    def build(self, inputs_shape, context_shape=None):
        super().build(inputs_shape, context_shape)
        if self.event_shape[-1] < 2:
            raise ValueError(
                "`Split` needs two entries or more on the last axis. Received: events of shape "
                f"{self.event_shape}."
            )
        part, self._rest = self._parts(inputs_shape)
        if not self.bijection.built:
            self.bijection.build((None, *part), context_shape)

    def _parts(self, shape):
        """The shapes of what goes on and of what doesn't."""
        size = shape[-1]
        between = tuple(shape[1:-1])
        return (*between, size - size // 2), (*between, size // 2)

    def to_latent(self, x, context=None, training=False):
        part, rest = self._divided(x)
        part, log_det = self.bijection.to_latent(part, context, training)
        return self._joined(part, rest), log_det

    def _divided(self, x):
        size = self.event_shape[-1] - self._rest[-1]
        return x[..., :size], x[..., size:]

    def _joined(self, part, rest):
        flat = [
            ops.reshape(part, (-1, math.prod(self.bijection.latent_shape))),
            ops.reshape(rest, (-1, math.prod(self._rest))),
        ]
        return ops.concatenate(flat, axis=-1)

    def to_data(self, z, context=None, training=False):
        shape = self.bijection.latent_shape
        size = math.prod(shape)
        part, log_det = self.bijection.to_data(
            ops.reshape(z[:, :size], (-1, *shape)), context, training
        )
        rest = ops.reshape(z[:, size:], (-1, *self._rest))
        return ops.concatenate([part, rest], axis=-1), log_det

    def initialise(self, x, context=None, weight=None):
        part, rest = self._divided(x)
        return self._joined(self.bijection.initialise(part, context, weight), rest)

    @property
    def initialised(self):
        return self.bijection.initialised

    def compute_output_shape(self, inputs_shape, context_shape=None):
        return (inputs_shape[0], math.prod(inputs_shape[1:]))

    def get_config(self):
        return {**super().get_config(), "bijection": serialised(self.bijection, self.built)}

    @classmethod
    def from_config(cls, config):
        return super().from_config(deserialised(config, "bijection"))
