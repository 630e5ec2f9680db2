"""A metric that training should improve, and its best value."""

import math

from artifex_keras.arguments import lookup, unknown_name

__all__ = ["Watched"]

# Parts of the names of metrics that rise when a model improves; all others fall.
RISING = ("acc", "auc", "reward", "elbo", "log_prob", "log_likelihood", "precision", "recall")
MODES = {"min": -1.0, "max": 1.0, "auto": None}


class Watched:
    """A metric with its best value so far; NaN is worse than any number.

    Args:
        metric: the name in the logs, such as "val_loss".
        mode: "min" or "max" for a metric that should fall or rise; "auto" decides by its name.
        min_delta: the least improvement that counts.
    """

    def __init__(self, metric, mode="auto", min_delta=0.0):
        self.metric, self.min_delta = metric, abs(min_delta)
        sign = lookup(MODES, mode, "mode")
        self.sign = (
            (1.0 if any(part in metric for part in RISING) else -1.0) if sign is None else sign
        )
        self.best = None

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
