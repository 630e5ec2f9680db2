"""Rows of arrays as pictures need them."""

import numpy as np
from keras import ops

__all__ = ["even_indices", "to_numpy"]


def to_numpy(values):
    return np.asarray(ops.convert_to_numpy(values))


def even_indices(length, count):
    """The numbers of `count` of so many rows, at equal distances, or of all."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(int)
