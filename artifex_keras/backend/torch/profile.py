"""Traces and memory on torch: its own profiler, whose files open in Perfetto and Chrome."""

from pathlib import Path

import torch

from artifex_keras.atomic import atomic_file
from artifex_keras.backend.operations import Operation, chrome_events


def start(folder):
    """Begins a trace into `folder`. Gives `stop() -> operations`."""
    path = Path(folder) / "torch.trace.json.gz"
    profile = torch.profiler.profile()
    profile.start()

    def stop():
        profile.stop()
        with atomic_file(path) as temporary:
            profile.export_chrome_trace(str(temporary))
        return operations(path)

    return stop


def operations(path):
    """The kernels of a device, or where there is none the operations of the host."""
    found = {"kernel": [], "cpu_op": []}
    events = list(chrome_events(path))
    origin = min((event["ts"] for *_, event in events), default=0.0)
    for process, thread, event in events:
        if event.get("cat") in found:
            begin, length = (event["ts"] - origin) / 1e6, event.get("dur", 0.0) / 1e6
            line = f"{process} {thread}"
            found[event["cat"]].append(Operation(line, event["name"], "", begin, begin + length))
    return found["kernel"] or found["cpu_op"]


def wait_for(model):
    """Waits until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def step_memory(model, names):
    """torch runs eagerly: there is no program."""
    return {}
