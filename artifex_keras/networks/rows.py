"""Products of rows (B·T, C) in place of vectors (B, T, C), where the backend finds them faster."""

import functools

import keras
from keras import layers, ops

from artifex_keras.backend import rows_are_faster

__all__ = ["RowDense", "as_rows", "over_rows"]


@keras.saving.register_keras_serializable(package="artifex_keras")
class RowDense(layers.Dense):
    """A `keras.layers.Dense` that takes vectors (B, T, C) by `over_rows`."""

    def call(self, inputs, training=None):
        return over_rows(functools.partial(super().call, training=training), inputs)

    def quantize(self, mode=None, type_check=True, **options):
        super().quantize(mode, type_check=False, **options)  # Keras leaves out what subclasses it


def as_rows(x):
    """Vectors `x` (B, T, C) as rows (B·T, C) where products of their last axis are then faster.

    Elsewhere it gives `x`; also under a distribution, where its rows are on several devices.
    """
    shards = keras.distribution.distribution() is not None
    if shards or isinstance(x, keras.KerasTensor) or not rows_are_faster():
        return x
    return ops.reshape(x, (-1, x.shape[-1]))


def over_rows(fn, x):
    """`fn(x)`, a product of the last axis, made of `as_rows(x)`."""
    rows = as_rows(x)
    made = fn(rows)
    return made if rows is x else ops.reshape(made, (*x.shape[:-1], made.shape[-1]))
