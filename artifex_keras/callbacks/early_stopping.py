"""Ending a run that has stopped to get better."""

import math

import numpy as np
from keras import ops

from artifex_keras.arguments import integer
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.metric import Watched

__all__ = ["EarlyStoppingCallback"]


class EarlyStoppingCallback(BaseCallback):
    """Stops after `patience` epochs in a row without an improvement of a metric.

    A value that is no number is no improvement. Why the run stopped is in `reason` afterwards, when
    in `stopped_epoch`.

    Args:
        patience: epochs without improvement that are borne; 0 stops at the first.
        metric: the name in the logs.
        mode: "min", "max", or "auto", which goes by the name.
        min_delta: what an improvement must exceed.
        restore_best: put the weights of the best epoch back at the end of the run.
        restore_optimizer: with `restore_best`, the optimizer of that epoch too.
        start_from_epoch: earlier epochs aren't looked at, after a warm-up for instance.
        stopping_threshold: stop as soon as the metric is better than this.
        divergence_threshold: stop as soon as the metric is worse than this.
        stop_at_nan: stop as soon as the metric is no number.
        verbose: say why it stopped.

    Raises:
        ValueError: for settings outside their range; in training, for a metric that isn't there.
    """

    def __init__(
        self,
        patience=10,
        metric="val_loss",
        mode="auto",
        min_delta=0.0,
        restore_best=False,
        *,
        restore_optimizer=False,
        start_from_epoch=0,
        stopping_threshold=None,
        divergence_threshold=None,
        stop_at_nan=False,
        verbose=True,
    ):
        super().__init__()
        if restore_optimizer and not restore_best:
            raise ValueError("`restore_optimizer` needs `restore_best=True`. Received: False.")
        self.patience = integer("patience", patience)
        self.settings = (metric, mode, min_delta)
        self.restore_best, self.restore_optimizer = restore_best, restore_optimizer
        self.start_from_epoch = start_from_epoch
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.stop_at_nan = stop_at_nan
        self.verbose = verbose
        self._begin()

    def _begin(self):
        self.watched = Watched(*self.settings)
        self.wait = 0
        self.best_epoch = self.stopped_epoch = self.reason = None
        self._kept = None

    def on_train_begin(self, logs=None):
        self._begin()

    def on_epoch_end(self, epoch, logs=None):
        if epoch < self.start_from_epoch:
            return
        value = self.watched.value(logs or {})
        if self.watched.improved(value):
            self.wait, self.best_epoch = 0, epoch
            self._keep()
        else:
            self.wait += 1
        self.reason = self._reason(value)
        if self.reason:
            self.stopped_epoch = epoch
            self.running_model.stop_training = True

    def _reason(self, value):
        metric = self.watched.metric
        if math.isnan(value) and self.stop_at_nan:
            return f"`{metric}` is no number"
        limit = self.divergence_threshold
        if limit is not None and not self.watched.sign * (value - limit) >= 0:
            return f"`{metric}` is {value:.6g}, worse than {limit:g}"
        limit = self.stopping_threshold
        if limit is not None and self.watched.sign * (value - limit) > 0:
            return f"`{metric}` is {value:.6g}, better than {limit:g}"
        if self.wait and self.wait >= self.patience:
            best = "never was a number" if self.watched.best is None else f"{self.watched.best:.6g}"
            return f"`{metric}` has not improved on {best} for {self.wait} epochs"
        return None

    def _variables(self):
        model = self.model  # fetches what a compiled run holds
        optimizer = getattr(model, "optimizer", None)
        kept = list(model.weights)
        return kept + list(optimizer.variables) if self.restore_optimizer else kept

    def _keep(self):
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
        return {**state, "kept": self._kept}

    def set_state(self, state):
        """Goes on from there, in a run that has begun."""
        self.wait, self.best_epoch = state["wait"], state["best_epoch"]
        self.watched.best = state["best"]
        self._kept = state["kept"]
