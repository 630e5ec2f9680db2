"""Batches in an order that a run can repeat."""

import keras
import numpy as np

__all__ = ["SeededBatches"]


class SeededBatches(keras.utils.PyDataset):
    """The rows of each batch, in an order that is a function of the seed and the epoch alone.

    So a run that starts again in epoch e sees what the straight run sees in epoch e, on each
    backend. `epoch` counts by itself in `fit`, and may be set. A subclass makes a batch of
    `rows_of(index)`.

    Args:
        rows: how many rows there are.
        batch_size: rows per batch.
        shuffle: a new order each pass.
        seed: of the orders; None draws one from NumPy's global state.
        steps: batches per epoch; None is one pass, otherwise passes go on across epochs.
        drop_remainder: leave the last batch of a pass out if it is smaller than the first. Fewer
            rows than a batch are one batch.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int | None = None,
        steps: int | None = None,
        drop_remainder: bool = False,
    ):
        super().__init__()
        self.rows = rows
        self.batch_size = min(batch_size, rows) if drop_remainder and rows else batch_size
        self.shuffle = shuffle
        self.seed = np.random.randint(2**31) if seed is None else seed
        self.steps = steps
        self.drop_remainder = drop_remainder
        self.epoch = 0
        self._within = False
        self._order = (None, None)

    @property
    def batches_per_pass(self):
        """How many batches show each row once."""
        return (
            self.rows // self.batch_size
            if self.drop_remainder
            else -(-self.rows // self.batch_size)
        )

    @property
    def num_batches(self):
        """Batches per epoch."""
        return self.steps or self.batches_per_pass

    def rows_of(self, index):
        """Which rows the batch `index` of this epoch holds: a slice, or integers."""
        which, index = divmod(self.epoch * self.num_batches + index, self.batches_per_pass)
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self._permutation(which)[rows] if self.shuffle else rows

    def _permutation(self, which):
        order = self._order
        if order[0] != which:
            generator = np.random.default_rng([self.seed, which])
            self._order = order = (which, generator.permutation(self.rows))
        return order[1]

    def on_epoch_begin(self):
        self._within = True

    def on_epoch_end(self):
        # Keras also calls it before the first epoch, and twice where data run out.
        self.epoch += self._within
        self._within = False
