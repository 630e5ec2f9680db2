"""Ends a run at the first NaN or infinity, and names what went wrong."""

import math

from artifex_keras.arguments import boolean, checked, count
from artifex_keras.backend.finite import describe_weights
from artifex_keras.callbacks.base import BaseCallback

__all__ = ["NaNGuard"]


@checked(every_n_steps=count(optional=True), raises=boolean)
class NaNGuard(BaseCallback):
    """Stops training when a logged value is NaN or infinite, and says which value and weights.

    It checks the means of each epoch, and with `every_n_steps` the running means too; a check waits
    for the step. `found` is the message, None while all values are finite. It is for any Keras
    model. Models of this package look after their loss themselves (`on_nan` of `compile`); given
    to their `fit`, the guard acts in their place, and looks at all logged values.

    Args:
        every_n_steps: steps from one check to the next within an epoch; None for none.
        raises: whether to raise a FloatingPointError rather than stop.

    Raises:
        ValueError: for `every_n_steps` below 1.
        FloatingPointError: in `fit`, if `raises`.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(32, 4))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        guard = ak.callbacks.NaNGuard()
        x[3] = np.nan
        history = model.fit(x, x[:, :1], epochs=9, verbose=0, callbacks=[guard])
        assert len(history.epoch) == 1 and "`loss` was nan" in guard.found
        ```
    """

    ends_at_nan = True  # so the model needn't

    def __init__(self, every_n_steps: int | None = None, *, raises: bool = False):
        super().__init__()
        self.every_n_steps = every_n_steps
        self.raises = raises
        self.found = None
        if every_n_steps is not None:  # Keras waits for each step where a callback has this hook
            self.on_train_batch_end = self._check_batch

    def on_train_begin(self, logs=None):
        self.found = None
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def _check_batch(self, batch, logs=None):
        if (batch + 1) % self.every_n_steps == 0:
            self._check(logs, f"epoch {self._epoch + 1}, step {batch + 1}")

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs, f"epoch {epoch + 1}")

    def _check(self, logs, place):
        bad = [name for name, value in (logs or {}).items() if not math.isfinite(float(value))]
        if not bad or self.found:
            return
        self.found = (
            f"In {place} `{bad[0]}` was {float(logs[bad[0]])}. {describe_weights(self.model)}"
        )
        self.running_model.stop_training = True
        if self.raises:
            raise FloatingPointError(self.found)
        print(self.found)
