"""Masked autoregressive bijections."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.aliases import Activation
from artifex_keras.arguments import checked, dictionary, optional, row_of, sizes
from artifex_keras.networks.bijections.base import Bijection, hidden_start, register, sum_event
from artifex_keras.networks.bijections.transforms import TRANSFORMS, transform
from artifex_keras.networks.rules import RULES

__all__ = ["MaskedAutoregressive"]


@register
@checked(
    RULES,
    units=sizes,
    transform=row_of(TRANSFORMS, "transform"),
    transform_options=optional(dictionary),
)
class MaskedAutoregressive(Bijection):
    """``z_i = f(x_i; θ_i(x_1 … x_{i-1}))``: density in one pass, sampling in D. 1705.07057.

    θ is a dense network whose kernels are masked so that output i sees earlier entries alone (MADE,
    1502.03509). Its last kernel starts at zero, so f as the identity. `Inverse` of it is the
    inverse autoregressive flow, quick to sample. For events with one axis.

    Args:
        units: widths of the hidden layers.
        transform: f, `"affine"`, `"additive"` or `"spline"`.
        activation: of the hidden layers.
        transform_options: of f: `bound`; of the spline also `bins`.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import MaskedAutoregressive

    bijection = MaskedAutoregressive((32, 32))
    z, log_det = bijection.forward_and_log_det(np.zeros((4, 3), "float32"))
    print(z.shape, log_det.shape)  # (4, 3) (4,)
    ```
    """

    def __init__(
        self,
        units: Sequence[int] = (64, 64),
        *,
        transform: str = "affine",
        activation: Activation = "relu",
        transform_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.units = list(units)
        self.transform = transform
        self.activation = activation
        self.transform_options = dict(transform_options or {})
        self._check_transform()

    def _check_transform(self):
        self._map = transform(self.transform, **self.transform_options)

    def build(self, inputs_shape, context_shape=None):
        super().build(inputs_shape, context_shape)
        if len(self.event_shape) != 1:
            raise ValueError(
                "MaskedAutoregressive takes events with one axis. Received: events of shape "
                f"{self.event_shape}. `Flatten` makes one of several."
            )
        size, count = self.event_shape[0], self._map.parameters
        self.masks = _masks(size, self.units, count)
        widths = [size, *self.units, size * count]
        starts = [*map(hidden_start, widths[:-2]), ("zeros", "zeros")]
        names = [*(f"kernel_{i}" for i in range(len(self.units))), "kernel_out"]
        self.kernels = [
            self._weight(name, mask.shape, start)
            for name, mask, (start, _) in zip(names, self.masks, starts, strict=True)
        ]
        self.biases = [
            self._weight(f"bias_{i}", (width,), start)
            for i, (width, (_, start)) in enumerate(zip(widths[1:], starts, strict=True))
        ]
        if self.context_shape is not None:
            shape = (self.context_shape[-1], self.units[0])
            self.context_kernel = self._weight("context_kernel", shape, hidden_start(shape[0])[0])

    def _weight(self, name, shape, initializer):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            dtype="float32",
            autocast=False,
        )

    def _arguments(self, x, context):
        activation = keras.activations.get(self.activation)
        layers = list(zip(self.kernels, self.masks, self.biases, strict=True))
        for index, (kernel, mask, bias) in enumerate(layers):
            x = ops.matmul(x, kernel * ops.convert_to_tensor(mask)) + bias
            if index == 0 and context is not None:
                x = x + ops.matmul(ops.cast(context, "float32"), self.context_kernel)
            if index < len(layers) - 1:
                x = activation(x)
        return ops.reshape(x, (-1, *self.event_shape, self._map.parameters))

    def to_latent(self, x, context=None, training=False):
        z, log_slope = self._map.forward(x, self._arguments(x, context))
        return z, sum_event(log_slope)

    def to_data(self, z, context=None, training=False):
        def settled(_, x):
            # Entry i is right once those before it are: after D rounds all are.
            return self._map.inverse(z, self._arguments(x, context))[0]

        x = ops.fori_loop(0, self.event_shape[0], settled, ops.zeros_like(z))
        return x, -self.to_latent(x, context)[1]

    def get_config(self):
        return {
            **super().get_config(),
            "units": list(self.units),
            "transform": self.transform,
            "activation": self.activation,
            "transform_options": dict(self.transform_options),
        }


def _masks(size, units, count):
    """Masks of the kernels, (in, out) each: a path from entry j to output i only if j < i."""
    degrees = [np.arange(size)]
    for width in units:
        degrees.append(np.arange(width) % max(size - 1, 1))
    masks = [
        (before[:, None] <= after[None]).astype("float32")
        for before, after in zip(degrees, degrees[1:], strict=False)
    ]
    outputs = np.repeat(np.arange(size), count)
    return [*masks, (degrees[-1][:, None] < outputs[None]).astype("float32")]
