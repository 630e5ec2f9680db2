"""Equal layers on TensorFlow: one after the other, each with variables of its own."""

import functools

from artifex_keras.backend import looped
from artifex_keras.backend.tensorflow.remat import recomputed

__all__ = ["Stacked", "through_layers"]

Stacked = None  # there is no scan
through_layers = functools.partial(looped.through_layers, recomputed=recomputed)
