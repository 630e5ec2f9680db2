"""A U-Net that knows the time, for images of any size."""

import math
from collections.abc import Sequence

import keras
from keras import layers

from artifex_keras.aliases import Activation, Shape
from artifex_keras.arguments import broken_rule, checked, integer
from artifex_keras.networks.recomputed import assembled, layers_between
from artifex_keras.networks.rules import RULES, image_shape
from artifex_keras.networks.timed import Modulation, timed_inputs

__all__ = ["unet"]


@checked(RULES, input_shape=image_shape)
def unet(
    input_shape: Shape,
    filters: Sequence[int] = (32, 64),
    *,
    blocks: int = 1,
    attention: Sequence[int] | None = (),
    heads: int = 4,
    groups: int = 8,
    dropout: float = 0.0,
    num_classes: int | None = None,
    condition_dim: int | None = None,
    time_scale: float = 1.0,
    activation: Activation = "silu",
    remat: str | None = None,
    name: str = "network",
) -> keras.Model:
    """A U-Net `[x_t, t]` -> (B, height, width, channels), or of `[x_t, t, condition]`.

    Residual blocks with group normalisation, modulated by the time and the condition; each number
    in `filters` is one resolution, half the one before, rounded up (2006.11239, 2105.05233). It
    starts as the function 0.

    Args:
        input_shape: (height, width, channels), of any size.
        filters: channels at each resolution.
        blocks: residual blocks at each resolution on the way down; one more on the way up.
        attention: the resolutions that get self-attention, by their place in `filters`, from 0 or
            from the end by -1. The middle always has it, unless this is None.
        heads: of the attention, where they divide the channels.
        groups: of the normalisation, where they divide the channels.
        dropout: rate inside the residual blocks.
        remat: "full" keeps of each residual block and each attention its inputs alone, and computes
            it once more for the gradient: less memory, the same numbers. None keeps all.
        num_classes, condition_dim, time_scale, activation, name: as for `timed_mlp`.

    Example:

    ```python
    import artifex_keras as ak

    network = ak.networks.unet((8, 8, 1), filters=(8, 16))
    diffusion = ak.Diffusion(network)
    print(network.output_shape)  # (None, 8, 8, 1)
    ```
    """
    attending = _levels(attention, len(filters))
    inputs, features = timed_inputs(
        input_shape, 4 * filters[0], num_classes, condition_dim, time_scale, activation, name
    )
    parts = _Parts(features, groups, heads, dropout, activation)
    h = layers.Conv2D(filters[0], 3, padding="same", name=f"{name}_entry")(inputs[0])
    skips = [h]
    for level, width in enumerate(filters):
        for block in range(blocks):
            place = f"{name}_down_{level}_{block}"
            h = parts.residual(h, width, place)
            h = parts.attention(h, place) if level in attending else h
            skips.append(h)
        if level + 1 < len(filters):
            down = layers.Conv2D(width, 3, strides=2, padding="same", name=f"{name}_halve_{level}")
            skips.append(h := down(h))
    h = parts.residual(h, filters[-1], f"{name}_middle_0")
    h = h if attention is None else parts.attention(h, f"{name}_middle")
    h = parts.residual(h, filters[-1], f"{name}_middle_1")
    for level, width in reversed(list(enumerate(filters))):
        for block in range(blocks + 1):
            place = f"{name}_up_{level}_{block}"
            h = layers.Concatenate(name=f"{place}_join")([h, skips.pop()])
            h = parts.residual(h, width, place)
            h = parts.attention(h, place) if level in attending else h
        if level:
            h = _doubled(h, skips[-1].shape[1:3], f"{name}_double_{level}")
    h = layers.Activation(activation, name=f"{name}_output_activation")(
        parts.norm(h, f"{name}_output_norm")
    )
    output = layers.Conv2D(
        input_shape[2],
        3,
        padding="same",
        kernel_initializer="zeros",
        dtype="float32",
        name=f"{name}_output",
    )(h)
    return assembled(inputs, output, remat, parts.found, name)


def _levels(attention, count):
    """The places in `attention` as a set of numbers from 0 to `count` - 1."""
    if attention is not None and not isinstance(attention, list | tuple):
        raise broken_rule("attention", attention, "a tuple of places in `filters`, or None")
    for place in attention or ():
        place = integer("attention", place, minimum=-count)
        if place >= count:
            raise ValueError(
                f"`attention` must name places in `filters`, from {-count} to {count - 1}. "
                f"Received: attention={attention}."
            )
    return {place % count for place in attention or ()}


class _Parts:
    """What a U-Net is made of, each as a function of the tensor that goes through it."""

    def __init__(self, features, groups, heads, dropout, activation):
        self.features, self.groups, self.heads = features, groups, heads
        self.dropout, self.activation = dropout, activation
        self.found = []  # of each block and each attention the names of its layers

    def norm(self, h, name):
        groups = math.gcd(self.groups, h.shape[-1])
        return layers.GroupNormalization(groups, name=name)(h)

    def residual(self, x, width, name):
        h = self.norm(x, f"{name}_norm_0")
        h = layers.Activation(self.activation, name=f"{name}_activation_0")(h)
        h = layers.Conv2D(width, 3, padding="same", name=f"{name}_conv_0")(h)
        h = self.norm(h, f"{name}_norm_1")
        h = Modulation(zero=False, name=f"{name}_time")(h, self.features)
        h = layers.Activation(self.activation, name=f"{name}_activation_1")(h)
        if self.dropout:
            h = layers.Dropout(self.dropout, name=f"{name}_dropout")(h)
        h = layers.Conv2D(
            width, 3, padding="same", kernel_initializer="zeros", name=f"{name}_conv_1"
        )(h)
        skip = x
        if x.shape[-1] != width:
            skip = layers.Conv2D(width, 1, name=f"{name}_width")(x)
        return self._noted(layers.Add(name=f"{name}_skip")([skip, h]), x, self.features)

    def attention(self, x, name):
        height, width, channels = x.shape[1:]
        heads = math.gcd(self.heads, channels)
        h = self.norm(x, f"{name}_attention_norm")
        h = layers.Reshape((height * width, channels), name=f"{name}_attention_rows")(h)
        h = layers.MultiHeadAttention(heads, channels // heads, name=f"{name}_attention")(h, h)
        h = layers.Reshape((height, width, channels), name=f"{name}_attention_image")(h)
        return self._noted(layers.Add(name=f"{name}_attention_skip")([x, h]), x)

    def _noted(self, output, *inputs):
        self.found.append(layers_between(output, *inputs))
        return output


def _doubled(h, size, name):
    """`h` at twice its size, cropped to `size`."""
    h = layers.UpSampling2D(name=f"{name}_repeat")(h)
    excess = [have - want for have, want in zip(h.shape[1:3], size, strict=True)]
    if any(excess):
        crop = tuple((0, extra) for extra in excess)
        h = layers.Cropping2D(crop, name=f"{name}_crop")(h)
    return layers.Conv2D(h.shape[-1], 3, padding="same", name=f"{name}_conv")(h)
