"""Several processes on JAX, each with its own devices, that run one program together."""

import itertools
import pickle

import jax
import keras
import numpy as np
from keras import ops

SMALLEST, CHUNK = 1 << 10, 1 << 22  # bytes that are sent at once: few sizes, each is a program
AFTERWARDS = 3600  # seconds that the others wait for one that still saves and draws

_calls = itertools.count()


def connect(coordinator, count, index, heartbeat, patience):
    """Joins the group; what is None, JAX finds out from Slurm, a TPU pod or Open MPI."""
    jax.distributed.initialize(
        coordinator,
        count,
        index,
        initialization_timeout=patience,
        heartbeat_timeout_seconds=heartbeat,
        shutdown_timeout_seconds=AFTERWARDS,
    )


def connected():
    return jax.distributed.is_initialized()


def count():
    return jax.process_count()


def index():
    return jax.process_index()


def gather(data):
    lengths = _gathered(np.frombuffer(len(data).to_bytes(8, "little"), "uint8"))
    lengths = [int.from_bytes(row.tobytes(), "little") for row in lengths]
    padded = np.zeros(_room(max(lengths)), "uint8")
    padded[: len(data)] = np.frombuffer(data, "uint8")
    rows = _gathered(padded)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def _multihost():
    """JAX's functions for several processes, which one alone needn't import."""
    from jax.experimental import multihost_utils

    return multihost_utils


def _gathered(array):
    return _multihost().process_allgather(array)


def _room(length):
    return max(SMALLEST, 1 << max(length - 1, 0).bit_length())


def broadcast(data):
    head = np.frombuffer(len(data).to_bytes(8, "little"), "uint8")
    length = int.from_bytes(_multihost().broadcast_one_to_all(head).tobytes(), "little")
    parts = []
    for start in range(0, length, CHUNK):
        part = np.zeros(min(CHUNK, _room(length)), "uint8")
        if index() == 0:
            mine = np.frombuffer(data[start : start + CHUNK], "uint8")
            part[: len(mine)] = mine
        parts.append(_multihost().broadcast_one_to_all(part).tobytes())
    return b"".join(parts)[:length]


def stop_agreed():
    # JAX's service settles on a call that no process has made yet, so calls are numbered: steps
    # may be skipped where several are one execution.
    return count() > 1 and _multihost().reached_preemption_sync_point(next(_calls))


def whole(array):
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        if array.is_fully_replicated:
            return np.array(array.addressable_data(0))
        return np.array(_multihost().process_allgather(array, tiled=True))
    return np.array(ops.convert_to_numpy(array))


def assign(variable, value):
    current = variable.value
    if count() == 1 or current.is_fully_addressable:
        variable.assign(value)
        return
    # Not by `device_put`, which sends the value around to compare it, and where NaN is not NaN.
    value = np.asarray(value, current.dtype)
    variable.assign(
        jax.make_array_from_callback(value.shape, current.sharding, lambda part: value[part])
    )


def shares(batches, expected):
    counts = [pickle.loads(data) for data in gather(pickle.dumps(expected))]
    if any(number != counts[0] for number in counts):
        raise ValueError(
            "All processes must have the same data, of which each takes its own rows. "
            f"Received: {counts} batches, by process."
        )
    batches = iter(batches)
    while True:
        batch = next(batches, None)
        if expected is None:  # where one runs out of data all stop, or the others would wait for it
            ready = gather(bytes([batch is not None]))
            batch = None if bytes(1) in ready else batch
        if batch is None:
            return
        yield keras.tree.map_structure(_cut, batch, none_is_leaf=False)


def _cut(leaf):
    """`leaf` along the devices that the batch lies over; whole on each where they don't divide."""
    leaf = np.asarray(leaf)
    distribution = keras.distribution.distribution()
    mesh = distribution.device_mesh.backend_mesh
    axis = distribution.batch_dim_name
    divides = leaf.ndim and leaf.shape[0] % mesh.shape[axis] == 0
    rows = jax.sharding.PartitionSpec(axis) if divides else jax.sharding.PartitionSpec()
    sharding = jax.sharding.NamedSharding(mesh, rows)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda part: leaf[part])
