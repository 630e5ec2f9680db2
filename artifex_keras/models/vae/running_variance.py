"""The variance of p(x|z) that is best for each batch in training, and known to all that follows."""

import keras
from keras import ops

from artifex_keras.objectives import elbo
from artifex_keras.utils import warn

__all__ = ["RunningVariance"]

MEMORY = 0.99  # of the running mean, once some hundred batches have been seen


@keras.saving.register_keras_serializable(package="artifex_keras")
class RunningVariance(keras.layers.Layer):
    """The running mean of the batches' mean squared errors; 1 before any batch.

    Batch number n (from 0) replaces the share ``1 - min(.99, n/(n + 10))`` of it: the first one all
    of it, so that nothing is left of the start.
    """

    def build(self, input_shape=None):
        self.value = self.add_weight(
            name="value", shape=(), initializer="ones", dtype="float32", trainable=False
        )
        self.batches = self.add_weight(
            name="batches", shape=(), initializer="zeros", dtype="int32", trainable=False
        )
        self.value.value_if_unsaved, self.batches.value_if_unsaved = 1.0, 0
        self.value.note_if_unsaved = MISSING
        self.built = True

    def log_var(self):
        """ln σ²."""
        return ops.log(ops.convert_to_tensor(self.value))

    def update(self, log_var, weight):
        """Takes in the ln σ² of a batch, unless no row of it counts."""
        before, count = ops.convert_to_tensor(self.value), ops.cast(self.batches, "float32")
        kept = ops.minimum(MEMORY, count / (count + 10.0))
        value = kept * before + (1 - kept) * ops.stop_gradient(ops.exp(log_var))
        counts = ops.sum(weight) > 0
        self.value.assign(ops.where(counts, value, before))
        self.batches.assign_add(ops.cast(counts, "int32"))

    def load_own_variables(self, store):
        if not store.keys():
            warn(MISSING)
            return
        super().load_own_variables(store)


MISSING = (
    'This file of a VAE with variance="optimal" is older than the running variance that evaluation '
    "and likelihood use: it is 1 until the model trains again."
)


def training_nll(running, x, mean, weight):
    """`elbo.optimal_gaussian_nll`, whose variance `running` takes in."""
    log_var = elbo.optimal_log_var(x, mean, weight)
    running.update(log_var, weight)
    return elbo.gaussian_nll(x, mean, log_var)
