"""A batch: as data sources deliver it, and as the objectives see it."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from artifex_keras.backend import spread
from artifex_keras.backend.columns import split

__all__ = ["Batch", "as_tensor", "beside_weights", "spec_of", "unpacked"]


class Batch(NamedTuple):
    """One batch as the objectives see it.

    `x` the data, `y` the condition or None, `weight` the sample weights of shape (B,), ones where
    the user gave none.
    """

    x: object
    y: object
    weight: object


def beside_weights(x, y, sample_weight):
    """`y`, or where weights come without targets some without columns.

    Keras drops the weights of examples that have no targets, and can't hand TensorFlow a batch
    with None in it.
    """
    if y is not None or sample_weight is None:
        return y
    return np.zeros((len(keras.tree.flatten(x)[0]), 0), "float32")


def unpacked(data):
    """`(x, y, weight)` of a batch as Keras delivers it, None for what it lacks."""
    x, y, weight = split(data)
    empty = y is not None and hasattr(y, "shape") and tuple(y.shape[1:]) == (0,)
    return x, None if empty else y, weight


def as_tensor(value):
    """A tensor: floats of any width become float32, integers of any width and booleans int32.

    All data that a model is given come in here, so that none wraps around: a label that is a byte
    can't be compared with -100.
    """
    value = spread(ops.convert_to_tensor(value))
    wide = _wide(value.dtype)
    same = keras.backend.standardize_dtype(value.dtype) == wide
    return value if same else ops.cast(value, wide)


def _wide(dtype):
    dtype = keras.backend.standardize_dtype(dtype)
    if "float" in dtype:
        return "float32"
    return "int32" if "int" in dtype or dtype == "bool" else dtype


def spec_of(array):
    """What a network sees of `array`: its shape but for the rows, and its dtype."""
    return keras.KerasTensor((None, *array.shape[1:]), _wide(array.dtype))
