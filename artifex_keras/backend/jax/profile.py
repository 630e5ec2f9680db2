"""Traces and memory on JAX: its own profiler, whose files open in TensorBoard and Perfetto."""

import math
from pathlib import Path

import jax

from artifex_keras.backend import keras_internals
from artifex_keras.backend.operations import Operation, chrome_events

LINES = ("XLA Ops", "Stream")  # of a device; its other lines sum these up once more


def start(folder):
    """Begins a trace into `folder`. Gives `stop() -> operations`."""
    folder = Path(folder)
    before = set(_files(folder))
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # every Python call would be in it, and slow all down
    options.host_tracer_level = 2  # operations on a CPU are on this level
    jax.profiler.start_trace(str(folder), profiler_options=options)

    def stop():
        jax.profiler.stop_trace()
        written = sorted(set(_files(folder)) - before)
        return [operation for path in written for operation in operations(path)]

    return stop


def _files(folder):
    return folder.glob("plugins/profile/*/*.trace.json.gz")


def operations(path):
    """The operations of compiled programs in a trace."""
    found = []
    for process, thread, event in chrome_events(path):
        details = event.get("args", {})
        on_device = process.startswith("/device:") and thread.startswith(LINES)
        if ("hlo_op" not in details and not on_device) or event["name"].startswith("end: "):
            continue
        begin, length = event["ts"] / 1e6, event.get("dur", 0.0) / 1e6
        program = details.get("hlo_module", "")
        line = f"{process} {thread} {event.get('tid')}"
        found.append(Operation(line, event["name"], program, begin, begin + length))
    return found


def wait_for(model):
    """Waits until the steps that are on their way are done."""
    state = keras_internals.last_state(model)
    for values in state.values():  # in lists of Keras's, which are leaves to JAX
        jax.block_until_ready(list(values))


def step_memory(model, names):
    """Bytes of the compiled step among the programs of these names.

    The step is the one that changes the model's state in place. Its name doesn't tell: all models
    that are trained in a process share it.
    """
    from jax.extend import backend  # only now: the package itself imports no more than Keras

    found = [
        program.get_compiled_memory_stats()
        for program in backend.get_backend().live_executables()
        if any(module.name in names for module in program.hlo_modules())
    ]
    state = _state_bytes(model)
    if not found or not state:
        return {}

    def unlike(stats):
        size = stats.argument_size_in_bytes + stats.temp_size_in_bytes
        return abs(stats.alias_size_in_bytes - state), -size

    stats = min(found, key=unlike)
    return {
        "arguments": stats.argument_size_in_bytes,
        "results": stats.output_size_in_bytes,
        "in_place": stats.alias_size_in_bytes,
        "temporary": stats.temp_size_in_bytes,
    }


def _state_bytes(model):
    """What a device holds of the state that a step is given and gives back."""
    state = keras_internals.last_state(model)
    values = [value for part in state.values() for value in part]
    return sum(
        math.prod(value.sharding.shard_shape(value.shape)) * value.dtype.itemsize
        for value in values
    )
