"""Several processes on JAX, each with its own devices, that run one program together."""

import inspect
import itertools
import socket
import zlib

import jax
import keras
import numpy as np
from keras import ops

from artifex_keras.backend.jax.rows import LazyRows
from artifex_keras.backend.messages import pack, unpack

SMALLEST, CHUNK = 1 << 10, 1 << 22  # bytes that are sent at once: few sizes, each is a program
AFTERWARDS = 3600  # seconds that the others wait for one that still saves and draws

_calls = itertools.count()
_hosts = []  # the address of the first process, where it is known


def connect(coordinator, count, index, heartbeat, patience, bound=None):
    """Joins the group; what is None, JAX finds out from Slurm, a TPU pod or Open MPI.

    The first process listens on `bound`, by JAX's default on all addresses of its host.
    """
    known = inspect.signature(jax.distributed.initialize).parameters  # jax 0.7.2 waits by itself
    options = {"shutdown_timeout_seconds": AFTERWARDS}
    if None not in (coordinator, count, index):  # on Slurm it would take one device of a host
        options["cluster_detection_method"] = "deactivate"
    jax.distributed.initialize(
        coordinator,
        count,
        index,
        initialization_timeout=patience,
        heartbeat_timeout_seconds=heartbeat,
        coordinator_bind_address=bound,
        **{name: value for name, value in options.items() if name in known},
    )

    address = bound or coordinator
    _hosts[:] = [address.rpartition(":")[0].strip("[]")] if address else []


def connected():
    return jax.distributed.is_initialized()


def count():
    return jax.process_count()


def index():
    return jax.process_index()


def devices():
    found = [[] for _ in range(count())]
    for device in jax.devices():
        found[device.process_index].append(f"{device.platform}:{device.id}")
    return found


def host():
    return _hosts[0] if _hosts else socket.gethostname()


def gather(value):
    if count() == 1:
        return [value]
    return [unpack(data) for data in _gathered_bytes(pack(value))]


def _gathered_bytes(data):
    lengths = _rows(np.frombuffer(len(data).to_bytes(8, "little"), "uint8"))
    lengths = [int.from_bytes(row.tobytes(), "little") for row in lengths]
    padded = np.zeros(_room(max(lengths)), "uint8")
    padded[: len(data)] = np.frombuffer(data, "uint8")
    rows = _rows(padded)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def _multihost():
    """JAX's functions for several processes, which one alone needn't import."""
    from jax.experimental import multihost_utils

    return multihost_utils


def _rows(array):
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


def to_host_array(array):
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
    if not hasattr(value, "shape"):
        value = np.asarray(value)
    variable.assign(
        jax.make_array_from_callback(
            tuple(value.shape),
            current.sharding,
            lambda part: np.asarray(value[part], current.dtype),
        )
    )


def holders(array):
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return {_bounds((), np.shape(array)): {0}}
    held = {}
    for device, part in array.sharding.devices_indices_map(array.shape).items():
        held.setdefault(_bounds(part, array.shape), set()).add(device.process_index)
    return held


def held(array, bounds):
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        shards = array.addressable_shards
        array = next(s.data for s in shards if _bounds(s.index, array.shape) == bounds)
    return np.array(ops.convert_to_numpy(array))


def needed(array):
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return {_bounds((), np.shape(array))}
    parts = array.sharding.addressable_devices_indices_map(array.shape).values()
    return {_bounds(part, array.shape) for part in parts}


def _bounds(part, shape):
    """The bounds of a part in each axis, of the slices of the first ones."""
    slices = (*part, *[slice(None)] * (len(shape) - len(part)))
    pairs = zip(slices, shape, strict=True)
    return tuple(each.indices(length)[:2] for each, length in pairs)


def check_counts(batches):
    counts = gather(batches)
    if any(number != counts[0] for number in counts):
        raise ValueError(
            f"All processes must have as many batches. Received: {counts} batches, by process."
        )


def shard_rows(batches, expected, own=False, sure=False):
    check_counts(expected)
    shard = _OwnRows() if own else _CommonRows()
    for batch in _agreed(batches, expected if sure else None, own):
        yield shard(batch)


ENDED, FAILED = -1, -2  # what a process has in place of a batch with a number of rows


def _agreed(batches, expected, own):
    """The batches, up to where the first process has no more: the others would wait for it.

    Where a process fails to make one, or has other rows of its own, all raise. They ask each other
    at each batch, or at the first and the last where `expected` says that none can fail.
    """
    batches = iter(batches)
    for number in itertools.count():
        batch, error = _next_of(batches)
        if expected is None or number in (0, expected - 1):
            found = [
                int(row[0]) for row in _rows(np.array([_described(batch, error, own)], "int32"))
            ]
            _check_agreement(found, number, error)
            if ENDED in found:
                return
        elif error is not None:
            raise error
        if batch is None:
            return
        yield batch


def _next_of(batches):
    """`(batch, error)`: None for no more batches, and the `Exception` that was raised."""
    try:
        return next(batches, None), None
    except Exception as error:
        return None, error


def _described(batch, error, own):
    """What the other processes learn of a batch: its own rows, 1, or that there is none."""
    if error is not None:
        return FAILED
    if batch is None:
        return ENDED
    return len(keras.tree.flatten(batch)[0]) if own else 1


def _check_agreement(found, number, error):
    """Raises in all processes where one has failed, or some have other rows than the others."""
    if FAILED in found:
        raise_together(error, f"could not make batch {number + 1}")
    if ENDED not in found and len(set(found)) > 1:
        raise ValueError(
            "Batches must have as many rows in all processes: leave the rest out, such as with "
            f"drop_remainder=True. Received: {found} rows, by process, in batch {number + 1}."
        )


def raise_together(error, failed):
    if count() == 1:
        if error is not None:
            raise error
        return
    said = gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for process, text in enumerate(said):
        if text is not None:
            raise RuntimeError(f"Process {process} {failed}: {text}")


class _CommonRows:
    """Shards batches that all processes have; the first batch is compared between them.

    Of arrays a process takes its own rows alone, but for the first batch of a pass.
    """

    checked = False

    def __call__(self, batch):
        batch = keras.tree.map_structure(_as_array, batch, none_is_leaf=False)
        if not self.checked and len(set(gather(_fingerprint(batch)))) > 1:
            raise ValueError(
                "All processes must have the same batches, of which each takes its own rows: give "
                "all the same data, and shuffling a seed. Data that are this process's rows "
                "already go into `distributed.OwnRows`."
            )
        self.checked = True
        return keras.tree.map_structure(self._shard, batch, none_is_leaf=False)

    def _shard(self, leaf):
        """`leaf` sharded by rows over the devices; replicated where they don't divide the rows."""
        rows, num_shards = _rows_over_devices()
        if not leaf.ndim or leaf.shape[0] % num_shards:
            rows = rows.update(spec=jax.sharding.PartitionSpec())
        return jax.make_array_from_callback(leaf.shape, rows, lambda part: leaf[part])


def _as_array(leaf):
    return leaf if isinstance(leaf, LazyRows) else np.asarray(leaf)


class _OwnRows:
    """Puts this process's rows on its devices."""

    count = None

    def __call__(self, batch):
        count = len(keras.tree.flatten(batch)[0])
        if self.count is None:
            self.count = count
        rows, num_shards = _rows_over_devices()
        if count != self.count or count * min(num_shards, jax.process_count()) % num_shards:
            raise ValueError(
                "Each batch of a process's own rows must have as many as the first, and devices "
                f"must divide them: leave the rest out. Received: {count} rows after batches of "
                f"{self.count}, for {num_shards} shards of {jax.process_count()} processes."
            )
        return keras.tree.map_structure(
            lambda leaf: jax.make_array_from_process_local_data(rows, np.asarray(leaf)),
            batch,
            none_is_leaf=False,
        )


def _rows_over_devices():
    """`(sharding, num_shards)` of a batch's rows under the distribution in force."""
    distribution = keras.distribution.distribution()
    mesh, axis = distribution.device_mesh.backend_mesh, distribution.batch_dim_name
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis))
    return rows, distribution.num_model_replicas


def _fingerprint(batch):
    """A number that another batch hardly has."""
    total = 0
    for leaf in keras.tree.flatten(batch):
        if leaf is not None:
            total = zlib.crc32(
                np.ascontiguousarray(np.asarray(leaf)).reshape(-1).view("uint8"), total
            )
    return total
