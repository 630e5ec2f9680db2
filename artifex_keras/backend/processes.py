"""A run of several processes: who they are, and how they agree.

All but `count`, `index`, `devices`, `host`, `leave`, `by_itself`, `holders`, `held` and `needed`
must be called by all processes, in the same order. With one process each is the identity, or
nothing.

`connect(coordinator, count, index, heartbeat, patience, bound=None)`
    makes this process one of a group; the first one listens on the address `bound`.
`count()`, `index()`
    how many processes there are, and which of them this one is.
`devices()`
    the names of the devices of each process, a list for each.
`host()`
    the address of the first process, at which the others reach it.
`gather(value)`
    the values of all processes, a list in their order: numbers, strings, arrays, trees of those.
    Arrays come as NumPy's, and named tuples as tuples. So it is with `on_first_process`.
`broadcast(data)`
    the bytes of the first process; what others give is ignored.
`stop_agreed()`
    whether all stop here, because one of them has got SIGTERM: at the same call in each.
`to_host_array(array)`
    an array of which each process has a part as NumPy's, in all of them.
`assign(variable, value)`
    puts a NumPy array that all have into a variable of which each has a part; also what has a shape
    and gives those parts by slices.
`holders(array)`
    which processes hold which part of an array: a dict from the bounds of each part, a pair for
    each axis, to a set. Of an array that isn't the group's, such as NumPy's, the first one does.
`held(array, bounds)`
    a part that this process holds, as NumPy's.
`needed(array)`
    the bounds of the parts that this process has to have on its devices, a set.
`check_counts(batches)`
    raises in all where they have not as many batches; None is a number that isn't known.
`raise_together(error, failed)`
    raises `error`, which one process may have and others not (None), in all of them; there it is a
    RuntimeError that says "Process 1" and what it has `failed` to do.
`shard_rows(batches, expected, own=False, sure=False)`
    batches that all have, each of them as one of which every process has its own rows on its
    devices. `expected` is how many there are, None where that isn't known; with `own` each process
    gives only its own rows; `sure` says that none can fail, so that they needn't ask each other at
    each one.
"""

import contextlib
import contextvars
import os
import sys

import keras

from artifex_keras.backend import choice, single_process
from artifex_keras.backend.messages import pack, pack_error, unpack, unpack_error

_framework = choice.part("processes") if choice.name() == "jax" else single_process

assign = _framework.assign
broadcast = _framework.broadcast
check_counts = _framework.check_counts
connect = _framework.connect
count = _framework.count
gather = _framework.gather
devices = _framework.devices
held = _framework.held
host = _framework.host
holders = _framework.holders
index = _framework.index
needed = _framework.needed
raise_together = _framework.raise_together
shard_rows = _framework.shard_rows
stop_agreed = _framework.stop_agreed
to_host_array = _framework.to_host_array

__all__ = [
    "assign",
    "broadcast",
    "by_itself",
    "check_counts",
    "connect",
    "count",
    "devices",
    "gather",
    "held",
    "holders",
    "host",
    "index",
    "leave",
    "needed",
    "on_first_process",
    "raise_together",
    "shard_rows",
    "stop_agreed",
    "to_host_array",
    "undistributed",
]


_by_itself = contextvars.ContextVar("by_itself", default=False)


@contextlib.contextmanager
def by_itself():
    """Inside, what is meant for the first process is done by this one, which asks no other."""
    token = _by_itself.set(True)
    try:
        yield
    finally:
        _by_itself.reset(token)


def on_first_process(work):
    """What `work()` gives in the first process, the only one that does it, in all of them.

    What it raises there is raised in all; a kind of error that isn't Python's own becomes the
    nearest of these in the others.
    """
    if count() == 1 or _by_itself.get():
        return work()
    error, message = None, b""
    if index() == 0:
        try:
            message = b"+" + pack(work())
        except Exception as failure:
            error, message = failure, b"-" + pack_error(failure)
    message = broadcast(message)
    if message[:1] == b"-":
        raise error or unpack_error(message[1:])
    return unpack(message[1:])


@contextlib.contextmanager
def undistributed():
    """Inside, what one of several processes makes by itself lies on its own devices.

    Under a distribution, variables that it makes (Keras makes some to save a model) would wait for
    the other processes to make them too.
    """
    if count() == 1:
        yield
        return
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def leave(code):
    """Ends one of several processes at once, with the exit code; a single process goes on.

    After an error it mustn't wait for the others, as an orderly exit does: they may be waiting for
    it in the middle of a step.
    """
    if _framework.connected():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
