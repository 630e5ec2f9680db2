"""Checkpoints that several processes write: each the parts of the arrays that it holds."""

import contextlib
import itertools
import json
import math
import secrets
import time

import keras
import numpy as np

from artifex_keras.atomic import atomic_file
from artifex_keras.backend import processes
from artifex_keras.backend.stacks import stack_of
from artifex_keras.callbacks.checkpoint.arrays import NamedArray, named_variables
from artifex_keras.callbacks.checkpoint.orbax_files import (
    Damaged,
    as_bytes,
    check,
    description,
    orbax,
    read_meta,
    seal,
)
from artifex_keras.callbacks.checkpoint.pieces import Pieces, overlap
from artifex_keras.remote import RemoteError, RemotePath
from artifex_keras.trust import FileError, read_ranges

__all__ = ["folder_of_all", "is_first", "join", "load", "meeting", "needed_by", "own_parts"]
__all__ += ["write_part"]

PATIENCE = 3_600_000  # milliseconds that the fastest process waits for the slowest
LOOKS, BETWEEN = 5, 0.5  # so often, and seconds between: folders in a network are seen late

_meetings = itertools.count()


def is_first():
    """Whether this process is the first one, which makes a checkpoint of all parts."""
    return processes.index() == 0


@contextlib.contextmanager
def meeting(name, before=None):
    """At its end all processes wait for each other, after errors too; before that, `before()`.

    It takes no device, so a thread may wait while the training continues.
    """
    number = next(_meetings)
    try:
        yield
    finally:
        if before is not None:
            before()
        if processes.count() > 1:
            wait = orbax().multihost.get_barrier_sync_fn()
            wait(key=f"artifex_keras {name}, {number}", timeout_ms=PATIENCE)


def folder_of_all(folder):
    """Whether several processes see one folder under that name. All call it."""
    if processes.count() == 1:
        return False
    mark = processes.on_first_process(lambda: _leave_mark(folder))
    if mark is None:
        return False
    try:
        return all(processes.gather(_is_seen(folder, mark)))
    finally:
        if is_first():
            with contextlib.suppress(OSError, RemoteError):  # the next start sweeps it
                _remove_mark(folder / mark)


def _leave_mark(folder):
    mark = f"shared-{secrets.token_hex(8)}.orbax-checkpoint-tmp"  # swept after a kill
    try:
        if isinstance(folder, RemotePath):
            (folder / mark).write_bytes(b"")
        else:
            (folder / mark).mkdir(parents=True)
    except OSError:  # the save will warn
        return None
    return mark


def _remove_mark(path):
    if isinstance(path, RemotePath):
        path.unlink()
    else:
        path.rmdir()


def _is_seen(folder, mark):
    for look in range(LOOKS):
        with contextlib.suppress(OSError, RemoteError):
            if isinstance(folder, RemotePath):
                if (folder / mark).exists():
                    return True
            elif any(path.name == mark for path in folder.iterdir()):
                return True
        if look < LOOKS - 1:
            time.sleep(BETWEEN)
    return False


# Writing


def own_parts(model):
    """The parts of the variables that this process writes, a list; None if each process has all.

    Every part is written once, by that of its holders which has the fewest bytes to write so far.
    All processes come to the same shares without a message.
    """
    variables = named_variables(model)
    stacks = {id(stack): stack for stack, _ in map(stack_of, variables.values())}
    if all(len(processes.holders(stack.value)) == 1 for stack in stacks.values()):
        return None
    me, loads, found = processes.index(), [0] * processes.count(), []
    for name, variable in variables.items():
        value = variable.value
        shape = tuple(value.shape)
        width = np.dtype(keras.backend.standardize_dtype(value.dtype)).itemsize
        for bounds, holders in sorted(processes.holders(value).items()):
            writer = min(holders, key=lambda process: (loads[process], process))
            loads[writer] += width * math.prod(end - begin for begin, end in bounds)
            if writer == me:
                part = processes.held(value, bounds)
                found.append(NamedArray(name, variable.dtype, part, bounds, shape))
    return found


def write_part(folder, named_arrays, process=None):
    """Writes the arrays of a process into its own folder in `folder`, with their checksums.

    Their bytes follow each other in one file. Orbax isn't asked: it lets the first process alone
    write NumPy arrays, saves that several processes do apart mix up its signals, and of remote
    folders it writes those of Google alone without renaming.
    """
    process = processes.index() if process is None else process
    place = _place(folder, process)
    with _new_file(place / "arrays") as append:
        for array in named_arrays:
            append(as_bytes(array.value))
    meta = {"process": process, "leaves": [_description(array) for array in named_arrays]}
    _write_meta(place, meta)


@contextlib.contextmanager
def _new_file(path):
    """A context with a function that appends bytes to a file, which is there at the end."""
    if isinstance(path, RemotePath):
        with path.writing() as append:
            yield append
    else:
        with atomic_file(path) as temporary, open(temporary, "wb") as file:
            yield file.write


def _write_meta(place, meta):
    with _new_file(place / "meta" / "metadata") as append:
        append(json.dumps({"text": seal(meta)}).encode())


def _description(array):
    return [*description(array), array.bounds, array.shape]


def _place(folder, process):
    return folder / f"process-{process}"


def join(folder, meta, count=None):
    """Completes a folder with the parts of all processes by `meta` and the checksums of theirs.

    It writes one file, after all others: a folder without it is no checkpoint.

    Raises:
        OSError: if a process hasn't written its part.
    """
    checksums = []
    for process in range(processes.count() if count is None else count):
        try:
            checksums.append(_checksum(read_meta(_place(folder, process))))
        except Damaged as error:
            raise OSError(f"process {process} has not written its part") from error
    _write_meta(folder, meta | {"parts": checksums})


def _checksum(meta):
    return seal(meta).split(" ", 1)[0]


# Reading


def needed_by(model):
    """A function from the name of an array to the bounds of the parts which this process needs.

    It gives None for one that the model hasn't: all of it is needed then.
    """
    variables = named_variables(model)

    def needed(name):
        if name not in variables:
            return None
        stack, place = stack_of(variables[name])
        bounds = processes.needed(stack.value)
        return bounds if place is None else {part[1:] for part in bounds}

    return needed


def load(folder, meta, needed=None):
    """The arrays of a checkpoint that `join` has completed, a list of `NamedArray`.

    Those of which a part is enough come as `Pieces`, the others as NumPy arrays.

    Raises:
        Damaged: if a part is missing, or isn't what was written.
    """
    arrays = {}
    for process, checksum in enumerate(meta["parts"]):
        place = _place(folder, process)
        own = read_meta(place)
        if _checksum(own) != checksum:
            raise Damaged(f"{place} is damaged: it isn't of this checkpoint.")
        described = own["leaves"]
        read_here = [i for i, each in enumerate(described) if _is_needed(each, needed)]
        for i, value in _read(place, described, read_here):
            name, dtype, _, stored, _, bounds, shape = described[i]
            bounds = _bounds(bounds, value.shape)
            pieces = Pieces(value.shape if shape is None else shape, stored)
            kept = arrays.setdefault(name, NamedArray(name, dtype, pieces))
            kept.value.parts[bounds] = value
    return [_finished(array, needed, folder) for array in arrays.values()]


def _read(place, described, numbers):
    """Pairs of some arrays' numbers in a process's folder, and their values: those written."""
    kinds = [np.dtype(each[3]) for each in described]
    sizes = [k.itemsize * math.prod(e[2]) for k, e in zip(kinds, described, strict=True)]
    begins = [0, *itertools.accumulate(sizes)]
    ranges = [(begins[i], sizes[i]) for i in numbers]
    try:
        for i, content in zip(numbers, read_ranges(place / "arrays", ranges), strict=True):
            value = content.view(kinds[i]).reshape(described[i][2])
            check(value, described[i], place)
            yield i, value
    except (FileError, FileNotFoundError) as error:
        raise Damaged(f"{place} can't be read: {error}") from error


def _bounds(bounds, shape):
    return tuple(map(tuple, bounds)) if bounds is not None else tuple((0, n) for n in shape)


def _is_needed(described, needed):
    name, _, own, _, _, bounds, _ = described
    wanted = None if needed is None else needed(name)
    bounds = _bounds(bounds, own)
    empty = 0 in own
    return wanted is None or empty or any(overlap(bounds, each) is not None for each in wanted)


def _finished(array, needed, folder):
    """The array as NumPy's, if all of it is needed; else checked for the parts that are."""
    wanted = None if needed is None else needed(array.name)
    everything = _bounds(None, array.value.shape)
    try:
        if wanted is None or everything in wanted:
            return array._replace(value=np.asarray(array.value))
        for part in wanted:
            array.value[tuple(slice(*each) for each in part)]
    except ValueError as error:
        raise Damaged(f"{folder} is damaged: of {array.name} {error}.") from error
    return array
