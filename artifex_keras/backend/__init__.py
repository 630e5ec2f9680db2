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
`recomputed(fn, *xs, mode="full")`
    `fn(*xs)`, of which the gradient computes once more what it needs, instead of keeping it.
`through_layers(body, layers, x, remat=None, stack=None)`
    ``x = body(layer, x)`` for each of equal layers; with their `stack` a program of one of them.
`Stacked`
    the variables of equal layers as one layer; None where there is no scan, as on all but JAX.
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
`spread(x, axis=0, all_devices=False)`
    the rows of a tensor over the devices of the running distribution that have rows, or over all.
`reshard(values, layouts)`
    tensors in other layouts, before anything that uses them begins.
`by_device(fn, tensors)`
    `fn(*tensors)`, by each device of its own rows and tokens; weights are gathered once before.
`over_context(x, axis=1, gathered=False)`, `num_context_shards(length)`
    the tokens of rows over the devices of its context, and how many shards of a row there are.
`shard_batches(iterator)`
    lets Keras's iterator shard each batch over the devices by its own shape.
`watch_batches(adapter, begin)`
    shows each batch of Keras's adapter to `begin()`, made anew each pass, before a step gets it.
`over_model(x)`, `num_model_shards(size)`, `moves_weights(x)`
    a tensor's last axis over the devices that share layers, over how many of them one of that size
    lies, and whether weights move, or vectors.
`rows_are_faster()`
    whether products of sequences (B, T, C) are faster as those of rows (B·T, C).
`EXPORT_OPTIONS`
    further options of `keras.export.ExportArchive.add_endpoint`.
`name()`
    which framework runs; nothing outside this folder asks Keras for it.
`LiveValues`, `live_value(variable)`
    numbers that a compiled step is given at each call, and that callbacks may move.
`SHAPES_ARE_KNOWN`
    whether a traced step knows how many rows its batch has.
"""

from artifex_keras.backend import undistributed
from artifex_keras.backend.choice import name, part
from artifex_keras.backend.live import LiveValues
from artifex_keras.backend.scope import FrozenScope, ReadThroughScope, assign_all, values_of

_step, _gradients, _programs, _layers = map(part, ("step", "gradients", "programs", "layers"))
_sharding = part("sharding") if name() == "jax" else undistributed

SHAPES_ARE_KNOWN = _step.SHAPES_ARE_KNOWN
live_value = _step.live_value
TrainStep = _step.TrainStep
shard_batches = _step.shard_batches
watch_batches = _step.watch_batches

apply_gradients = _gradients.apply_gradients
input_gradient = _gradients.input_gradient
recomputed = _gradients.recomputed
repeat = _gradients.repeat
value_and_grad = _gradients.value_and_grad
when = _gradients.when
without_gradient = _gradients.without_gradient

Stacked = _layers.Stacked
through_layers = _layers.through_layers

compiled = _programs.compiled
device_memory = _programs.device_memory
global_norm = _programs.global_norm
EXPORT_OPTIONS = _programs.EXPORT_OPTIONS
reader = _programs.reader
rows_are_faster = _programs.rows_are_faster

by_device = _sharding.by_device
moves_weights = _sharding.moves_weights
num_context_shards = _sharding.num_context_shards
num_model_shards = _sharding.num_model_shards
over_context = _sharding.over_context
over_model = _sharding.over_model
reshard = _sharding.reshard
spread = _sharding.spread

__all__ = [
    "EXPORT_OPTIONS",
    "FrozenScope",
    "LiveValues",
    "ReadThroughScope",
    "SHAPES_ARE_KNOWN",
    "Stacked",
    "TrainStep",
    "apply_gradients",
    "assign_all",
    "by_device",
    "compiled",
    "device_memory",
    "global_norm",
    "input_gradient",
    "live_value",
    "shard_batches",
    "moves_weights",
    "name",
    "num_context_shards",
    "num_model_shards",
    "over_context",
    "over_model",
    "reader",
    "recomputed",
    "repeat",
    "reshard",
    "rows_are_faster",
    "spread",
    "through_layers",
    "value_and_grad",
    "values_of",
    "watch_batches",
    "when",
    "without_gradient",
]
