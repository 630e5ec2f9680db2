"""Traces, memory and waiting, by the running framework's own profiler.

`start(folder)`
    begins a trace of everything that runs and gives the function that ends it. That one writes the
    trace into `folder` and gives its operations.
`wait_for(model)`
    returns when the device has done all steps that a running `fit` has handed it.
`step_memory(model, names)`
    bytes that the model's compiled step needs, one of the programs of these names, where they are
    known.
"""

from artifex_keras.backend import choice
from artifex_keras.backend.operations import Operation

_framework = choice.part("profile")

start = _framework.start
wait_for = _framework.wait_for
step_memory = _framework.step_memory

__all__ = ["Operation", "start", "step_memory", "wait_for"]
