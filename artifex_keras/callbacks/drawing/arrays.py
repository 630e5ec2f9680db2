"""Arrays as NumPy arrays, and evenly spaced rows of them."""

import numpy as np
from keras import ops

__all__ = ["even_indices", "to_numpy"]


def to_numpy(values):
    return np.asarray(ops.convert_to_numpy(values))


def even_indices(length, count):
    """The indices of `count` of `length` rows, evenly spaced; of all rows if there are fewer."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(int)
