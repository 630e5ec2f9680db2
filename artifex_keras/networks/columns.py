"""Some tokens of all rows at a time."""

import keras
from keras import ops

from artifex_keras import backend

__all__ = ["over_columns"]


def over_columns(fn, tensors, columns, shards=1):
    """`fn(*tensors)`, a tuple of (B, T, ...), for tensors (B, T, ...), of `columns` of their tokens
    at a time. `fn` must treat each token by itself, and is called again for the gradient.

    Where rows lie on `shards` devices, each takes its next `columns` / `shards` tokens, so that all
    have work at a time and none needs tokens of another. None is all at once.
    """
    length = tensors[0].shape[1]
    if columns is None or not isinstance(length, int):
        return fn(*tensors)
    part = -(-length // shards)  # of a row on a device
    width = min(part, max(1, columns // shards))
    count = -(-part // width)
    if count == 1:
        return fn(*tensors)

    def parted(tensor):
        tensor = backend.over_context(_padded(tensor, shards * part))
        rest = tuple(tensor.shape[2:])
        tensor = ops.reshape(tensor, (-1, shards, part, *rest))
        tensor = _padded(tensor, count * width, axis=2)
        tensor = ops.reshape(tensor, (-1, shards, count, width, *rest))
        tensor = ops.transpose(tensor, (2, 0, 1, 3, *range(4, len(rest) + 4)))
        return ops.reshape(tensor, (count, -1, shards * width, *rest))

    def joined(tensor):
        rest = tuple(tensor.shape[3:])
        tensor = ops.reshape(tensor, (count, -1, shards, width, *rest))
        tensor = ops.transpose(tensor, (1, 2, 0, 3, *range(4, len(rest) + 4)))
        tensor = ops.reshape(tensor, (-1, shards, count * width, *rest))[:, :, :part]
        return ops.reshape(tensor, (-1, shards * part, *rest))[:, :length]

    again = keras.remat(fn)

    def made(parts):
        return again(*(backend.over_context(part) for part in parts))

    return tuple(map(joined, backend.repeat(made, tuple(map(parted, tensors)))))


def _padded(tensor, length, axis=1):
    widths = [[0, 0]] * len(tensor.shape)
    widths[axis] = [0, length - tensor.shape[axis]]
    return ops.pad(tensor, widths)
