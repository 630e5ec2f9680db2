"""Profiles of training steps: their time and memory."""

from artifex_keras.callbacks.profiling.callback import ProfilingCallback
from artifex_keras.callbacks.profiling.operations import slowest

__all__ = ["ProfilingCallback", "slowest"]
