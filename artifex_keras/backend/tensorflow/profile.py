"""Traces and memory on TensorFlow: its own profiler, whose files open in TensorBoard."""

import re
from pathlib import Path

import tensorflow as tf

from artifex_keras.backend.operations import Operation

NAMED = re.compile(r".*[^:]:(_?[A-Z]\w*)")  # "StatefulPartitionedCall/dense/MatMul:MatMul"


def start(folder):
    """Begins a trace into `folder`. Gives `stop() -> operations`."""
    folder, before = Path(folder), set(_files(folder))
    tf.profiler.experimental.start(str(folder))

    def stop():
        tf.profiler.experimental.stop()
        written = sorted(set(_files(folder)) - before)
        return [operation for path in written for operation in operations(path)]

    return stop


def _files(folder):
    return folder.glob("plugins/profile/*/*.xplane.pb")


def operations(path):
    """The operations of graphs in a trace; those of a device alone, where there is one."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(Path(path).read_bytes())
    found = {"device": [], "host": []}
    origin = min((line.timestamp_ns for plane in space.planes for line in plane.lines), default=0)
    for plane in space.planes:
        kind = "device" if plane.name.startswith("/device:") else "host"
        for line in plane.lines:
            if kind == "device" and not line.name.startswith(("XLA Ops", "Stream")):
                continue
            since = (line.timestamp_ns - origin) / 1e9
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                named = NAMED.fullmatch(name)
                if kind == "host" and not named:
                    continue
                begin = since + event.offset_ps / 1e12
                found[kind].append(
                    Operation(
                        f"{plane.name} {line.name}",
                        named[1] if named else name,
                        "",
                        begin,
                        begin + event.duration_ps / 1e12,
                    )
                )
    return found["device"] or found["host"]


def wait_for(model):
    """Waits until the devices have done what they were given."""
    if tf.config.list_logical_devices("GPU"):
        tf.test.experimental.sync_devices()


def step_memory(model, names):
    """Unknown here."""
    return {}
