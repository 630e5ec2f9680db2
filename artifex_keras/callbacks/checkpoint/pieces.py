"""Arrays of which a process has read the parts that it needs."""

import math

import numpy as np

__all__ = ["Pieces", "overlap", "stacked"]


def overlap(one, other):
    """The bounds that two parts of an array have in common; None if they have nothing."""
    both = tuple(
        (max(begin, start), min(end, stop))
        for (begin, end), (start, stop) in zip(one, other, strict=True)
    )
    return None if any(begin >= end for begin, end in both) else both


class Pieces:
    """An array of which some parts are there; slices of it are NumPy arrays.

    Args:
        shape: of the whole array.
        dtype: of NumPy.

    Attributes:
        parts: NumPy arrays by their bounds, a pair for each axis.
    """

    def __init__(self, shape, dtype):
        self.shape, self.dtype, self.parts = tuple(shape), np.dtype(dtype), {}

    def __getitem__(self, index):
        """The values within slices, one for each axis.

        Raises:
            ValueError: if not all of them are there.
        """
        pairs = zip(index, self.shape, strict=True)
        bounds = tuple(part.indices(length)[:2] for part, length in pairs)
        covered = [overlap(each, bounds) for each in self.parts]
        size = _size(bounds)
        if sum(_size(both) for both in covered if both is not None) != size:
            raise ValueError(f"parts of an array of shape {self.shape} are missing")
        found = np.zeros([end - begin for begin, end in bounds], self.dtype)
        for each, value in self.parts.items():
            if (both := overlap(each, bounds)) is not None:
                found[_within(both, bounds)] = value[_within(both, each)]
        return found

    def __array__(self, dtype=None, copy=None):
        values = self[(slice(None),) * len(self.shape)]
        return values if dtype is None else values.astype(dtype)


class _Stack:
    """Arrays of one shape as one with an axis more in front; parts are made when asked for."""

    def __init__(self, values):
        self.values, self.shape = values, (len(values), *values[0].shape)

    def __getitem__(self, index):
        return np.stack([value[tuple(index[1:])] for value in self.values[index[0]]])

    def __array__(self, dtype=None, copy=None):
        values = np.stack([np.asarray(value) for value in self.values])
        return values if dtype is None else values.astype(dtype)


def stacked(values):
    """Arrays of one shape as one with an axis more in front: NumPy's, if all of them are."""
    if any(isinstance(value, Pieces) for value in values):
        return _Stack(values)
    return np.stack(values)


def _size(bounds):
    return math.prod(end - begin for begin, end in bounds)


def _within(bounds, outer):
    """The slices of `bounds` in a part that begins where `outer` does."""
    return tuple(
        slice(begin - start, end - start)
        for (begin, end), (start, _) in zip(bounds, outer, strict=True)
    )
