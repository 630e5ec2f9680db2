"""Keras's data adapters, wrapped."""

from typing import Any

from artifex_keras.aliases import Data
from artifex_keras.backend import keras_internals

__all__ = ["Wrapped", "innermost", "watched"]


def watched(adapter, name, begin):
    """Lets the passes that an adapter's method of that name opens show each batch to `begin()`.

    Only once, however often an adapter is used.
    """
    if name in getattr(adapter, "__dict__", {}) or not hasattr(adapter, name):
        return
    open_pass = getattr(adapter, name)

    def passes(**options):
        look = begin()
        for batch in open_pass(**options):
            look(batch)
            yield batch

    setattr(adapter, name, passes)


def innermost(adapter):
    """Keras's own adapter, of one that may be wrapped."""
    while isinstance(adapter, Wrapped):
        adapter = adapter._adapter
    return adapter


class Wrapped(keras_internals.data_adapter_class()):
    """The adapter of what `fit` or `predict` is given, for one that changes its batches.

    Args:
        x, arguments: as `keras_internals.data_adapter` takes them.
    """

    def __init__(self, x: Data, *arguments: Any, **options: Any):
        self._adapter = keras_internals.data_adapter(x, *arguments, **options)

    def __getattr__(self, name):  # what a checkpoint looks at to go on in the middle
        if name == "_adapter":
            raise AttributeError(name)
        return getattr(self._adapter, name)

    def get_jax_iterator(self, **options):  # newer versions of Keras ask for several as one
        return self._adapter.get_jax_iterator(**options)

    def get_numpy_iterator(self):
        return self._adapter.get_numpy_iterator()

    @property
    def num_batches(self):
        return self._adapter.num_batches

    @property
    def batch_size(self):
        return self._adapter.batch_size

    def on_epoch_begin(self):
        self._adapter.on_epoch_begin()

    def on_epoch_end(self):
        self._adapter.on_epoch_end()
