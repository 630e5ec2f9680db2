"""What a trainer knows about its data: arrays as batches, and how many batches there are."""

import keras
import numpy as np
from keras import ops

from artifex_keras.backend.sources import describe, is_arrays
from artifex_keras.datasets.batches import SeededBatches
from artifex_keras.datasets.images import ImageFiles
from artifex_keras.models.batch import beside_weights

__all__ = [
    "ArrayBatches",
    "batches_per_epoch",
    "first_batch",
    "first_rows",
    "from_files",
    "is_arrays",
]


def from_files(dataset, batch_size):
    """`dataset`, in batches where it holds `ImageFiles`, which Keras can't divide itself."""
    leaves = keras.tree.flatten(dataset)
    if not any(isinstance(leaf, ImageFiles) for leaf in leaves):
        return dataset
    return ArrayBatches(dataset, batch_size, shuffle=False, seed=0)


def first_rows(dataset, count):
    """`dataset` with `count` rows of `ImageFiles`, so that not all files are read to check them."""

    def some(leaf):
        return leaf[:count] if isinstance(leaf, ImageFiles) else leaf

    return keras.tree.map_structure(some, dataset, none_is_leaf=False)


def batches_per_epoch(dataset):
    """How many batches `dataset` yields, or None if its length is unknown or it has no end."""
    return describe(dataset).batches


def first_batch(dataset):
    """The first batch of `dataset`, which gives it again when it is read from the beginning.

    Raises:
        ValueError: for an iterator, which wouldn't, and for a dataset without a batch.
    """
    if isinstance(dataset, keras.utils.PyDataset):
        return dataset[0]
    batches = iter(dataset)
    if batches is dataset:
        raise ValueError(
            "A batch that is taken from an iterator is lost to training: give a dataset that can "
            f"be read anew. Received: {type(dataset).__name__}."
        )
    for batch in batches:
        return tuple(batch) if isinstance(batch, list) else batch
    raise ValueError("The dataset is empty: it gave no batch.")


class ArrayBatches(SeededBatches):
    """Batches of arrays, in an order that is a function of the seed and the epoch alone.

    So a run that starts again in epoch e sees what the straight run sees in epoch e, on each
    backend. The last batch of a pass may be smaller.

    Args:
        data: arrays as `fit` takes them: x, (x, y), (x, y, sample_weight); x may be a dict.
        batch_size: examples per batch.
        shuffle: a new order each pass.
        seed: of the orders; None draws one from NumPy's global state.
        steps: batches per epoch; None is one pass, otherwise passes go on across epochs.
        drop_remainder: leave the last batch of a pass out if it is smaller.
    """

    def __init__(
        self, data, batch_size, *, shuffle=True, seed=None, steps=None, drop_remainder=False
    ):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        parts = (x, beside_weights(x, y, weight), weight)
        parts = tuple(part for part in parts if part is not None)
        self.arrays = keras.tree.map_structure(_as_numpy, parts)
        order = {"shuffle": shuffle, "seed": seed, "steps": steps, "drop_remainder": drop_remainder}
        super().__init__(_rows(self.arrays), batch_size, **order)

    def __getitem__(self, index):
        rows = self.rows_of(index)
        return keras.tree.map_structure(lambda a: a[rows], self.arrays)


def _as_numpy(array):
    return array if isinstance(array, np.ndarray | ImageFiles) else ops.convert_to_numpy(array)


def _rows(arrays):
    shapes = [np.shape(leaf) for leaf in keras.tree.flatten(arrays)]
    if any(not shape or shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(
            f"All arrays of a dataset must have the same number of rows. Received: shapes {shapes}."
        )
    return shapes[0][0]
