"""Traces and memory on JAX: its own profiler, whose files open in TensorBoard and Perfetto."""

from pathlib import Path

import jax
from jax.extend import backend

from artifex_keras.backend.profile.operations import Operation, chrome_events

LINES = ("XLA Ops", "Stream")  # of a device; its other lines sum these up once more


def start(folder):
    """Begins a trace into `folder`. Gives `stop() -> operations`."""
    folder, before = Path(folder), set(_files(folder))
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
        if "hlo_op" not in details and not on_device:
            continue
        begin, length = event["ts"] / 1e6, event.get("dur", 0.0) / 1e6
        program = details.get("hlo_module", "")
        line = f"{process} {thread} {event.get('tid')}"
        found.append(Operation(line, event["name"], program, begin, begin + length))
    return found


def wait_for(model):
    """Waits until the steps that are on their way are done."""
    jax.block_until_ready(getattr(model, "_jax_state", None))


def device_memory():
    """Bytes by device; a CPU doesn't count them, so that there the live arrays' are summed."""
    found = {}
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        names = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use", "limit": "bytes_limit"}
        found[str(device)] = {ours: stats[name] for ours, name in names.items() if name in stats}
    if not any(found.values()):
        return {"arrays": {"in_use": sum(array.nbytes for array in jax.live_arrays())}}
    return found


def program_memory(name):
    """Bytes of the newest compiled program of that name: arguments, results, what is in between."""
    for program in backend.get_backend().live_executables():
        if any(module.name == name for module in program.hlo_modules()):
            stats = program.get_compiled_memory_stats()
            return {
                "arguments": stats.argument_size_in_bytes,
                "results": stats.output_size_in_bytes,
                "in_place": stats.alias_size_in_bytes,
                "temporary": stats.temp_size_in_bytes,
            }
    return {}
