"""What the running framework can tell of its own work.

`start(folder)`
    begins a trace of everything that runs and gives the function that ends it. That one writes the
    trace into `folder` and gives its operations.
`wait_for(model)`
    returns when the device has done all steps that a running `fit` has handed it.
`program_memory(name)`
    bytes that the compiled program of that name needs, where they are known.
"""

import keras

from artifex_keras.backend.profile.operations import Operation

if keras.config.backend() == "jax":
    from artifex_keras.backend.profile import jax as _framework
elif keras.config.backend() == "tensorflow":
    from artifex_keras.backend.profile import tensorflow as _framework
else:
    from artifex_keras.backend.profile import torch as _framework

start = _framework.start
wait_for = _framework.wait_for
program_memory = _framework.program_memory

__all__ = ["Operation", "program_memory", "start", "wait_for"]
