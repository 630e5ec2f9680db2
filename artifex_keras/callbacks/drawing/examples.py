"""Examples from arrays or a dataset of any kind."""

import itertools

import keras
import numpy as np

from artifex_keras.backend.columns import NAMES, split_columns
from artifex_keras.callbacks.drawing.arrays import even_indices, to_numpy

__all__ = ["examples"]

EXAMPLES = 1000  # of the data, at most


def examples(source, count=EXAMPLES):
    """Up to `count` examples of `source` and their targets as NumPy arrays, `(x, y)`.

    y is None without targets. Examples of arrays are evenly spaced, those of batches the first
    ones. Of a torch DataLoader they are the first ones of its dataset: an iterator over the loader
    would draw from torch's random generator.
    """
    if source is None:
        return None, None
    if _is_arrays(source):
        rows = even_indices(len(keras.tree.flatten(source)[0]), count)
        parts = keras.tree.map_structure(lambda leaf: to_numpy(leaf)[rows], source)
        return _x_and_y(parts)
    seen, total = [], 0
    for batch in _batches(source, count):
        batch = keras.tree.map_structure(to_numpy, batch)
        seen.append(_x_and_y(batch))
        total += len(seen[-1][0])
        if total >= count:
            break
    if not seen:
        raise ValueError("`data` must hold a batch. Received: none.")
    x, y = zip(*seen, strict=True)
    targets = None if any(part is None for part in y) else np.concatenate(y)[:count]
    return np.concatenate(x)[:count], targets


def _is_arrays(source):
    leaves = [leaf for leaf in keras.tree.flatten(source) if leaf is not None]
    return bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves)


def _batches(source, count):
    if isinstance(source, keras.utils.PyDataset):
        return (source[index] for index in range(source.num_batches))
    if hasattr(source, "collate_fn") and hasattr(source, "dataset"):
        rows = range(min(count, len(source.dataset)))
        return [source.collate_fn([source.dataset[row] for row in rows])]
    return itertools.islice(source, count)


def _x_and_y(batch):
    batch = tuple(batch) if isinstance(batch, list) else batch
    x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    if isinstance(x, dict) and y is None and set(x) <= {*itertools.chain(*NAMES.values())}:
        x, y, _ = split_columns(x)
    x = keras.tree.flatten(x)[0]
    y = None if y is None else keras.tree.flatten(y)[0]
    if y is not None and (y.shape[1:] == (0,) or len(y) != len(x)):
        y = None
    return x, y[:, 0] if y is not None and y.shape[1:] == (1,) else y
