"""Dense layers whose products are those of rows, where the backend knows that to be faster."""

import functools

import keras
from keras import layers

from artifex_keras.backend import over_rows

__all__ = ["RowDense"]


@keras.saving.register_keras_serializable(package="artifex_keras")
class RowDense(layers.Dense):
    """A `keras.layers.Dense` that takes vectors (B, T, C) by `backend.over_rows`."""

    def call(self, inputs, training=None):
        return over_rows(functools.partial(super().call, training=training), inputs)
