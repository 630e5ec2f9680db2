"""Batches for `predict` under a distribution: of any size, in one process or several.

Keras lays all batches of `predict` out like the first, and takes each process's for its own.
"""

import keras
import numpy as np
from keras.src.trainers import data_adapters

from artifex_keras.backend import processes

__all__ = ["PaddedBatches"]


class PaddedBatches(data_adapters.data_adapter.DataAdapter):
    """Batches with their last row repeated until the devices divide them, cut to this process's.

    Args:
        x, batch_size, steps: as of `predict`.
        distribution: over whose devices the rows lie.
    """

    def __init__(self, x, batch_size, steps, distribution):
        self._adapter = data_adapters.get_data_adapter(
            x, batch_size=batch_size, steps_per_epoch=steps
        )
        mesh = distribution.device_mesh
        self._shares = mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]
        self._shard = distribution.data_shard_id
        self._parts = min(self._shares, distribution.num_processes)
        self._real = []  # of batches that were read, which rows aren't padding

    def get_jax_iterator(self):
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
        """Outputs of the batches read since the last call, as NumPy's arrays, without padding."""
        real = np.concatenate(self._real)
        self._real = []
        return keras.tree.map_structure(lambda leaf: processes.whole(leaf)[real], outputs)

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
