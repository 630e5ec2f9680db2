"""Products to which (B, T) is one axis of rows.

Of the gradient of a product with three axes XLA makes, on a CPU, a transposed copy, for which it
computes once more all that stands before the product. With rows a step of a transformer of four
layers took a quarter less time.
"""

import keras
from keras import layers, ops

__all__ = ["RowDense", "over_rows"]


def over_rows(function, x):
    """What `function`, which takes rows (N, C), makes of vectors (B, T, C)."""
    made = function(ops.reshape(x, (-1, x.shape[-1])))
    return ops.reshape(made, (*ops.shape(x)[:-1], made.shape[-1]))


@keras.saving.register_keras_serializable(package="artifex_keras")
class RowDense(layers.Dense):
    """A `keras.layers.Dense` that takes vectors (B, T, C) as rows."""

    def call(self, inputs, training=None):
        call = super().call
        return over_rows(lambda rows: call(rows, training=training), inputs)
