"""Which framework runs: asked here, once, for the whole package."""

import importlib

import keras

__all__ = ["FRAMEWORKS", "name", "part"]

FRAMEWORKS = ("jax", "tensorflow", "torch")


def name():
    """The framework that Keras runs on: "jax", "tensorflow" or "torch"."""
    return keras.config.backend()


def part(file):
    """The module of that name in the running framework's folder.

    Raises:
        ImportError: if Keras runs on something else.
    """
    if name() not in FRAMEWORKS:
        raise ImportError(
            "artifex_keras trains on the backends 'jax', 'tensorflow' and 'torch'. "
            f"Received: KERAS_BACKEND={name()!r}."
        )
    return importlib.import_module(f"artifex_keras.backend.{name()}.{file}")
