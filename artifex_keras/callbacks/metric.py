"""A metric that is to become better, and when it has."""

import math

from artifex_keras.arguments import lookup, unknown_name

__all__ = ["Watched"]

# What rises when a model gets better; every other metric falls.
RISING = ("acc", "auc", "reward", "elbo", "log_prob", "log_likelihood", "precision", "recall")
MODES = {"min": -1.0, "max": 1.0, "auto": None}


class Watched:
    """A metric with its best value so far. What is not a number is worse than any number.

    Args:
        metric: its name in the logs, such as "val_loss".
        mode: "min", "max", or "auto", which goes by the name.
        min_delta: what an improvement must exceed.
    """

    def __init__(self, metric, mode="auto", min_delta=0.0):
        self.metric, self.min_delta = metric, abs(min_delta)
        sign = lookup(MODES, mode, "mode")
        self.sign = (
            (1.0 if any(part in metric for part in RISING) else -1.0) if sign is None else sign
        )
        self.best = None

    def value(self, logs):
        """The metric's value in `logs` as a float, None where there are no metrics at all yet.

        Raises:
            ValueError: if the logs have other metrics.
        """
        if self.metric in logs:
            return float(logs[self.metric])
        raise ValueError(
            unknown_name(self.metric, logs, "metric")
            + (" Give `fit` validation data." if self.metric.startswith("val_") else "")
        )

    def is_better(self, value, than):
        """Whether `value` is better than another by more than `min_delta`."""
        if math.isnan(value):
            return False
        if than is None or math.isnan(than):
            return True
        return self.sign * (value - than) > self.min_delta

    def improved(self, value):
        """Whether `value` is the best so far; then it is kept."""
        if not self.is_better(value, self.best):
            return False
        self.best = value
        return True
