"""A metric that training should improve, and its best value."""

import math
import weakref

from artifex_keras.arguments import lookup, nearest, shown, unknown_name
from artifex_keras.backend import keras_internals
from artifex_keras.backend.fitting import validates
from artifex_keras.metrics.named import METRICS
from artifex_keras.utils import warn

__all__ = ["Watched"]

SIGNS = {"min": -1.0, "max": 1.0, "auto": None}
_said = weakref.WeakKeyDictionary()  # the metrics of each model of which a warning was given
# What `SampleMetricsCallback` adds to the logs.
SAMPLE_METRICS = {
    name: mode for row in METRICS.values() for name, mode in zip(row.names, row.modes, strict=True)
}
KERAS_MODES = {"up": "max", "down": "min"}


class Watched:
    """A metric with its best value so far; NaN is worse than any number.

    Args:
        metric: the name in the logs, such as "val_loss".
        mode: "min" or "max" for a metric that should fall or rise; "auto" asks the model.
        min_delta: the least improvement that counts.

    Attributes:
        sign: 1.0 for a metric that should rise, -1.0 for one that should fall; with "auto" None
            until `ask` has asked a model.
    """

    def __init__(self, metric, mode="auto", min_delta=0.0):
        self.metric = self._wanted = metric
        self.min_delta = abs(min_delta)
        self.sign = lookup(SIGNS, mode, "mode")
        self.best = None
        self._validates = True

    def ask(self, model):
        """Sets `sign` by what the model says of the metric, where no mode says it.

        A Keras model may make its metrics in the first step only: ask again after it.

        Raises:
            ValueError: if the model doesn't say which way is better, or says neither.
        """
        if self.sign is not None or not _has_its_metrics(model):
            return
        name, modes = self.metric.removeprefix("val_"), metric_modes(model)
        if modes.get(name) is not None:
            self.sign = SIGNS[modes[name]]
            return
        why = "no better direction" if name in modes else "no direction that the model states"
        prefix = self.metric[: -len(name)]
        known = {*modes, *(metric.name for metric in _metrics(model))}
        known -= {name, *SAMPLE_METRICS}
        near = nearest(self.metric, [f"{prefix}{each}" for each in sorted(known)])
        raise ValueError(
            f"The metric {shown(self.metric)} has {why}: pass `mode='min'` if it should fall, "
            f"`mode='max'` if it should rise. Received: mode='auto'.{near}"
        )

    def begin(self, model):
        """Starts with a `fit`: asks which way is better, and looks for validation data."""
        self.metric, self._validates = self._wanted, validates(model)
        self.ask(model)

    def is_due(self, logs, model):
        """Whether an epoch's `logs` have the metric, or should have it: not in an epoch that
        `validation_freq` leaves out.

        In a `fit` without validation data that of training takes the place of "val_...", and a
        warning says so, once for each model.
        """
        training = self.metric.removeprefix("val_")
        if self.metric in logs or training not in logs:
            return True
        if self._validates:
            return False
        said = _said.setdefault(model, set())
        if self.metric not in said:
            said.add(self.metric)
            warn(
                f"{self.metric!r} needs `validation_data` in `fit`, and there is none: "
                f"{training!r} of training is watched instead."
            )
        self.metric = training
        return True

    def value(self, logs):
        """The metric's value in `logs`, a float.

        Raises:
            ValueError: if the logs lack it, with the nearest name.
        """
        if self.metric in logs:
            return float(logs[self.metric])
        raise ValueError(
            unknown_name(self.metric, logs, "metric")
            + (" Pass `validation_data` to `fit`." if self.metric.startswith("val_") else "")
        )

    def is_better(self, value, than):
        """Whether `value` is better than the other value by more than `min_delta`."""
        if math.isnan(value):
            return False
        if than is None or math.isnan(than):
            return True
        return self.sign * (value - than) > self.min_delta

    def improved(self, value):
        """Whether `value` is the best so far; if so, it becomes `best`."""
        if not self.is_better(value, self.best):
            return False
        self.best = value
        return True


def metric_modes(model):
    """Which way the metrics of a model are better, by name: "max", "min", or None for neither.

    Our models declare it. Of any other Keras model the losses fall, and Keras's own metrics say it
    themselves; those that don't are left out.
    """
    modes = {}
    for metric in _metrics(model):
        mode = KERAS_MODES.get(keras_internals.direction(metric))
        if mode is not None:
            modes |= dict.fromkeys(_names(metric, model), mode)
    losses = ["loss", *(loss.name for loss in keras_internals.output_losses(model))]
    modes |= dict.fromkeys(losses, "min")
    return {**SAMPLE_METRICS, **modes, **getattr(model, "metric_modes", {})}


def _metrics(model):
    """All metrics of a model, those that `compile` was given among them."""
    for metric in model.metrics:
        inner = getattr(metric, "metrics", ())
        yield from [metric, *inner] if isinstance(inner, list | tuple) else [metric]


def _names(metric, model):
    """The names of a metric in the logs: of several outputs, each puts its own before it."""
    outputs = getattr(model, "output_names", None) or ()
    return [metric.name, *(f"{output}_{metric.name}" for output in outputs)]


def _has_its_metrics(model):
    """Whether those that `compile` was given are made: on TensorFlow the first step does it."""
    given = [metric for metric in model.metrics if hasattr(metric, "metrics")]
    return all(getattr(metric, "built", True) for metric in given)
