"""A loss that is no number ends `fit`, which says what it was, since when, and what helps."""

import contextlib
import math
import threading
import time

import keras
import numpy as np
from keras import ops

from artifex_keras.backend import processes
from artifex_keras.backend.finite import describe_weights
from artifex_keras.models.advice import warn_of
from artifex_keras.models.data_contract import Weighed
from artifex_keras.models.remedies import remedies
from artifex_keras.utils import warn

__all__ = ["ON_NAN", "guarded"]

ON_NAN = ("raise", "warn", "restore")
PATIENCE = 1.0  # seconds
HALVINGS = 16  # of the scale of a float16 loss, after which an overflow is none of its doing


class Fault(Exception):
    """Ends Keras's loop; `guarded` makes an error for the user of it."""


class LossGuard(keras.callbacks.Callback):
    """Notices the first step after which the running mean of the loss is no number.

    Keras makes numbers of each step's logs for its own callbacks, in threads beside the loop. They
    are looked at there, so no step waits and nothing is computed for it. A NaN stays in the mean
    for the rest of the epoch. Metrics may be NaN: `loss` is what counts.

    Of several processes each could notice it at another step, so they act at the epoch's end. So
    does a run with a scaled loss, whose scale shows by then whether it lasts.
    """

    async_safe = True

    def __init__(self, model, data, others):
        super().__init__()
        self.fitted, self.data, self.others = model, data, others
        self.watches_loss = not any(getattr(each, "ends_at_nan", False) for each in others)
        self.fault = None  # (epoch, step, infinite where it isn't known, what was found)
        self.reported = False
        self._epoch = None
        self._lock = threading.Lock()
        self._kept = None
        self._scales = list(_loss_scales(model.optimizer))
        self._at_once = processes.count() == 1 and not self._scales

    def on_epoch_begin(self, epoch, logs=None):
        if self._epoch is None:  # the model is built, and its checkpoint read
            warn_of(self.fitted, self.data, self.others)
        self._epoch, self._finite = epoch, -1
        if self.fitted.on_nan == "restore":
            self._keep()

    def on_train_batch_end(self, batch, logs=None):
        if math.isfinite((logs or {}).get("loss", 0.0)):
            self._finite = max(self._finite, batch)
            return
        if not self.watches_loss or self.reported:
            return
        self._note(batch, logs)
        if self._at_once and self.fitted.on_nan == "raise":
            raise Fault
        if self._at_once and self.fitted.on_nan == "restore":
            # Not by the model's own `__setattr__`, which looks through it for layers.
            object.__setattr__(self.fitted, "stop_training", True)

    def _check_weights(self, has_passes):
        """Raises where the sample weights of a pass were all 0, or without one those of a run."""
        iterator = getattr(self.fitted.running_fit, "iterator", None)
        if iterator is not None and has_passes == (not iterator.steps_per_epoch):
            Weighed.of(iterator.data_adapter).check()

    def on_train_end(self, logs=None):
        self._check_weights(has_passes=False)

    def on_epoch_end(self, epoch, logs=None):
        self._check_weights(has_passes=True)
        logs = logs or {}
        finite = math.isfinite(logs.get("loss", 0.0))
        if self.watches_loss and not finite:
            self._note(None, logs)
        if self._scales and finite:
            self.fault = None
        due = self.fault is not None and (not self._scales or self._lasts())
        if not self.reported and (due or self._beyond_limits(logs)):
            self.reported = True
            self._act()

    def _note(self, batch, logs):
        """Keeps the earliest step: hooks of later ones may run before."""
        with self._lock:
            earlier = batch is not None and self.fault and (self._epoch, batch) < self.fault[:2]
            if self.fault is None or earlier:
                self.fault = self._epoch, math.inf if batch is None else batch, _bad(logs)

    def settle(self):
        """Waits a moment for hooks of earlier steps that other threads haven't run yet."""
        ends = time.monotonic() + PATIENCE
        while (
            self.fault[1] - self._finite > self.fitted.steps_per_execution
            and time.monotonic() < ends
        ):
            time.sleep(1e-3)

    def _beyond_limits(self, logs):
        for name, limit in self.fitted.limits.items():
            if not abs(logs.get(name, 0.0)) < limit:
                found = f"the mean of `{name}` was {logs[name]:.4g}, beyond its limit of {limit:g}"
                self.fault = self._epoch, math.inf, found
                return True
        return False

    def _act(self):
        model = self.fitted
        if model.on_nan == "raise":
            raise Fault
        if model.on_nan == "warn":
            warn(f"{self.message()} Training goes on, as on_nan='warn' says.")
            return
        for variable, value in self._kept:
            processes.assign(variable, value)
        model.stop_training = True
        warn(
            f"{self.message(with_weights=False)} The weights are those of the last epoch in which "
            "all was finite, and training has ended, as on_nan='restore' says."
        )

    def message(self, with_weights=True):
        """What was found, and what helps."""
        model, (epoch, batch, found) = self.fitted, self.fault
        place = f"in epoch {epoch + 1}{_step(batch, model.steps_per_execution)} {found}."
        weights = ""
        if with_weights and processes.count() == 1:
            weights = f" {describe_weights(model)}"
        helps = "; ".join(remedies(model, self.data))
        return f"Training diverged: {place}{weights} What usually helps: {helps}."

    def _keep(self):
        """Copies of the weights and the optimizer's state, if all of them are finite."""
        variables = {id(v): v for v in [*self.fitted.weights, *self.fitted.optimizer.variables]}
        values = [processes.to_host_array(v.value) for v in variables.values()]
        if self._kept is None or all(map(_is_finite, values)):
            self._kept = [(v, np.array(a)) for v, a in zip(variables.values(), values, strict=True)]

    def _lasts(self):
        """Whether a scale has been halved so often that the overflow isn't the scale's."""
        return any(
            float(ops.convert_to_numpy(scale.dynamic_scale.value))
            <= scale.initial_scale / 2**HALVINGS
            for scale in self._scales
        )


def _bad(logs):
    """Which terms are no numbers, the loss last, as it is made of the others."""
    names = [name for name, value in logs.items() if not math.isfinite(value)]
    terms = [name for name in names if name != "loss"]
    found = f"`loss` was {logs['loss']}"
    return found + (f", and of its terms {', '.join(f'`{t}`' for t in terms)}" if terms else "")


def _step(batch, execution):
    if batch == math.inf:
        return ""
    return f", step {batch + 1}" if execution == 1 else f", by step {batch + 1}"


def _is_finite(array):
    return array.dtype.kind in "iub" or bool(np.isfinite(array.astype("float64")).all())


def _loss_scales(optimizer):
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        yield optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    for part in [*getattr(optimizer, "parts", {}).values(), *([inner] if inner else [])]:
        yield from _loss_scales(part)


@contextlib.contextmanager
def guarded(model, callbacks, data):
    """Inside, a `fit` with this `CallbackList` has a `LossGuard`, the first to be called.

    Raises:
        FloatingPointError: in place of the loop's end, once the weights are back.
    """
    guard = LossGuard(model, data, list(callbacks.callbacks))
    guard.set_model(model)
    callbacks.callbacks.insert(0, guard)
    try:
        yield
    except Fault:
        guard.settle()
        raise FloatingPointError(guard.message() + WAYS) from None
    finally:
        callbacks.callbacks.remove(guard)


WAYS = " `on_nan` of `compile` or of a config: 'restore' ends with the last finite weights."
