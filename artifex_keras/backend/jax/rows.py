"""Rows of arrays that are taken where they are needed: of each batch a process takes its own."""

import functools

import numpy as np

from artifex_keras.backend import keras_internals

__all__ = ["LazyRows", "take_late"]


class LazyRows:
    """Rows of an array, of which a part is taken by indexing.

    Args:
        take: gives rows of the array, called with `array` and their numbers as `indices`.
        array: as Keras's adapter of arrays holds it.
        indices: numbers of rows, an array or a slice.
    """

    def __init__(self, take, array, indices):
        self._take, self._array = take, array
        is_slice = isinstance(indices, slice)
        self._indices = range(indices.start, indices.stop) if is_slice else np.asarray(indices)
        self.shape = (len(self._indices), *array.array.shape[1:])
        self.ndim = len(self.shape)

    def __getitem__(self, part):
        rows, *rest = part if isinstance(part, tuple) else (part,)
        rows = self._indices[rows]
        rows = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        return np.asarray(self._take(self._array, indices=rows))[(slice(None), *rest)]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)


def take_late(adapter):
    """Lets an adapter of arrays give `LazyRows`; others stay as they are."""
    if not keras_internals.has_arrays(adapter) or not keras_internals.has_batches(adapter):
        return
    open_pass = keras_internals.replace_batches(
        adapter, lambda take, arrays: open_pass(functools.partial(LazyRows, take), arrays)
    )
