"""What a bijection is, chains of them, and the other way round."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from artifex_keras.arguments import broken_rule, checked, optional
from artifex_keras.backend.frozen import KeepsFrozen
from artifex_keras.networks.rules import network

__all__ = ["Bijection", "Chain", "Inverse", "bijection_rule", "links_rule"]

register = keras.saving.register_keras_serializable(package="artifex_keras")


@checked()
class Bijection(KeepsFrozen, keras.layers.Layer):
    """An invertible map of events, from data x to latent z, which knows its Jacobian.

    `forward_and_log_det(x)` gives ``(z, ln|det ∂z/∂x|)`` and `inverse_and_log_det(z)` gives
    ``(x, ln|det ∂x/∂z|)``: the log-determinants are nats per example, (B,), summed over all axes
    but the first, and at one point each is minus the other. With a `context`, (B, C), the map
    depends on it. As a layer of Keras it gives z. Everything is computed in float32; only networks
    inside follow the dtype policy.

    A subclass writes `to_latent(x, context, training)` and `to_data(z, context, training)`, which
    give those pairs for float32 tensors of a shape that `build` has seen, `compute_output_shape`
    if z has another shape than x, and `initialise` if it wants to see the first batch.

    Example:

    ```python
    import numpy as np
    from keras import ops
    import artifex_keras as ak

    class Double(ak.networks.Bijection):
        def to_latent(self, x, context=None, training=False):
            return 2 * x, ops.full((len(x),), x.shape[1] * np.log(2.0))

        def to_data(self, z, context=None, training=False):
            return z / 2, ops.full((len(z),), -z.shape[1] * np.log(2.0))

    z, log_det = Double().forward_and_log_det(np.ones((4, 3), "float32"))
    print(log_det[0])  # 3 ln 2 = 2.079
    ```
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.event_shape = None
        self.context_shape = None

    def build(self, inputs_shape, context_shape=None):
        """Fixes the shape of events, `inputs_shape[1:]`, and of the context.

        Raises:
            ValueError: for events of unknown shape, and where it was built for other ones.
        """
        event = tuple(inputs_shape[1:])
        if not event or None in event:
            raise ValueError(
                f"{type(self).__name__} needs events of known shape, (None, *event_shape). "
                f"Received: {tuple(inputs_shape)}."
            )
        context = None if context_shape is None else tuple(context_shape[1:])
        if self.event_shape is not None and (event, context) != (
            self.event_shape,
            self.context_shape,
        ):
            raise ValueError(
                f"{type(self).__name__} {self.name!r} was built for events of shape "
                f"{self.event_shape}{_context_text(self.context_shape)}. Received: events of shape "
                f"{event}{_context_text(context)}."
            )
        self.event_shape, self.context_shape = event, context

    def forward_and_log_det(self, x, context=None, training=False):
        """``(z, ln|det ∂z/∂x|)`` for x (B, ...).

        Raises:
            ValueError: for events of another shape, a context that is missing or not taken.
        """
        x, context = _tensors(x, context)
        if not self.built:
            self.build(_shape(x), None if context is None else _shape(context))
        self._check(x, context, self.event_shape)
        return self.to_latent(x, context, training)

    def inverse_and_log_det(self, z, context=None, training=False):
        """``(x, ln|det ∂x/∂z|)`` for z (B, ...), once the bijection is built.

        Raises:
            ValueError: as `forward_and_log_det`, and if it isn't built.
        """
        if not self.built:
            raise ValueError(
                f"{type(self).__name__} doesn't know its events' shape yet: call "
                "`build((None, *event_shape))` first."
            )
        z, context = _tensors(z, context)
        self._check(z, context, self.latent_shape)
        return self.to_data(z, context, training)

    def _check(self, x, context, expected):
        if tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"{type(self).__name__} {self.name!r} takes events of shape {expected}. Received: "
                f"events of shape {tuple(x.shape[1:])}."
            )
        received = None if context is None else tuple(context.shape[1:])
        if received != self.context_shape:
            raise ValueError(
                f"{type(self).__name__} {self.name!r} was built "
                f"{_context_text(self.context_shape, ' without a context').lstrip(' ,')}. "
                f"Received: {'no context' if received is None else _context_text(received)[6:]}."
            )

    def to_latent(self, x, context=None, training=False):
        """`forward_and_log_det` of a bijection that is built, without looking at its arguments."""
        raise NotImplementedError

    def to_data(self, z, context=None, training=False):
        """`inverse_and_log_det` of a bijection that is built, without looking at its arguments."""
        raise NotImplementedError

    def initialise(self, x, context=None, weight=None):
        """Looks at the first batch, x (B, ...) with `weight` (B,). Gives z."""
        return self.to_latent(x, context)[0]

    @property
    def initialised(self):
        """None if there is nothing to initialise from data, else a scalar, 1 once it is done."""
        return None

    @property
    def latent_shape(self):
        """The shape of z per example."""
        return tuple(self.compute_output_shape((None, *self.event_shape))[1:])

    def compute_output_shape(self, inputs_shape, context_shape=None):
        return tuple(inputs_shape)

    def call(self, inputs, context=None, training=False):
        return self.forward_and_log_det(inputs, context, training)[0]


def hidden_start(fan_in):
    """Initialisers of the kernel and the bias of a hidden layer: uniform on ±√(6/fan_in).

    So He's for ReLUs (1502.01852), for the biases too: they spread the kinks over the data. With
    all of them at 0 a flow of few columns starts with kinks at the mean alone, and may lose
    densities of several modes for good; with both on ±1/√fan_in, as is usual elsewhere, it learns
    edges slowly.
    """
    limit = math.sqrt(6 / fan_in)
    return [keras.initializers.RandomUniform(-limit, limit) for _ in range(2)]


def sum_event(x):
    """The sum over all axes but the first, (B,)."""
    axes = tuple(range(1, len(x.shape)))
    return ops.sum(x, axis=axes) if axes else x


def same_for_each_row(value, x):
    """The scalar `value` for each row of `x`: (B,)."""
    first = x[(slice(None), *(0,) * (len(x.shape) - 1))]
    return value + ops.zeros_like(first)


def _tensors(x, context):
    x = ops.cast(ops.convert_to_tensor(x), "float32")
    return x, context if context is None else ops.convert_to_tensor(context)


def _shape(tensor):
    return (None, *tensor.shape[1:])


def _context_text(shape, otherwise=""):
    return otherwise if shape is None else f", with a context of shape {shape}"


def bijection_rule(name, value):
    """The rule of a `Bijection`."""
    if not isinstance(value, Bijection):
        raise broken_rule(name, value, "a Bijection")
    return value


def links_rule(name, value):
    """The rule of a list of bijections."""
    if not isinstance(value, list | tuple):
        raise broken_rule(name, value, "a list of bijections")
    for index, link in enumerate(value):
        if not isinstance(link, Bijection):
            raise ValueError(
                f"`{name}`: each link of a chain must be a Bijection. Received: link {index} is "
                f"{link!r} of type {type(link).__name__}."
            )
    return list(value)


@register
@checked(bijections=links_rule, context_network=optional(network))
class Chain(Bijection):
    """Bijections one after the other, the first one next to the data.

    Args:
        bijections: a list of them; chains inside are fine.
        context_network: a layer that the context goes through first, once for all links: an
            `Embedding` for labels, a dense network for vectors.

    Raises:
        ValueError: on building, where a link doesn't fit the shape it gets; names the link.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import AffineCoupling, Chain, Reverse

    chain = Chain([AffineCoupling((32,)), Reverse(), AffineCoupling((32,))])
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    z, log_det = chain.forward_and_log_det(x)
    back, _ = chain.inverse_and_log_det(z)  # x again
    ```
    """

    def __init__(
        self,
        bijections: Sequence[Bijection],
        *,
        context_network: keras.layers.Layer | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.bijections = bijections
        self.context_network = context_network

    def build(self, inputs_shape, context_shape=None):
        super().build(inputs_shape, context_shape)
        shape = tuple(inputs_shape)
        if context_shape is not None and self.context_network is not None:
            if not self.context_network.built:
                self.context_network.build(tuple(context_shape))
            context_shape = self.context_network.compute_output_shape(tuple(context_shape))
        for index, link in enumerate(self.bijections):
            try:
                if link.built:
                    Bijection.build(link, shape, context_shape)
                else:
                    link.build(shape, context_shape)
            except ValueError as error:
                raise ValueError(
                    f"Link {index} of the chain, {type(link).__name__} {link.name!r}, doesn't fit "
                    f"events of shape {tuple(shape[1:])}: {error}"
                ) from error
            shape = tuple(link.compute_output_shape(shape))

    def _context(self, context, training=False):
        if context is None or self.context_network is None:
            return context
        return ops.cast(self.context_network(context, training=training), "float32")

    def to_latent(self, x, context=None, training=False):
        context = self._context(context, training)
        total = same_for_each_row(0.0, x)
        for link in self.bijections:
            x, log_det = link.to_latent(x, context, training)
            total = total + log_det
        return x, total

    def to_data(self, z, context=None, training=False):
        context = self._context(context, training)
        total = same_for_each_row(0.0, z)
        for link in reversed(self.bijections):
            z, log_det = link.to_data(z, context, training)
            total = total + log_det
        return z, total

    def initialise(self, x, context=None, weight=None):
        context = self._context(context)
        for link in self.bijections:
            x = link.initialise(x, context, weight)
        return x

    @property
    def initialised(self):
        flags = [flag for link in self.bijections if (flag := link.initialised) is not None]
        return ops.min(ops.stack(flags)) if flags else None

    def compute_output_shape(self, inputs_shape, context_shape=None):
        for link in self.bijections:
            inputs_shape = link.compute_output_shape(inputs_shape)
        return tuple(inputs_shape)

    def get_config(self):
        network = self.context_network
        within = self.built and not isinstance(network, keras.Model)
        return {
            **super().get_config(),
            "bijections": [serialised(link, self.built) for link in self.bijections],
            "context_network": network if network is None else serialised(network, within),
        }

    @classmethod
    def from_config(cls, config):
        return super().from_config(deserialised(config, "bijections", "context_network"))


def serialised(layer, within_built):
    """Its config; where what contains it builds it, the weights' paths are the same again."""
    config = keras.saving.serialize_keras_object(layer)
    return {k: v for k, v in config.items() if k != "build_config"} if within_built else config


def deserialised(config, *names):
    """The config with the layers of these names made."""
    config = dict(config)
    for name in names:
        value = config.get(name)
        if isinstance(value, list):
            config[name] = [keras.saving.deserialize_keras_object(item) for item in value]
        elif value is not None:
            config[name] = keras.saving.deserialize_keras_object(value)
    return config


@register
@checked(bijection=bijection_rule)
class Inverse(Bijection):
    """A bijection the other way round: data of one are latents of the other.

    Of one that keeps the shape of events. It is not initialised from data.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import Inverse, MaskedAutoregressive

    fast_sampling = Inverse(MaskedAutoregressive((32,)))
    z, log_det = fast_sampling.forward_and_log_det(np.zeros((4, 3), "float32"))
    ```
    """

    def __init__(self, bijection: Bijection, **kwargs: Any):
        super().__init__(**kwargs)
        self.bijection = bijection

    def build(self, inputs_shape, context_shape=None):
        super().build(inputs_shape, context_shape)
        if tuple(self.bijection.compute_output_shape(inputs_shape)) != tuple(inputs_shape):
            raise ValueError(
                "`Inverse` takes a bijection that keeps the shape of events. Received: "
                f"{type(self.bijection).__name__} {self.bijection.name!r}, which doesn't."
            )
        if not self.bijection.built:
            self.bijection.build(inputs_shape, context_shape)

    def to_latent(self, x, context=None, training=False):
        return self.bijection.to_data(x, context, training)

    def to_data(self, z, context=None, training=False):
        return self.bijection.to_latent(z, context, training)

    def get_config(self):
        return {**super().get_config(), "bijection": serialised(self.bijection, self.built)}

    @classmethod
    def from_config(cls, config):
        return super().from_config(deserialised(config, "bijection"))
