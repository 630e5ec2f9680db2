"""Early stopping, by a metric that no longer improves."""

import math

import numpy as np
from keras import ops

from artifex_keras.arguments import boolean, bounded, checked, count, text
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.metric import Watched

__all__ = ["EarlyStoppingCallback"]


@checked(
    patience=count(0),
    metric=text,
    min_delta=bounded(minimum=0.0),
    restore_best=boolean,
    restore_optimizer=boolean,
    start_from_epoch=count(0),
    stopping_threshold=bounded(optional=True),
    divergence_threshold=bounded(optional=True),
    stop_at_nan=boolean,
    verbose=boolean,
)
class EarlyStoppingCallback(BaseCallback):
    """Stops after `patience` epochs in a row without an improvement of a metric.

    NaN is no improvement. Afterwards `reason` says why the run stopped and `stopped_epoch` when;
    both are None for a run that didn't. A run that it has ended isn't trained further from its
    checkpoint, unless a longer `patience` or another threshold lets it go on.

    Args:
        patience: epochs without improvement to tolerate; 0 stops at the first.
        metric: the name of the metric in the logs; without validation data "val_loss" is "loss",
            and a warning says so.
        mode: "min" or "max" for a metric that should fall or rise; "auto" asks the model.
        min_delta: the least improvement that counts.
        restore_best: whether to restore the weights of the best epoch at the end of the run.
        restore_optimizer: with `restore_best`, whether to restore the optimizer of that epoch too.
        start_from_epoch: ignore earlier epochs, such as those of a warm-up.
        stopping_threshold: stop as soon as the metric is better than this.
        divergence_threshold: stop as soon as the metric is worse than this.
        stop_at_nan: stop as soon as the metric is NaN.
        verbose: whether to print why the run stopped.

    Raises:
        ValueError: for arguments out of range; in `fit`, for a metric that isn't in the logs, or of
            which the model doesn't say which way is better, without a `mode`.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(32, 4))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        stop = ak.callbacks.EarlyStoppingCallback(2, metric="loss", min_delta=1e9, verbose=False)
        model.fit(x, x[:, :1], epochs=9, verbose=0, callbacks=[stop])
        assert stop.stopped_epoch == 2
        ```
    """

    def __init__(
        self,
        patience: int = 10,
        metric: str = "val_loss",
        mode: str = "auto",
        min_delta: float = 0.0,
        restore_best: bool = False,
        *,
        restore_optimizer: bool = False,
        start_from_epoch: int = 0,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        stop_at_nan: bool = False,
        verbose: bool | int | str = True,
    ):
        super().__init__()
        if restore_optimizer and not restore_best:
            raise ValueError("`restore_optimizer` needs `restore_best=True`. Received: False.")
        self.patience = patience
        self.settings = (metric, mode, min_delta)
        self.restore_best, self.restore_optimizer = restore_best, restore_optimizer
        self.start_from_epoch = start_from_epoch
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.stop_at_nan = stop_at_nan
        self.verbose = verbose
        self._reset()

    def _reset(self):
        self.watched = Watched(*self.settings)
        self.wait = 0
        self._last = None
        self.best_epoch = self.stopped_epoch = self.reason = None
        self._kept = None

    def on_train_begin(self, logs=None):
        self._reset()
        self.watched.begin(self.running_model)

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if epoch < self.start_from_epoch or not self.watched.is_due(logs, self.running_model):
            return
        self.watched.ask(self.running_model)
        self._last = value = self.watched.value(logs)
        if self.watched.improved(value):
            self.wait, self.best_epoch = 0, epoch
            self._keep_weights()
        else:
            self.wait += 1
        self.reason = self._reason(value)
        if self.reason:
            self.stopped_epoch = epoch
            self.running_model.stop_training = True

    def _reason(self, value):
        metric = self.watched.metric
        if math.isnan(value) and self.stop_at_nan:
            return f"`{metric}` is NaN"
        limit = self.divergence_threshold
        if limit is not None and not self.watched.sign * (value - limit) >= 0:
            return f"`{metric}` is {value:.6g}, worse than {limit:g}"
        limit = self.stopping_threshold
        if limit is not None and self.watched.sign * (value - limit) > 0:
            return f"`{metric}` is {value:.6g}, better than {limit:g}"
        if self.wait and self.wait >= self.patience:
            best = "NaN" if self.watched.best is None else f"{self.watched.best:.6g}"
            return f"`{metric}` has not improved on {best} for {self.wait} epochs"
        return None

    def _variables(self):
        model = self.model  # fetches what a compiled run holds
        optimizer = getattr(model, "optimizer", None)
        kept = list(model.weights)
        return kept + list(optimizer.variables) if self.restore_optimizer else kept

    def _keep_weights(self):
        if self.restore_best:
            self._kept = [np.array(ops.convert_to_numpy(v.value)) for v in self._variables()]

    def on_train_end(self, logs=None):
        if self.restore_best and self._kept is not None:
            for variable, value in zip(self._variables(), self._kept, strict=True):
                variable.assign(value)
        if self.reason and self.verbose:
            print(f"Stopped after epoch {self.stopped_epoch + 1}: {self.reason}.")

    def get_state(self):
        state = {"wait": self.wait, "best": self.watched.best, "best_epoch": self.best_epoch}
        ended = {"last": self._last, "stopped_epoch": self.stopped_epoch}
        return {**state, "kept": self._kept, **ended}

    def set_state(self, state):
        """Continues from a state of `get_state`; a run that it had ended stays so, unless it would
        go on by what it is given now, such as a longer `patience`."""
        self.wait, self.best_epoch = state["wait"], state["best_epoch"]
        self.watched.best = state["best"]
        self._kept = state["kept"]
        if state.get("stopped_epoch") is not None:
            self.watched.ask(self.running_model)
            self.reason = self._reason(state["last"])
            self.stopped_epoch = state["stopped_epoch"] if self.reason else None

    @property
    def ended(self):
        return self.reason
