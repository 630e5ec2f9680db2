"""The seam between one training step and three frameworks.

A family writes its step once, imperatively, in `keras.ops`; what a framework needs to run it lives
here and nowhere else. The vocabulary is the same for each backend:

`TrainStep`
    the base class that turns `train_on(data)` and `test_on(data)` into the `train_step` and
    `test_step` that Keras's loop calls (pure on JAX, a graph on TensorFlow, eager on torch). A
    step with a part on the host in its middle says so by `interrupted`.
`value_and_grad(fn, variables)`
    the value of `fn() -> (loss, aux)` and the gradients of the loss with respect to `variables`.
`without_gradient(fn)`
    `fn()` as a constant, for which torch keeps no graph.
`input_gradient(fn, x)`
    the gradient of the summed `fn(x)` with respect to `x`, differentiable once more.
`repeat(body, xs)`
    `body` on each row of `xs`, in order, its assignments carried on: one compiled loop on JAX.
`when(condition, body, otherwise)`
    one of two, with the assignments of the one that ran, and only that one computed.
`apply_gradients(optimizer, gradients, variables)`
    one update, in the manner that the running framework wants it.
`compiled(method)`
    a method of a model as one compiled program of its weights and tensors.
`reader(model, fn)`
    how a callback reads scalars of a model in the middle of `fit`.
`global_norm(values)`, `device_memory()`
    what watching a run needs besides.
`spread(x, axis=0)`
    the rows of a tensor over the devices of the running distribution.
`shard_batches(iterator)`
    lets Keras's iterator cut each batch over the devices by its own shape.
`over_rows(fn, x)`
    `fn`, a product of the last axis, of sequences (B, T, C): as rows (B·T, C) where that is faster.
`SHAPES_ARE_KNOWN`
    whether a traced step knows how many rows its batch has.
"""

import keras

from artifex_keras.backend.scope import ReadThroughScope, assign_all, values_of

if keras.config.backend() == "jax":
    from artifex_keras.backend import jax as _framework
elif keras.config.backend() == "tensorflow":
    from artifex_keras.backend import tensorflow as _framework
elif keras.config.backend() == "torch":
    from artifex_keras.backend import torch as _framework
else:
    raise ImportError(
        "artifex_keras trains on the backends 'jax', 'tensorflow' and 'torch'. "
        f"Received: KERAS_BACKEND={keras.config.backend()!r}."
    )

SHAPES_ARE_KNOWN = _framework.SHAPES_ARE_KNOWN
TrainStep = _framework.TrainStep
value_and_grad = _framework.value_and_grad
without_gradient = _framework.without_gradient
input_gradient = _framework.input_gradient
over_rows = _framework.over_rows
repeat = _framework.repeat
apply_gradients = _framework.apply_gradients
compiled = _framework.compiled
when = _framework.when
reader = _framework.reader
global_norm = _framework.global_norm
device_memory = _framework.device_memory
spread = _framework.spread
shard_batches = _framework.shard_batches

__all__ = [
    "ReadThroughScope",
    "SHAPES_ARE_KNOWN",
    "TrainStep",
    "apply_gradients",
    "assign_all",
    "compiled",
    "device_memory",
    "global_norm",
    "input_gradient",
    "shard_batches",
    "over_rows",
    "reader",
    "repeat",
    "spread",
    "value_and_grad",
    "values_of",
    "when",
    "without_gradient",
]
