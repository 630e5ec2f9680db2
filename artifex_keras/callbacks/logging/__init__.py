"""Rows of metrics, learning rates and speed while a model trains."""

from artifex_keras.callbacks.logging.callback import LoggingCallback

__all__ = ["LoggingCallback"]
