"""What a network ends with: the activation behind its output, where it says so."""

import keras

from artifex_keras.backend import keras_internals

__all__ = ["HALF_BOUNDED", "RANGES", "activations"]

# Layers that hand their input's values on, in another shape or place.
PASSING = ("Reshape", "Flatten", "Permute", "Cropping", "Dropout", "Identity", "Squeeze", "Cast")
HALF_BOUNDED = ("relu", "relu6", "softplus")
RANGES = {"sigmoid": (0, 1), "hard_sigmoid": (0, 1), "softmax": (0, 1), "tanh": (-1, 1)}
BOUNDED = ("sigmoid", "hard_sigmoid", "softmax", "tanh", "softsign", *HALF_BOUNDED)


def activations(network):
    """The names in `BOUNDED` that a network's outputs end with, one for each; None elsewhere.

    Of a network that isn't functional nothing is known: an empty list.
    """
    return [_activation(output) for output in getattr(network, "outputs", None) or []]


def _activation(tensor):
    operation, inputs = keras_internals.origin(tensor)
    if isinstance(operation, keras.Model):
        inner = activations(operation)
        return inner[0] if len(inner) == 1 else None
    if any(part in type(operation).__name__ for part in PASSING) and len(inputs) == 1:
        return _activation(inputs[0])
    given = getattr(operation, "activation", None)
    given = getattr(getattr(operation, "layer", None), "activation", given)  # wrapped
    name = type(operation).__name__ if given is None else getattr(given, "__name__", "")
    name = name.lower()
    return name if name in BOUNDED else None
