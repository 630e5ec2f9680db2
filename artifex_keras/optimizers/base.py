"""What the optimizers of this package add to Keras's: selective weight decay, a safe average."""

from typing import Any

from keras import ops

from artifex_keras.backend import keras_internals

__all__ = ["OptimizerMixin", "averages", "is_decayed", "native", "own_buffers"]

# Last words of the names of parameters that aren't weights, whatever their rank: the bias of an
# attention layer is a matrix.
NOT_DECAYED = {"alpha", "beta", "bias", "gamma", "offset", "scale"}


def is_decayed(variable: Any) -> bool:
    """Whether weight decay applies: to matrices and larger, not to biases and norm parameters.

    Example:

    ```python
    import keras
    from artifex_keras.optimizers import is_decayed

    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    print(is_decayed(layer.kernel), is_decayed(layer.bias))  # True False
    ```
    """
    last_word = variable.name.split(":")[0].split("_")[-1]
    return len(variable.shape) >= 2 and last_word not in NOT_DECAYED


def native(optimizer_class):
    """The class by which Keras runs `optimizer_class`: torch has faster ones of its own."""
    return type(optimizer_class.__new__(optimizer_class))


def averages(optimizer):
    """Whether the optimizer, or one inside it, averages the weights."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return bool(optimizer.use_ema) or (inner is not None and averages(inner))


def own_buffers(variables):
    """Gives each variable a buffer of its own.

    On JAX `a.assign(b)` makes two variables share one, and a compiled step that donates its state
    would donate it twice. Keras does that at the end of `fit` with each weight and its average.
    """
    for variable in variables:
        variable.assign(ops.copy(variable))


class OptimizerMixin:
    """Weight decay that skips biases and norms, and an average that survives a second `fit`.

    Decay is decoupled, w ← w - learning_rate · weight_decay · w (1711.05101), and applies where
    `is_decayed`; what `exclude_from_weight_decay` names is skipped besides. Keras decays every
    variable and forgets exclusions when it saves.
    """

    def build(self, variables):
        if self.built:
            return
        self._decayed = frozenset(
            keras_internals.variable_key(self, v) for v in variables if is_decayed(v)
        )
        super().build(variables)

    def _use_weight_decay(self, variable):
        known = keras_internals.variable_key(self, variable) in self._decayed
        return known and super()._use_weight_decay(variable)

    def _apply_weight_decay(self, variables):
        if any(self._use_weight_decay(v) for v in variables):  # torch rejects an empty list
            super()._apply_weight_decay(variables)

    def finalize_variable_values(self, var_list):
        super().finalize_variable_values(var_list)
        if self.use_ema:
            own_buffers(var_list)
