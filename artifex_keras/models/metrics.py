"""Metrics that Keras does not have."""

import keras
from keras import ops


class Latest(keras.metrics.Metric):
    """The value of the latest step, for what is a setting rather than a measurement."""

    def __init__(self, name="latest", **kwargs):
        super().__init__(name=name, **kwargs)
        self.value = self.add_variable(shape=(), initializer="zeros", name="value")

    def update_state(self, value, sample_weight=None):
        self.value.assign(ops.cast(value, self.value.dtype))

    def result(self):
        return self.value + 0.0  # a copy: torch would hand out the variable's own memory


class ExponentialMean(keras.metrics.Mean):
    """e to the power of the weighted mean: a perplexity, where it is given nats per token."""

    def result(self):
        return ops.exp(super().result())


class KnownMean(keras.metrics.Mean):
    """The mean over the steps that have a value; NaN as long as none has one."""

    def update_state(self, value, sample_weight=1.0):
        value = ops.cast(value, "float32")
        known = ops.logical_not(ops.isnan(value))
        weight = ops.where(known, ops.cast(sample_weight, "float32"), 0.0)
        super().update_state(ops.where(known, value, 0.0), sample_weight=weight)

    def result(self):
        return ops.where(self.count > 0, super().result(), float("nan"))
