"""LAMB, for very large batches."""

import keras
from keras import ops

from artifex_keras.arguments import checked
from artifex_keras.backend import keras_internals
from artifex_keras.optimizers.base import OptimizerMixin
from artifex_keras.optimizers.rules import RULES

__all__ = ["Lamb"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES)
class Lamb(OptimizerMixin, keras.optimizers.Lamb):
    """Adam's direction r, scaled per variable to the length of the weights (1904.00962, alg. 2):

        u = r + weight_decay · w,   w ← w - learning_rate · ‖w‖/‖u‖ · u.

    The decay is inside the ratio, as in the paper; Keras's class decays the weights apart from it,
    so that its decay is not scaled with the step.

    Example:

    ```python
    import artifex_keras as ak

    optimizer = ak.optimizers.Lamb(1e-3, weight_decay=0.01)  # for large batches
    ```
    """

    def _apply_weight_decay(self, variables):
        pass  # in the update

    def update_step(self, gradient, variable, learning_rate):
        index = keras_internals.variable_index(self, variable)
        m, v = keras_internals.adam_moments(self, index)
        lr = ops.cast(learning_rate, variable.dtype)
        g = ops.cast(gradient, variable.dtype)
        step = ops.cast(self.iterations + 1, variable.dtype)

        self.assign(m, self.beta_1 * m + (1.0 - self.beta_1) * g)
        self.assign(v, self.beta_2 * v + (1.0 - self.beta_2) * ops.square(g))
        root = ops.sqrt(v / (1.0 - ops.power(self.beta_2, step)))
        update = m / (1.0 - ops.power(self.beta_1, step)) / (root + self.epsilon)
        if self.weight_decay and self._use_weight_decay(variable):
            update = update + self.weight_decay * variable
        self.assign_sub(variable, lr * _trust_ratio(variable, update) * update)


def _trust_ratio(variable, update):
    """‖w‖/‖u‖, and 1 where either is 0."""
    weight, length = _norm(variable), _norm(update)
    defined = ops.logical_and(weight > 0, length > 0)
    return ops.where(defined, weight / ops.where(defined, length, 1.0), 1.0)


def _norm(x):
    return ops.sqrt(ops.sum(ops.square(x)))
