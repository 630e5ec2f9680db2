"""Rows from all over the data, by which statistics are set before the first step."""

import keras
import numpy as np
from keras import ops

__all__ = ["arrays_of", "evenly_chosen"]

CHUNK = 1 << 20  # values that a look takes in at once


def arrays_of(x, y, weight):
    """`(x, y, weight)` if rows of each can be picked by their number, else None.

    A dataset of batches of arrays, such as a trainer makes, has them as its `arrays`.
    """
    if isinstance(x, keras.utils.PyDataset) and hasattr(x, "arrays"):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(x.arrays)
    parts = [part for part in (x, y, weight) if part is not None]
    good = all(isinstance(part, np.ndarray) or ops.is_tensor(part) for part in parts)
    return (x, y, weight) if good else None


def evenly_chosen(arrays, count):
    """`count` rows of each of the `arrays`, at even distances in all of them, in chunks that memory
    holds. Where there are fewer rows they come several times. None stays None.

    The order is a fixed random one, so that each chunk is from all over the data.
    """
    chosen = np.arange(count) * len(arrays[0]) // count
    chosen = np.random.default_rng(0).permutation(chosen)
    values = int(np.prod(arrays[0].shape[1:], dtype=int))
    size = min(count, 1 << (max(CHUNK // max(values, 1), 1).bit_length() - 1))
    for start in range(0, count, size):
        rows = chosen[start : start + size]
        yield [None if part is None else _rows_of(part, rows) for part in arrays]


def _rows_of(array, rows):
    return array[rows] if isinstance(array, np.ndarray) else ops.take(array, rows, axis=0)
