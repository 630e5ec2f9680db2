"""Convolutions that see only what comes before, row by row, and a network of them (1601.06759)."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from artifex_keras.aliases import Shape
from artifex_keras.arguments import checked, count, one_of
from artifex_keras.networks.rules import RULES, image_shape

__all__ = ["MaskedConv2D", "pixelcnn"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES, filters=count(), mask=one_of("A", "B"), channels=count())
class MaskedConv2D(layers.Conv2D):
    """A convolution whose output at a place depends on the places before it: those in the rows
    above, and those on the left. Strides are 1, the padding is "same".

    Args:
        filters: of the output; a multiple of `channels`.
        kernel_size: odd.
        mask: `"A"` leaves the place itself out, for the first layer; `"B"` includes it.
        channels: the image's. Inputs and outputs are divided into as many equal groups, one for
            each channel, which are in order too: at the place itself a group sees groups before
            it, under `"B"` itself as well.

    Example:

    ```python
    import keras
    import artifex_keras as ak

    image = keras.Input((8, 8, 1))
    first = ak.networks.MaskedConv2D(4, 3, "A", 1, padding="same")  # doesn't see the pixel itself
    print(first(image).shape)  # (None, 8, 8, 4)
    ```
    """

    def __init__(
        self, filters: int, kernel_size: int, mask: str = "B", channels: int = 1, **kwargs: Any
    ):
        kwargs.pop("padding", None)
        super().__init__(filters, kernel_size, padding="same", **kwargs)
        if filters % channels or not all(size % 2 for size in self.kernel_size):
            raise ValueError(
                "`kernel_size` must be odd and `filters` a multiple of `channels`. Received: "
                f"kernel_size={kernel_size}, filters={filters}, channels={channels}."
            )
        self.mask, self.channels = mask, channels

    def build(self, input_shape):
        super().build(input_shape)
        height, width, inputs, outputs = self.kernel.shape
        if inputs % self.channels:
            raise ValueError(
                "The input's channels must be a multiple of `channels`. Received: "
                f"{inputs} and channels={self.channels}."
            )
        seen = np.zeros((height, width, inputs, outputs), "float32")
        seen[: height // 2] = 1.0
        seen[height // 2, : width // 2] = 1.0
        source = np.arange(inputs) * self.channels // inputs
        target = np.arange(outputs) * self.channels // outputs
        before = source[:, None] <= target if self.mask == "B" else source[:, None] < target
        seen[height // 2, width // 2] = before
        self.seen = seen

    def convolution_op(self, inputs, kernel):
        # A product at every call: a kernel masked once would be unmasked by the first update.
        kernel = ops.cast(kernel, self.compute_dtype)
        return super().convolution_op(inputs, kernel * ops.cast(self.seen, self.compute_dtype))

    def get_config(self):
        return {**super().get_config(), "mask": self.mask, "channels": self.channels}


@checked(RULES, input_shape=image_shape, filters=count())
def pixelcnn(
    input_shape: Shape,
    num_parameters: int,
    *,
    filters: int = 64,
    num_blocks: int = 5,
    kernel_size: int = 3,
    first_kernel_size: int = 7,
    dropout: float = 0.0,
    name: str = "pixelcnn",
) -> keras.Model:
    """A network (B, H, W, C) -> (B, H, W, C, `num_parameters`) in float32 whose output for a place
    and channel depends on what comes before: places row by row, in each its channels in order.

    A masked convolution without the place itself, `num_blocks` residual blocks with it, two layers
    more. `filters` must be a multiple of twice the channels. The stack of masks doesn't see all
    that comes before: a wedge on the right above a place is blind (1606.05328).

    Example:

    ```python
    import artifex_keras as ak

    network = ak.networks.pixelcnn((8, 8, 1), num_parameters=17, filters=8, num_blocks=1)
    model = ak.PixelAutoregressive(network, num_levels=17)
    ```
    """
    shape, channels = input_shape, input_shape[-1]
    if filters % (2 * channels):
        raise ValueError(
            "`filters` must be a multiple of twice the channels. Received: filters="
            f"{filters} for images of shape {shape}."
        )

    def masked(width, size, part, mask="B", **options):
        return MaskedConv2D(width, size, mask, channels, name=f"{name}_{part}", **options)

    inputs = keras.Input(shape, name=f"{name}_input")
    x = masked(filters, first_kernel_size, "first", "A")(inputs)
    for i in range(num_blocks):
        h = layers.ReLU(name=f"{name}_{i}_relu_1")(x)
        h = masked(filters // 2, 1, f"{i}_down", activation="relu")(h)
        h = masked(filters // 2, kernel_size, f"{i}_middle", activation="relu")(h)
        h = layers.Dropout(dropout, name=f"{name}_{i}_dropout")(h)
        h = masked(filters, 1, f"{i}_up")(h)
        x = layers.Add(name=f"{name}_{i}_add")([x, h])
    x = layers.ReLU(name=f"{name}_relu")(x)
    x = masked(filters, 1, "last", activation="relu")(x)
    x = masked(channels * num_parameters, 1, "out", dtype="float32")(x)
    out = layers.Reshape((*shape, num_parameters), dtype="float32", name=f"{name}_parameters")(x)
    return keras.Model(inputs, out, name=name)
