"""What a running training says."""

import logging
import sys

import keras

__all__ = ["StepLog", "verbosity"]

logger = logging.getLogger("artifex_keras")


def verbosity(verbose):
    """`verbose` as `fit` takes it: "auto" is a progress bar where somebody looks at it."""
    if verbose != "auto":
        return verbose
    notebook = "ipykernel" in sys.modules
    terminal = hasattr(sys.stdout, "isatty") and sys.stdout.isatty()
    return 1 if notebook or terminal else 2


class StepLog(keras.callbacks.Callback):
    """A line with the running means of the epoch, once every `every` steps.

    Lines go to the logger "artifex_keras" at level INFO. Where nobody listens to that level, they
    are printed if `echo`. Between two lines no value is fetched from the device.
    """

    # Keras then calls us in threads, so nothing here depends on the order of calls.
    async_safe = True

    def __init__(self, every, echo=False):
        super().__init__()
        self.every = every
        self.echo = echo
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        before = batch - batch % self._model.steps_per_execution
        if done // self.every == before // self.every:
            return
        steps = self.params.get("steps")
        means = " - ".join(f"{name}: {float(value):.4g}" for name, value in (logs or {}).items())
        line = (
            f"epoch {self.epoch + 1}/{self.params.get('epochs')}, "
            f"step {min(done, steps) if steps else done}/{steps or '?'} - {means}"
        )
        if logger.isEnabledFor(logging.INFO):
            logger.info(line)
        elif self.echo:
            print(line, flush=True)
