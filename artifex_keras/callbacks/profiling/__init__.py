"""Where the time and the memory of a step go."""

from artifex_keras.callbacks.profiling.callback import ProfilingCallback
from artifex_keras.callbacks.profiling.operations import slowest

__all__ = ["ProfilingCallback", "slowest"]
