"""Coupling bijections: one part of an event says how the other is transformed."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from artifex_keras.aliases import Activation
from artifex_keras.arguments import checked, count, sizes
from artifex_keras.networks.bijections.base import (
    Bijection,
    deserialised,
    hidden_start,
    register,
    sum_event,
)
from artifex_keras.networks.bijections.transforms import transform
from artifex_keras.networks.rules import RULES

__all__ = ["AdditiveCoupling", "AffineCoupling", "SplineCoupling"]


@checked(RULES, units=sizes)
class _Coupling(Bijection):
    """What the couplings share: one part of an event gives the parameters of the other's map."""

    def __init__(
        self,
        units: Sequence[int] = (64, 64),
        *,
        network: keras.layers.Layer | None = None,
        activation: Activation = "relu",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.units = list(units)
        self.network = network
        self.activation = activation

    def build(self, inputs_shape, context_shape=None):
        super().build(inputs_shape, context_shape)
        size = self.event_shape[-1]
        if size < 2:
            raise ValueError(
                f"{type(self).__name__} needs two entries or more on the last axis. Received: "
                f"events of shape {self.event_shape}. {self._way_out()}"
            )
        self.kept, self.changed = size // 2, size - size // 2
        kept = (None, *self.event_shape[:-1], self.kept)
        if self.network is None:
            self.network = _Features(self.units, self.activation, name="features")
            self._made = True
        inputs = kept if context_shape is None else [kept, tuple(context_shape)]
        features = self._features_shape(inputs)
        if features[:-1] != kept[:-1]:
            raise ValueError(
                f"`network` must keep all axes but the last. Received: features of shape "
                f"{features} for a part of shape {kept}."
            )
        self.head = keras.layers.Dense(
            self.changed * self.transform.parameters,
            kernel_initializer="zeros",
            dtype="float32",
            name="head",
        )
        self.head.build(features)

    def _features_shape(self, inputs):
        """The shape of what the network gives; builds it, with the layers that it makes inside."""
        if not isinstance(self.network, keras.Model):
            if not self.network.built:
                self.network.build(inputs)
            return tuple(self.network.compute_output_shape(inputs))
        shapes = inputs if isinstance(inputs, list) else [inputs]
        parts = [keras.KerasTensor(shape, "float32") for shape in shapes]
        return tuple(self.network(parts if len(parts) > 1 else parts[0]).shape)

    def _way_out(self):
        """What an event of too few entries can do instead."""
        if len(self.event_shape) == 3:
            return "`Squeeze` makes channels out of pixels."
        if len(self.event_shape) == 2:
            return "`Flatten` makes one axis of several."
        return (
            "A single column has no other to depend on: MaskedAutoregressive(transform='spline') "
            "takes it, and masked_autoregressive_flow(1, transform='spline')."
        )

    def _arguments(self, part, context, training):
        inputs = part if context is None else [part, context]
        out = ops.cast(self.head(self.network(inputs, training=training)), "float32")
        count = self.transform.parameters
        return ops.reshape(out, (-1, *self.event_shape[:-1], self.changed, count))

    def to_latent(self, x, context=None, training=False):
        return self._coupled(x, self.transform.forward, context, training)

    def to_data(self, z, context=None, training=False):
        return self._coupled(z, self.transform.inverse, context, training)

    def _coupled(self, x, function, context, training):
        part, other = x[..., : self.kept], x[..., self.kept :]
        other, log_slope = function(other, self._arguments(part, context, training))
        return ops.concatenate([part, other], axis=-1), sum_event(log_slope)

    def get_config(self):
        network = None if getattr(self, "_made", False) else self.network
        return {
            **super().get_config(),
            "units": list(self.units),
            "network": network if network is None else keras.saving.serialize_keras_object(network),
            "activation": self.activation,
        }

    @classmethod
    def from_config(cls, config):
        return super().from_config(deserialised(config, "network"))


@register
class AdditiveCoupling(_Coupling):
    """NICE's coupling: ``z = [a, b + t(a)]`` with x = [a, b], of log-determinant 0. 1410.8516.

    a is the first half of the last axis. t is a network of a, and of the context where there is
    one, followed by a dense layer that starts at zero: so the coupling starts as the identity. Put
    permutations between couplings.

    Args:
        units: widths of the dense hidden layers, for events with one axis, or filters of 3×3
            convolutions, for images.
        network: instead of these, a layer from a, (B, ..., D//2), to features (B, ..., F) with the
            same axes between; with a context it is called with `[a, context]`.
        activation: of the hidden layers.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import AdditiveCoupling

    z, log_det = AdditiveCoupling((32,)).forward_and_log_det(np.ones((4, 6), "float32"))
    print(log_det)  # zeros: an additive coupling keeps volumes
    ```
    """

    transform = transform("additive")


@register
@checked(RULES, units=sizes)
class AffineCoupling(_Coupling):
    """RealNVP's coupling: ``z = [a, b e^{s(a)} + t(a)]``. 1605.08803.

    Args:
        units, network, activation: as for `AdditiveCoupling`.
        bound: of the log-scale s, by ``bound · tanh(raw/bound)``.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import AffineCoupling

    coupling = AffineCoupling((32,))
    x = np.ones((4, 6), "float32")
    z, log_det = coupling.forward_and_log_det(x)  # starts as the identity: z is x
    ```
    """

    def __init__(self, units: Sequence[int] = (64, 64), *, bound: float = 5.0, **kwargs: Any):
        super().__init__(units, **kwargs)
        self.bound = bound
        self.transform = transform("affine", bound=bound)

    def get_config(self):
        return {**super().get_config(), "bound": self.bound}


@register
@checked(RULES, units=sizes, bins=count(2, maximum=500))
class SplineCoupling(_Coupling):
    """A coupling by rational-quadratic splines with linear tails. 1906.04032.

    Args:
        units, network, activation: as for `AdditiveCoupling`.
        bins: K of each spline.
        bound: the splines live on [-bound, bound]; outside they are the identity. So data should be
            standardised.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import SplineCoupling

    coupling = SplineCoupling((32,), bins=8, bound=5.0)
    z, log_det = coupling.forward_and_log_det(np.ones((4, 6), "float32"))
    ```
    """

    def __init__(
        self, units: Sequence[int] = (64, 64), *, bins: int = 8, bound: float = 5.0, **kwargs: Any
    ):
        super().__init__(units, **kwargs)
        self.bins = bins
        self.bound = bound
        self.transform = transform("spline", bins=self.bins, bound=bound)

    def get_config(self):
        return {**super().get_config(), "bins": self.bins, "bound": self.bound}


class _Features(keras.layers.Layer):
    """Hidden layers, dense or convolutional; a context joins in the first one."""

    def __init__(self, units, activation, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        with_context = isinstance(input_shape, list)
        shape = input_shape[0] if with_context else input_shape
        fans = [shape[-1], *self.units]
        self.hidden = [
            _hidden(width, fan, image=len(shape) > 2, name=f"hidden_{i}")
            for i, (width, fan) in enumerate(zip(self.units, fans, strict=False), 1)
        ]
        if with_context:
            kernel, _ = hidden_start(input_shape[1][-1])
            self.joined = keras.layers.Dense(
                self.units[0], use_bias=False, kernel_initializer=kernel, name="context"
            )
            self.joined.build(input_shape[1])
        for layer in self.hidden:
            layer.build(shape)
            shape = (*shape[:-1], layer.compute_output_shape(shape)[-1])

    def call(self, inputs):
        x, context = inputs if isinstance(inputs, (list, tuple)) else (inputs, None)
        for index, layer in enumerate(self.hidden):
            x = layer(x)
            if index == 0 and context is not None:
                joined = self.joined(context)
                x = x + ops.reshape(joined, (-1, *(1,) * (len(x.shape) - 2), joined.shape[-1]))
            x = self.activation(x)
        return x

    def compute_output_shape(self, input_shape):
        shape = input_shape[0] if isinstance(input_shape, list) else input_shape
        return (*shape[:-1], self.units[-1])


def _hidden(width, fan, image, name):
    """A dense layer, or on images a 3×3 convolution, of `fan` inputs."""
    kernel, bias = hidden_start(9 * fan if image else fan)
    options = {"kernel_initializer": kernel, "bias_initializer": bias, "name": name}
    if image:
        return keras.layers.Conv2D(width, 3, padding="same", **options)
    return keras.layers.Dense(width, **options)
