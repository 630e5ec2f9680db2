"""What the arguments of ready networks may be, by name: for `arguments.checked`."""

import keras

from artifex_keras.arguments import (
    boolean,
    bounded,
    broken_rule,
    count,
    nearest,
    optional,
    random_seed,
    row_of,
    sizes,
    text,
)

__all__ = ["RULES", "activation", "image_shape", "network"]


def activation(name, value):
    """An activation: a function, or the name of one of Keras's; None is the identity."""
    if isinstance(value, type):
        raise broken_rule(name, value, "a function or the name of an activation")
    try:
        keras.activations.get(value)
    except (TypeError, ValueError) as error:
        rule = "a function or the name of an activation"
        hint = nearest(value, vars(keras.activations))
        raise broken_rule(name, value, rule, hint) from error
    return value


def image_shape(name, value):
    """The shape of an image, (height, width, channels)."""
    shape = sizes(name, value)
    if len(shape) != 3:
        hint = (
            f" Images of one channel: {(*shape, 1)}, and x[..., None]." if len(shape) == 2 else ""
        )
        raise broken_rule(name, value, "(height, width, channels)", hint)
    return shape


def widths(name, value):
    """The widths of hidden layers, of which there may be none."""
    return sizes(name, value, least=0)


def layer_name(name, value):
    """The name of a network or layer: a text without "/"."""
    plain = text(name, value)
    if "/" in plain:
        raise broken_rule(name, value, "a text without '/'")
    return plain


def network(name, value):
    """A layer or model."""
    if not isinstance(value, keras.Layer):
        raise broken_rule(name, value, "a keras.Layer or keras.Model")
    return value


def kernel_size(name, value):
    """The size of a two-dimensional kernel, as (height, width)."""
    size = sizes(name, value)
    if len(size) > 2:
        raise broken_rule(name, value, "a positive integer or two")
    return size if len(size) == 2 else 2 * size


RULES = {
    "activation": activation,
    "actnorm": boolean,
    "blocks": count(),
    "bound": bounded(above=0.0),
    "condition_dim": optional(sizes),
    "context_dim": count(optional=True),
    "depth": count(),
    "dropout": bounded(minimum=0.0, below=1.0),
    "filters": sizes,
    "first_kernel_size": kernel_size,
    "groups": count(),
    "heads": count(),
    "input_shape": sizes,
    "kernel_size": kernel_size,
    "latent_dim": count(),
    "max_length": count(),
    "mlp_ratio": count(),
    "mlp_width": count(optional=True),
    "name": layer_name,
    "network": optional(network),
    "num_blocks": count(0),
    "num_classes": count(optional=True),
    "num_heads": count(),
    "num_kv_heads": count(optional=True),
    "num_layers": count(),
    "num_parameters": count(),
    "num_scales": count(),
    "num_steps": count(),
    "output_activation": activation,
    "output_shape": sizes,
    "patch_size": count(),
    "remat": optional(row_of({"full": "full"}, "remat")),
    "residual": boolean,
    "scan_layers": boolean,
    "seed": random_seed,
    "shape": sizes,
    "skip": boolean,
    "spectral_norm": boolean,
    "tied_embeddings": boolean,
    "time_scale": bounded(above=0.0),
    "units": widths,
    "vocabulary_size": count(),
    "width": count(),
}
