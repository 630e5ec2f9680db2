"""Arrays and metadata in a folder of Orbax's: complete or not there, verified by checksums."""

import json
import math
import zlib

import numpy as np

from artifex_keras.backend import processes
from artifex_keras.callbacks.checkpoint.failures import quiet_orbax
from artifex_keras.trust import read_json

__all__ = ["Damaged", "as_bytes", "check", "description", "first_line", "orbax", "read"]
__all__ += ["read_meta", "seal", "unseal", "write"]

SMALL = 2**16  # bytes; each array costs Orbax time, so smaller ones are written as one
TOGETHER = "small"


class Damaged(Exception):
    """A checkpoint with a wrong checksum, a missing file, or the format of another version."""


def orbax():
    """The module `orbax.checkpoint`, which takes a second to import."""
    import orbax.checkpoint

    return orbax.checkpoint


def _checkpointer():
    """An Orbax checkpointer for this process alone, which waits for no other process.

    It doesn't compress: floats hardly get smaller, and it took a third of a save's time.
    """
    ocp = orbax()
    options = ocp.options.MultiprocessingOptions()
    if processes.count() > 1:
        me = processes.index()
        options = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process-{me}"
        )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=options),
        arrays=ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=options),
        meta=ocp.JsonCheckpointHandler(multiprocessing_options=options),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def write(folder, named_arrays, meta):
    """Writes arrays and metadata into a new folder, which gets its name when it is complete.

    Args:
        folder: the path of the folder; one that is there is replaced.
        named_arrays: a list of `NamedArray`.
        meta: a dict in the types of JSON, with a `description` of each array.
    """
    ocp = orbax()
    with quiet_orbax(), _checkpointer() as checkpointer:
        checkpointer.save(
            folder,
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeSave(_gather_small(named_arrays, meta["leaves"])),
                meta=ocp.args.JsonSave({"text": seal(meta)}),
            ),
            force=True,
        )


def read(folder, described):
    """The arrays in a folder, a list; each is what its checksum says.

    Args:
        folder: the path of the folder.
        described: the descriptions of its arrays.

    Raises:
        Damaged: if an array can't be read, or isn't what was written.
    """
    ocp = orbax()
    try:
        places = _placements(described)
        keys = {TOGETHER, *(key for key, _ in places)}
        how = {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in sorted(keys)}
        only = ocp.args.Composite(arrays=ocp.args.PyTreeRestore(restore_args=how))
        with quiet_orbax(), _checkpointer() as checkpointer:
            arrays = checkpointer.restore(folder, args=only).arrays
        pairs = zip(places, described, strict=True)
        values = [_extract(arrays, *place, each) for place, each in pairs]
    except Exception as error:  # a damaged file can raise anything
        raise Damaged(f"{folder} can't be read: {first_line(error)}") from error
    for value, each in zip(values, described, strict=True):
        check(value, each, folder)
    return values


def check(value, described, folder):
    """Raises Damaged for an array that isn't what its description says."""
    if zlib.crc32(as_bytes(value)) != described[4]:
        raise Damaged(f"{folder} is damaged: {described[0]} is not what was written.")


def read_meta(folder):
    """The metadata in a folder, as `write` was given them.

    Raises:
        Damaged: if they can't be read, or differ from what was written.
    """
    path = folder / "meta" / "metadata"
    try:
        return unseal(read_json(path, "metadata")["text"])
    except Damaged as error:
        raise Damaged(f"{path} is damaged.") from error
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise Damaged(f"{path} can't be read: {first_line(error)}") from error


def description(array):
    """What the metadata say of an array, a list: name, type, shape, type in the file, checksum."""
    value = array.value
    return [
        array.name,
        array.dtype,
        list(value.shape),
        value.dtype.name,
        zlib.crc32(as_bytes(value)),
    ]


def _placements(described):
    """For each array its key in the file and, for a small one, its slice of the shared bytes."""
    places, end = [], 0
    for i, (_, _, shape, stored, *_) in enumerate(described):
        size = math.prod(shape) * np.dtype(stored).itemsize
        if size < SMALL:
            begin, end = end, end + size
            places.append((TOGETHER, slice(begin, end)))
        else:
            places.append((f"{i:05d}", None))
    return places


def _gather_small(named_arrays, described):
    """The arrays that Orbax writes: large ones as they are, the bytes of all small ones as one."""
    arrays, small = {}, []
    for array, (key, part) in zip(named_arrays, _placements(described), strict=True):
        if part is None:
            arrays[key] = array.value
        else:
            small.append(as_bytes(array.value))
    small.append(np.zeros(1, "uint8"))  # Orbax takes no empty array
    return {TOGETHER: np.concatenate(small), **arrays}


def _extract(arrays, key, part, described):
    """The value of one array from what `_gather_small` gave."""
    _, _, shape, stored, *_ = described
    value = np.asarray(arrays[key])
    return value if part is None else value[part].view(stored).reshape(shape)


def as_bytes(array):
    """The bytes of an array, one after the other."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def seal(meta):
    """Metadata as a text, in front of it their checksum."""
    text = json.dumps(meta)
    return f"{zlib.crc32(text.encode()):08x} {text}"


def unseal(sealed):
    """The metadata in what `seal` gave."""
    checksum, text = sealed.split(" ", 1)
    if f"{zlib.crc32(text.encode()):08x}" != checksum:
        raise Damaged
    return json.loads(text)


def first_line(error):
    """An error in a line, with its kind."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
