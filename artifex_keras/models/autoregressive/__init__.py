"""Autoregressive models: of tokens, their generation and its engine, and of pixels."""

from artifex_keras.models.autoregressive.model import Autoregressive
from artifex_keras.models.autoregressive.pixels import PixelAutoregressive

__all__ = ["Autoregressive", "PixelAutoregressive"]
