"""One training step of a family: its objective, the gradients, the update, the average."""

import contextlib

import keras
from keras import ops

from artifex_keras.backend import (
    ReadThroughScope,
    apply_gradients,
    assign_all,
    global_norm,
    value_and_grad,
)
from artifex_keras.gradient_accumulation import weighing
from artifex_keras.models.batch import Batch, as_tensor, unpacked
from artifex_keras.objectives.masks import weighted_mean

__all__ = ["ModelStep"]


class ModelStep:
    """The part of a model that is a step on a batch; a family may write its own `update`."""

    def train_on(self, data):
        """One training step on a batch as `fit` delivers it. Gives the logs."""
        batch = self.unpack(data)
        with self._in_phase("train"):
            logs = self.update(batch)
        self.step.assign_add(1)
        return self._recorded(logs, batch.weight)

    def test_on(self, data):
        """The logs of one batch under the averaged weights, with noise of its own stream."""
        batch = self.unpack(data)
        with self._in_phase("evaluate"), self.ema_weights():
            logs = self.reduced(self.objective(batch, training=False), batch.weight)
        return self._recorded(logs, batch.weight)

    def update(self, batch):
        """One training step: most families descend their objective once. Gives the logs."""
        return self.descend(
            lambda: self.reduced(self.objective(batch, training=True), batch.weight, self),
            self.trainable_variables,
            weight=batch.weight,
        )

    def descend(self, objective, variables, optimizer=None, *, weight=1.0):
        """One optimizer step on `variables` down the `"loss"` of `objective()`, a dict of scalars.

        Gives that dict. `optimizer` defaults to the compiled one. The sum of `weight` says what the
        loss is a mean over: so much it counts where gradients of several batches are accumulated.
        """
        optimizer = self.optimizer if optimizer is None else optimizer

        def scaled():
            logs = objective()
            return optimizer.scale_loss(logs["loss"]), logs

        before = optimizer.iterations + 0
        averaging = not {id(w) for w in self._averaged}.isdisjoint(map(id, variables))
        if averaging:
            self._begin_average()
        _, logs, gradients = value_and_grad(scaled, variables)
        if self.gradient_norms:
            norm = global_norm(gradients) / optimizer.scale_loss(ops.ones(()))
            logs = {**logs, self._norm_name(optimizer): norm}
        with weighing(optimizer, ops.sum(weight)):
            apply_gradients(optimizer, gradients, variables)
        if averaging:
            self._move_average(ops.greater(optimizer.iterations, before))
        return logs

    def reduced(self, terms, weight, regularised=None):
        """Each term's weighted mean over the batch; `regularised` adds that layer's `losses`."""
        logs = {name: self._mean(value, weight) for name, value in terms.items()}
        if regularised is not None:
            for loss in regularised.losses:
                logs["loss"] += ops.cast(loss, "float32")
        return logs

    def _mean(self, value, weight):
        value = ops.cast(value, "float32")
        return value if len(value.shape) == 0 else weighted_mean(value, weight)

    def unpack(self, data):
        """The batch with its sample weights, as tensors of the running backend."""
        x, y, weight = unpacked(data)
        x, y = keras.tree.map_structure(as_tensor, (x, y), none_is_leaf=False)
        rows = ops.shape(keras.tree.flatten(x)[0])[0]
        if weight is None:
            return Batch(x, y, ops.ones((rows,), dtype="float32"))
        return Batch(x, y, ops.reshape(ops.cast(weight, "float32"), (rows,)))

    @contextlib.contextmanager
    def frozen_batch_stats(self, network):
        """Inside, calls of `network` leave its statistics (of normalisation, say) as they were."""
        with ReadThroughScope() as scope:
            yield
            assigned, values = scope.updates(excluding=network.weights)
        assign_all(assigned, values)
