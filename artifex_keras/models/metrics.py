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
