"""A small diffusion transformer: patches of an image as tokens, the time in every norm."""

import keras
from keras import layers, ops

from artifex_keras.aliases import Activation, Shape
from artifex_keras.arguments import checked
from artifex_keras.networks.recomputed import assembled, layers_between
from artifex_keras.networks.rows import RowDense
from artifex_keras.networks.rules import RULES, image_shape
from artifex_keras.networks.timed import Gate, Modulation, timed_inputs

__all__ = ["LearnedPositions", "dit"]


@keras.saving.register_keras_serializable(package="artifex_keras")
class LearnedPositions(keras.layers.Layer):
    """``x + p`` for tokens x (B, T, C), p (T, C) learned."""

    def build(self, shape):
        self.positions = self.add_weight(
            name="positions",
            shape=shape[1:],
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.built = True

    def call(self, x):
        return x + ops.cast(self.positions, x.dtype)


@checked(RULES, input_shape=image_shape)
def dit(
    input_shape: Shape,
    width: int = 128,
    *,
    depth: int = 4,
    heads: int = 4,
    patch_size: int = 2,
    mlp_ratio: int = 4,
    num_classes: int | None = None,
    condition_dim: int | None = None,
    time_scale: float = 1.0,
    activation: Activation = "silu",
    remat: str | None = None,
    name: str = "network",
) -> keras.Model:
    """A transformer `[x_t, t]` -> (B, height, width, channels), or of `[x_t, t, condition]`.

    Tokens are square patches; layer norms are shifted and scaled by the time and the condition, and
    each branch has a gate that starts closed (adaLN-zero, 2212.09748). It starts as the function 0.

    Args:
        input_shape: (height, width, channels), height and width divisible by `patch_size`.
        width: of a token, divisible by `heads`.
        depth: blocks of attention and MLP.
        heads: of the attention.
        patch_size: pixels a side.
        mlp_ratio: hidden units of an MLP for each of `width`.
        remat: "full" keeps of each block its inputs alone, and computes it once more for the
            gradient: less memory, the same numbers. None keeps all.
        num_classes, condition_dim, time_scale, activation, name: as for `timed_mlp`.

    Example:

    ```python
    import artifex_keras as ak

    network = ak.networks.dit((8, 8, 1), width=32, depth=1, heads=2, num_classes=10)
    diffusion = ak.Diffusion(network)  # fit(images, labels)
    ```
    """
    rows, columns, channels = input_shape
    if rows % patch_size or columns % patch_size or width % heads:
        raise ValueError(
            "`patch_size` must divide height and width, and `heads` the `width`. Received: "
            f"input_shape={input_shape}, patch_size={patch_size}, width={width}, "
            f"heads={heads}."
        )
    inputs, features = timed_inputs(
        input_shape, width, num_classes, condition_dim, time_scale, activation, name
    )
    rows, columns = rows // patch_size, columns // patch_size
    h = layers.Conv2D(width, patch_size, strides=patch_size, name=f"{name}_patches")(inputs[0])
    h = layers.Reshape((rows * columns, width), name=f"{name}_tokens")(h)
    h = LearnedPositions(name=f"{name}_positions")(h)
    parts = []
    for index in range(depth):
        x, h = h, _block(h, features, heads, mlp_ratio, f"{name}_block_{index}")
        parts.append(layers_between(h, x, features))
    h = _modulated(h, features, f"{name}_output")
    patch = RowDense(
        patch_size * patch_size * channels,
        kernel_initializer="zeros",
        dtype="float32",
        name=f"{name}_output",
    )(h)
    image = _image(patch, rows, columns, patch_size, channels, name)
    return assembled(inputs, image, remat, parts, name)


def _modulated(h, features, name):
    h = layers.LayerNormalization(center=False, scale=False, epsilon=1e-6, name=f"{name}_norm")(h)
    return Modulation(name=f"{name}_modulation")(h, features)


def _block(h, features, heads, mlp_ratio, name):
    width = h.shape[-1]
    inside = _modulated(h, features, f"{name}_attention")
    inside = layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")(
        inside, inside
    )
    inside = Gate(name=f"{name}_attention_gate")(inside, features)
    h = layers.Add(name=f"{name}_attention_skip")([h, inside])
    inside = _modulated(h, features, f"{name}_mlp")
    inside = RowDense(mlp_ratio * width, activation="gelu", name=f"{name}_mlp_in")(inside)
    inside = RowDense(width, name=f"{name}_mlp_out")(inside)
    inside = Gate(name=f"{name}_mlp_gate")(inside, features)
    return layers.Add(name=f"{name}_mlp_skip")([h, inside])


def _image(patches, rows, columns, patch_size, channels, name):
    """Patches (B, rows·columns, p²·channels) as an image."""
    split = (rows, columns, patch_size, patch_size, channels)
    options = {"dtype": "float32"}
    h = layers.Reshape(split, name=f"{name}_split", **options)(patches)
    h = layers.Permute((1, 3, 2, 4, 5), name=f"{name}_order", **options)(h)
    shape = (rows * patch_size, columns * patch_size, channels)
    return layers.Reshape(shape, name=f"{name}_image", **options)(h)
