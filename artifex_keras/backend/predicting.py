"""Batches for `predict` under a distribution: of any size, in one process or several.

Keras shards all batches of `predict` like the first, and takes each process's for its own.
"""

import keras
import numpy as np

from artifex_keras.backend import keras_internals, processes
from artifex_keras.backend.adapters import Wrapped

__all__ = ["PaddedBatches"]


class PaddedBatches(Wrapped):
    """Batches padded with their last row until the devices divide them, a shard for each process.

    Args:
        x, batch_size, steps: as of `predict`.
        distribution: over whose devices the rows lie.
    """

    def __init__(self, x, batch_size, steps, distribution):
        super().__init__(x, batch_size=batch_size, steps_per_epoch=steps)
        self._shares = distribution.num_model_replicas
        self._shard = distribution.data_shard_id
        self._parts = min(self._shares, distribution.num_processes)
        self._real = []  # of batches that were read, which rows aren't padding

    def get_jax_iterator(self, super_batch=None):
        batches = self._padded()
        return keras_internals.stacked(batches, super_batch) if super_batch else batches

    def _padded(self):
        for batch in self._adapter.get_jax_iterator():
            rows = len(keras.tree.flatten(batch)[0])
            padded = rows + -rows % self._shares
            self._real.append(np.arange(padded) < rows)
            size = padded // self._parts
            mine = np.minimum(np.arange(self._shard * size, (self._shard + 1) * size), rows - 1)
            yield keras.tree.map_structure(
                lambda leaf, mine=mine: np.asarray(leaf)[mine], batch, none_is_leaf=False
            )

    def real_rows(self, outputs):
        """Outputs of the next batches in line, as NumPy's arrays, without padding."""
        rows, real = len(keras.tree.flatten(outputs)[0]), []
        while sum(map(len, real)) < rows:  # batches may have been read ahead
            real.append(self._real.pop(0))
        real = np.concatenate(real)
        return keras.tree.map_structure(lambda leaf: processes.to_host_array(leaf)[real], outputs)
