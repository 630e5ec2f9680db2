"""Fully connected encoders, decoders, generators and critics.

Each function returns a functional `keras.Model`. Layer names begin with the model's `name`, so
that no two networks of a family share a path. Outputs are float32 under every dtype policy.
"""

import math
from collections.abc import Sequence

import keras
from keras import layers

from artifex_keras.aliases import Activation, Shape
from artifex_keras.arguments import checked
from artifex_keras.networks.rules import RULES
from artifex_keras.networks.spectral import SpectralNormalization

__all__ = ["mlp", "mlp_critic", "mlp_decoder", "mlp_encoder", "mlp_generator"]

OF_CODES = 1.0  # the deviation of a VAE's codes under its prior


def maybe_spectral(layer, spectral_norm):
    """`layer`, wrapped in `SpectralNormalization` if `spectral_norm`."""
    if not spectral_norm:
        return layer
    return SpectralNormalization(layer, name=f"{layer.name}_spectral", dtype=layer.dtype_policy)


def hidden_layers(x, units, activation, name, spectral_norm=False):
    """`x` through one dense layer for each of `units`."""
    for index, width in enumerate(units, 1):
        dense = layers.Dense(width, activation=activation, name=f"{name}_hidden_{index}")
        x = maybe_spectral(dense, spectral_norm)(x)
    return x


def dense_output(x, output_shape, activation, name):
    """`x` through a float32 dense layer and reshaped to `output_shape`."""
    width = math.prod(output_shape)
    x = layers.Dense(width, activation=activation, dtype="float32", name=f"{name}_output")(x)
    return layers.Reshape(output_shape, dtype="float32", name=f"{name}_reshape")(x)


def gaussian_heads(x, latent_dim, name):
    """`[mean, log_var]`, each (B, latent_dim) in float32."""
    return [
        layers.Dense(latent_dim, dtype="float32", name=f"{name}_{part}")(x)
        for part in ("mean", "log_var")
    ]


def latent_inputs(latent_dim, num_classes, name, deviation=None):
    """A generator's or decoder's inputs and what they say together.

    ``z, z`` or ``[z, labels], (z, embedded labels)``, the embedding as wide as z; `deviation` as in
    `label_embedding`.
    """
    z = keras.Input((latent_dim,), name=f"{name}_latent")
    if num_classes is None:
        return z, z
    labels, embedded = label_embedding(num_classes, latent_dim, name, deviation)
    return [z, labels], layers.Concatenate(name=f"{name}_condition")([z, embedded])


def label_embedding(num_classes, width, name, deviation=None):
    """An input of labels (B,), and a learned vector (B, width) for each.

    The vectors begin with a normal distribution of this `deviation`, or uniform on ±0.05. A VAE's
    have that of its codes, `OF_CODES`: labels that are faint beside codes which know the class are
    never looked at.
    """
    labels = keras.Input((), dtype="int32", name=f"{name}_labels")
    normal = deviation and keras.initializers.RandomNormal(stddev=deviation)
    embedding = layers.Embedding(num_classes, width, normal or "uniform", name=f"{name}_class")
    return labels, embedding(labels)


def critic_model(inputs, features, num_classes, spectral_norm, name):
    """The model from `inputs` to the logit ``w·h + b``, of shape (B, 1), of features h (B, F).

    With `num_classes` the logit has the term ``e_y·h`` more, e_y learned for each class y
    (projection, 1802.05637), and the model has the inputs `[x, labels]`.
    """
    dense = layers.Dense(1, dtype="float32", name=f"{name}_logit")
    logits = maybe_spectral(dense, spectral_norm)(features)
    if num_classes is None:
        return keras.Model(inputs, logits, name=name)
    labels = keras.Input((), dtype="int32", name=f"{name}_labels")
    width = features.shape[-1]
    embedding = layers.Embedding(num_classes, width, dtype="float32", name=f"{name}_class")
    embedded = maybe_spectral(embedding, spectral_norm)(labels)
    projection = layers.Dot(1, dtype="float32", name=f"{name}_projection")([embedded, features])
    logits = layers.Add(dtype="float32", name=f"{name}_conditional_logit")([logits, projection])
    return keras.Model([inputs, labels], logits, name=name)


@checked(RULES)
def mlp(
    input_shape: Shape,
    units: Sequence[int],
    output_shape: Shape,
    *,
    activation: Activation = "relu",
    output_activation: Activation | None = None,
    name: str = "mlp",
) -> keras.Model:
    """A network (B, *input_shape) -> (B, *output_shape) with hidden layers of widths `units`.

    Example:

    ```python
    import artifex_keras as ak

    network = ak.networks.mlp((8, 8, 1), (64, 64), (10,))
    print(network.input_shape, network.output_shape)  # (None, 8, 8, 1) (None, 10)
    ```
    """
    inputs = keras.Input(input_shape, name=f"{name}_input")
    x = layers.Flatten(name=f"{name}_flatten")(inputs)
    x = hidden_layers(x, units, activation, name)
    return keras.Model(inputs, dense_output(x, output_shape, output_activation, name), name=name)


@checked(RULES)
def mlp_encoder(
    input_shape: Shape,
    latent_dim: int,
    units: Sequence[int] = (256, 256),
    *,
    num_classes: int | None = None,
    activation: Activation = "relu",
    name: str = "encoder",
) -> keras.Model:
    """A Gaussian encoder (B, *input_shape) -> `[mean, log_var]`, each (B, latent_dim).

    With `num_classes` its inputs are `[x, labels]`, labels being integers (B,).

    Example:

    ```python
    import artifex_keras as ak

    encoder = ak.networks.mlp_encoder((28, 28, 1), latent_dim=16)
    decoder = ak.networks.mlp_decoder(16, (28, 28, 1))
    vae = ak.VAE(encoder, decoder)
    ```
    """
    inputs = keras.Input(input_shape, name=f"{name}_input")
    x = layers.Flatten(name=f"{name}_flatten")(inputs)
    if num_classes is not None:
        labels, embedded = label_embedding(num_classes, latent_dim, name, OF_CODES)
        inputs, x = [inputs, labels], layers.Concatenate(name=f"{name}_condition")([x, embedded])
    x = hidden_layers(x, units, activation, name)
    return keras.Model(inputs, gaussian_heads(x, latent_dim, name), name=name)


@checked(RULES)
def mlp_decoder(
    latent_dim: int,
    output_shape: Shape,
    units: Sequence[int] = (256, 256),
    *,
    num_classes: int | None = None,
    activation: Activation = "relu",
    output_activation: Activation | None = None,
    name: str = "decoder",
) -> keras.Model:
    """A decoder (B, latent_dim) -> (B, *output_shape).

    Leave `output_activation` out for the likelihoods that take logits (Bernoulli, categorical:
    there `output_shape` ends with the number of levels). With `num_classes` its inputs are
    `[z, labels]`, labels being integers (B,).

    Example:

    ```python
    import artifex_keras as ak

    decoder = ak.networks.mlp_decoder(16, (28, 28, 1), units=(128, 256))
    print(decoder.output_shape)  # (None, 28, 28, 1)
    ```
    """
    if num_classes is not None:
        inputs, x = latent_inputs(latent_dim, num_classes, name, OF_CODES)
        x = hidden_layers(x, units, activation, name)
        return keras.Model(
            inputs, dense_output(x, output_shape, output_activation, name), name=name
        )
    return mlp(
        (latent_dim,),
        units,
        output_shape,
        activation=activation,
        output_activation=output_activation,
        name=name,
    )


@checked(RULES)
def mlp_generator(
    latent_dim: int,
    output_shape: Shape,
    units: Sequence[int] = (128, 128, 128),
    *,
    output_activation: Activation | None = None,
    num_classes: int | None = None,
    activation: Activation = "relu",
    name: str = "generator",
) -> keras.Model:
    """A generator (B, latent_dim) -> (B, *output_shape).

    With `num_classes` its inputs are `[z, labels]`, labels being integers (B,). "tanh" as
    `output_activation` suits data in [-1, 1], "sigmoid" data in [0, 1].

    Example:

    ```python
    import artifex_keras as ak

    generator = ak.networks.mlp_generator(16, (28, 28, 1))
    critic = ak.networks.mlp_critic((28, 28, 1))
    gan = ak.GAN(generator, critic, latent_dim=16)
    ```
    """
    inputs, x = latent_inputs(latent_dim, num_classes, name)
    x = hidden_layers(x, units, activation, name)
    return keras.Model(inputs, dense_output(x, output_shape, output_activation, name), name=name)


@checked(RULES)
def mlp_critic(
    input_shape: Shape,
    units: Sequence[int] = (128, 128, 128),
    *,
    num_classes: int | None = None,
    spectral_norm: bool = False,
    activation: Activation = "leaky_relu",
    name: str = "discriminator",
) -> keras.Model:
    """A critic (B, *input_shape) -> logits (B, 1).

    With `num_classes` its inputs are `[x, labels]`, labels being integers (B,), and the logit is
    conditional by projection (1802.05637). `spectral_norm` divides every kernel by its largest
    singular value (1802.05957).

    Example:

    ```python
    import artifex_keras as ak

    critic = ak.networks.mlp_critic((2,), units=(64, 64), spectral_norm=True)
    print(critic.output_shape)  # (None, 1)
    ```
    """
    inputs = keras.Input(input_shape, name=f"{name}_input")
    x = layers.Flatten(name=f"{name}_flatten")(inputs)
    x = hidden_layers(x, units, activation, name, spectral_norm)
    return critic_model(inputs, x, num_classes, spectral_norm, name)
