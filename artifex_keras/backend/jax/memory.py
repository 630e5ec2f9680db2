"""Memory that a CPU's process keeps from step to step.

XLA allocates the temporaries of a program anew at each call. glibc gives large blocks back to the
kernel when they are freed, and gets them zeroed, page by page, at the next: a third of the time of
a transformer's step. So before the first step we ask glibc to keep them.

What programs need at once stays with the process, at most `KEPT` of it at the heap's end. Blocks
above 64 MB that XLA's own threads allocate, as for convolutions, are returned all the same: only
one arena for all threads would keep them, and glibc must know of that before those threads begin.
So who wants it sets `MALLOC_ARENA_MAX=1`, and with it the settings below, before Python starts.
"""

import ctypes
import functools
import os

import jax

__all__ = ["SWITCH", "keep_memory"]

SWITCH = "ARTIFEX_KERAS_KEEP_MEMORY"  # the environment's variable; 0 leaves the allocator alone
KEPT = 1 << 30  # bytes
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # numbers of glibc's malloc.h
PADDING = 64 << 20  # bytes by which the heap grows, and a thread's heap stays


@functools.cache
def keep_memory():
    """Lets glibc keep freed memory, where JAX computes on a CPU; whether it does.

    Elsewhere nothing happens, nor where the environment sets the allocator itself (`MALLOC_...`,
    `GLIBC_TUNABLES`) or says `ARTIFEX_KERAS_KEEP_MEMORY=0`.
    """
    if jax.default_backend() != "cpu" or not _may_set() or not _glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {MMAP_MAX: 0, TRIM_THRESHOLD: KEPT, TOP_PAD: PADDING}
    return all([mallopt(name, value) for name, value in settings.items()])


def _may_set():
    own = any(name.startswith("MALLOC_") for name in os.environ)
    own = own or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return not own and os.environ.get(SWITCH, "1") != "0"


def _glibc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows; macOS and musl
        return False
