"""Dense layers whose products are those of rows, where the backend knows that to be faster."""

import functools

import keras
from keras import layers, ops

from artifex_keras.backend import rows_are_faster

__all__ = ["RowDense", "over_rows"]


@keras.saving.register_keras_serializable(package="artifex_keras")
class RowDense(layers.Dense):
    """A `keras.layers.Dense` that takes vectors (B, T, C) by `over_rows`."""

    def call(self, inputs, training=None):
        return over_rows(functools.partial(super().call, training=training), inputs)


def over_rows(fn, x):
    """`fn(x)`, a product of the last axis: of rows (B·T, C) where that is faster.

    Under a distribution it is that of sequences (B, T, C), whose rows are on several devices.
    """
    shards = keras.distribution.distribution() is not None
    if shards or isinstance(x, keras.KerasTensor) or not rows_are_faster():
        return fn(x)
    rows = fn(ops.reshape(x, (-1, x.shape[-1])))
    return ops.reshape(rows, (*x.shape[:-1], rows.shape[-1]))
