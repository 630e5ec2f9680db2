"""Dense layers whose products are those of rows, where the backend knows that to be faster."""

import keras
from keras import layers

from artifex_keras.backend import over_rows

__all__ = ["RowDense"]


@keras.saving.register_keras_serializable(package="artifex_keras")
class RowDense(layers.Dense):
    """A `keras.layers.Dense` that takes vectors (B, T, C) by `backend.over_rows`."""

    def call(self, inputs, training=None):
        call = super().call
        return over_rows(lambda rows: call(rows, training=training), inputs)
