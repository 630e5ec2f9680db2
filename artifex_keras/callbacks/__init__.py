"""What watches a run: Keras callbacks for any `keras.Model.fit`, alone or together."""

from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.early_stopping import EarlyStoppingCallback
from artifex_keras.callbacks.nan_guard import NaNGuard

__all__ = ["BaseCallback", "EarlyStoppingCallback", "NaNGuard"]
