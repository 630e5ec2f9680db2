"""Ending a run at the first value that is no number, with the name of what went wrong."""

import math

import numpy as np
from keras import ops

from artifex_keras.arguments import integer
from artifex_keras.callbacks.base import BaseCallback

__all__ = ["NaNGuard"]


class NaNGuard(BaseCallback):
    """Stops training when a logged value is NaN or infinite, and says which, and which weights are.

    It looks at the means of each epoch, and with `every_n_steps` at the running ones too; a look
    waits for the step to be done. `found` then holds the message, None otherwise.

    Args:
        every_n_steps: None, or after how many steps to look within an epoch.
        raises: raise a FloatingPointError rather than stop.

    Raises:
        FloatingPointError: in training, if `raises`.
    """

    def __init__(self, every_n_steps=None, *, raises=False):
        super().__init__()
        self.every_n_steps = integer("every_n_steps", every_n_steps, minimum=1, optional=True)
        self.raises = raises
        self.found = None
        if every_n_steps is not None:  # Keras waits for each step of whoever has this hook
            self.on_train_batch_end = self._look_at_batch

    def on_train_begin(self, logs=None):
        self.found = None
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def _look_at_batch(self, batch, logs=None):
        if (batch + 1) % self.every_n_steps == 0:
            self._look(logs, f"epoch {self._epoch + 1}, step {batch + 1}")

    def on_epoch_end(self, epoch, logs=None):
        self._look(logs, f"epoch {epoch + 1}")

    def _look(self, logs, place):
        bad = [name for name, value in (logs or {}).items() if not math.isfinite(float(value))]
        if not bad or self.found:
            return
        self.found = f"In {place} `{bad[0]}` was {float(logs[bad[0]])}. {self._weights()}"
        self.running_model.stop_training = True
        if self.raises:
            raise FloatingPointError(self.found)
        print(self.found)

    def _weights(self):
        bad = [
            weight.path
            for weight in self.model.weights
            if not np.isfinite(ops.convert_to_numpy(weight.value).astype("float64")).all()
        ]
        if not bad:
            return "All weights are finite."
        return f"Of {len(self.model.weights)} weights {len(bad)} are not finite, first {bad[0]!r}."
