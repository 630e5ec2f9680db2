"""Convolutional encoders, decoders, generators and critics for images of any size.

Each function returns a functional `keras.Model` of channels-last images (B, height, width,
channels). Every number in `filters` is one halving, or doubling, of height and width; sizes that
are not divisible are rounded up on the way down and cropped on the way up, so that outputs have
exactly the shape asked for. Layer names begin with the model's `name`; outputs are float32.
"""

import math
from collections.abc import Sequence

import keras
from keras import layers

from artifex_keras.aliases import Activation, Shape
from artifex_keras.arguments import checked, one_of
from artifex_keras.networks.mlp import (
    OF_CODES,
    critic_model,
    gaussian_heads,
    label_embedding,
    latent_inputs,
    maybe_spectral,
)
from artifex_keras.networks.rules import RULES, image_shape

__all__ = ["conv_critic", "conv_decoder", "conv_encoder", "conv_generator"]


def _batch_norm(name):
    return layers.BatchNormalization(name=name)


def _layer_norm(name):
    # One group: over height, width and channels of an example, with a scale for each channel.
    return layers.GroupNormalization(groups=1, name=name)


NORMALIZATIONS = {"batch": _batch_norm, "layer": _layer_norm}


def _transposed(x, filters, name):
    # A kernel that the stride divides covers every pixel equally often.
    return layers.Conv2DTranspose(filters, 4, strides=2, padding="same", name=f"{name}_conv")(x)


def _resized(x, filters, name):
    x = layers.UpSampling2D(2, name=f"{name}_resize")(x)
    return layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)


UPSAMPLINGS = {"transpose": _transposed, "resize": _resized}


CHECKS = {
    **RULES,
    "input_shape": image_shape,
    "output_shape": image_shape,
    "normalization": one_of(*NORMALIZATIONS, None),
    "upsampling": one_of(*UPSAMPLINGS),
}


def _resolutions(height, width, halvings):
    """Height and width at each stage, from the smallest up to the full ones."""
    stages = [(height, width)]
    for _ in range(halvings):
        height, width = (height + 1) // 2, (width + 1) // 2
        stages.append((height, width))
    return stages[::-1]


def _normalize(x, normalization, name):
    if normalization is None:
        return x
    return NORMALIZATIONS[normalization](name)(x)


def _down(x, filters, activation, name, *, normalization=None, spectral_norm=False):
    """`x` through one strided convolution for each of `filters`."""
    for index, width in enumerate(filters, 1):
        conv = layers.Conv2D(width, 4, strides=2, padding="same", name=f"{name}_conv_{index}")
        x = maybe_spectral(conv, spectral_norm)(x)
        x = _normalize(x, normalization, f"{name}_norm_{index}")
        x = layers.Activation(activation, name=f"{name}_activation_{index}")(x)
    return x


def _up(x, output_shape, filters, activation, name, *, upsampling, normalization=None):
    """`x` (B, F) as a small image, doubled in size once for each of `filters`."""
    (height, width), *larger = _resolutions(*output_shape[:2], len(filters))
    x = layers.Dense(height * width * filters[0], name=f"{name}_dense")(x)
    x = layers.Reshape((height, width, filters[0]), name=f"{name}_layout")(x)
    x = _normalize(x, normalization, f"{name}_norm_0")
    x = layers.Activation(activation, name=f"{name}_activation_0")(x)
    for index, (channels, size) in enumerate(zip(filters, larger, strict=True), 1):
        x = UPSAMPLINGS[upsampling](x, channels, f"{name}_up_{index}")
        x = _crop(x, size, f"{name}_crop_{index}")
        x = _normalize(x, normalization, f"{name}_norm_{index}")
        x = layers.Activation(activation, name=f"{name}_activation_{index}")(x)
    return x


def _crop(x, size, name):
    excess = [have - want for have, want in zip(x.shape[1:3], size, strict=True)]
    if not any(excess):
        return x
    return layers.Cropping2D(tuple((0, extra) for extra in excess), name=name)(x)


def _label_channel(num_classes, size, name):
    """An input of labels (B,), and a learned image (B, *size, 1) for each."""
    labels, embedded = label_embedding(num_classes, math.prod(size), name, OF_CODES)
    return labels, layers.Reshape((*size, 1), name=f"{name}_class_channel")(embedded)


def _image_output(x, channels, activation, name):
    return layers.Conv2D(
        channels, 3, padding="same", activation=activation, dtype="float32", name=f"{name}_output"
    )(x)


@checked(CHECKS)
def conv_encoder(
    input_shape: Shape,
    latent_dim: int,
    filters: Sequence[int] = (32, 64),
    *,
    num_classes: int | None = None,
    activation: Activation = "relu",
    name: str = "encoder",
) -> keras.Model:
    """A Gaussian encoder (B, height, width, channels) -> `[mean, log_var]`, (B, latent_dim).

    With `num_classes` its inputs are `[x, labels]`, labels being integers (B,): each class is a
    learned channel beside those of x.

    Example:

    ```python
    import artifex_keras as ak

    encoder = ak.networks.conv_encoder((28, 28, 1), latent_dim=8, filters=(16, 32))
    mean, log_var = encoder.outputs
    print(mean.shape, log_var.shape)  # (None, 8) (None, 8)
    ```
    """
    inputs = x = keras.Input(input_shape, name=f"{name}_input")
    if num_classes is not None:
        labels, channel = _label_channel(num_classes, input_shape[:2], name)
        inputs, x = [x, labels], layers.Concatenate(name=f"{name}_condition")([x, channel])
    x = _down(x, filters, activation, name)
    x = layers.Flatten(name=f"{name}_flatten")(x)
    return keras.Model(inputs, gaussian_heads(x, latent_dim, name), name=name)


@checked(CHECKS)
def conv_decoder(
    latent_dim: int,
    output_shape: Shape,
    filters: Sequence[int] = (64, 32),
    *,
    num_classes: int | None = None,
    upsampling: str = "transpose",
    activation: Activation = "relu",
    output_activation: Activation | None = None,
    name: str = "decoder",
) -> keras.Model:
    """A decoder (B, latent_dim) -> (B, height, width, channels).

    Leave `output_activation` out for the likelihoods that take logits (Bernoulli, categorical:
    there the channels of `output_shape` are the levels of a grey image). `upsampling` is
    "transpose" or "resize". With `num_classes` its inputs are `[z, labels]`, labels being integers
    (B,).

    Example:

    ```python
    import artifex_keras as ak

    decoder = ak.networks.conv_decoder(8, (28, 28, 1), filters=(16, 32))
    print(decoder.output_shape)  # (None, 28, 28, 1)
    ```
    """
    inputs, x = latent_inputs(latent_dim, num_classes, name, OF_CODES)
    x = _up(x, output_shape, filters, activation, name, upsampling=upsampling)
    return keras.Model(
        inputs, _image_output(x, output_shape[2], output_activation, name), name=name
    )


@checked(CHECKS)
def conv_generator(
    latent_dim: int,
    output_shape: Shape,
    filters: Sequence[int] = (128, 64),
    *,
    num_classes: int | None = None,
    upsampling: str = "transpose",
    normalization: str = "batch",
    activation: Activation = "relu",
    output_activation: Activation | None = None,
    name: str = "generator",
) -> keras.Model:
    """A generator (B, latent_dim) -> (B, height, width, channels).

    `upsampling` "transpose" is DCGAN's (1511.06434); "resize" repeats pixels before a plain
    convolution and leaves no checkerboard. `normalization` is "batch", "layer" or None. With
    `num_classes` the inputs are `[z, labels]`, labels being integers (B,). "tanh" as
    `output_activation` suits data in [-1, 1], "sigmoid" data in [0, 1].

    Example:

    ```python
    import artifex_keras as ak

    generator = ak.networks.conv_generator(16, (28, 28, 1), filters=(16, 32))
    print(generator.output_shape)  # (None, 28, 28, 1)
    ```
    """
    inputs, x = latent_inputs(latent_dim, num_classes, name)
    options = {"upsampling": upsampling, "normalization": normalization}
    x = _up(x, output_shape, filters, activation, name, **options)
    return keras.Model(
        inputs, _image_output(x, output_shape[2], output_activation, name), name=name
    )


@checked(CHECKS)
def conv_critic(
    input_shape: Shape,
    filters: Sequence[int] = (64, 128),
    *,
    num_classes: int | None = None,
    spectral_norm: bool = False,
    normalization: str | None = None,
    activation: Activation = "leaky_relu",
    name: str = "discriminator",
) -> keras.Model:
    """A critic (B, height, width, channels) -> logits (B, 1).

    `normalization` is None, "layer" (over all of an example) or "batch", which couples examples
    and is not for gradient penalties. With `num_classes` the inputs are `[x, labels]`, labels
    being integers (B,), and the logit is conditional by projection (1802.05637). `spectral_norm`
    divides every kernel by its largest singular value (1802.05957).

    Example:

    ```python
    import artifex_keras as ak

    critic = ak.networks.conv_critic((28, 28, 1), filters=(16, 32))
    print(critic.output_shape)  # (None, 1)
    ```
    """
    inputs = keras.Input(input_shape, name=f"{name}_input")
    options = {"normalization": normalization, "spectral_norm": spectral_norm}
    x = _down(inputs, filters, activation, name, **options)
    x = layers.Flatten(name=f"{name}_flatten")(x)
    return critic_model(inputs, x, num_classes, spectral_norm, name)
