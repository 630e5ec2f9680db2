"""Memory that a CPU's process keeps from step to step.

XLA allocates the temporaries of a program anew at each call. glibc gives large blocks back to the
kernel when they are freed, and gets them zeroed, page by page, at the next: a third of the time of
a transformer's step. So before the first step we ask glibc to keep them.

What programs need at once stays with the process, at most `KEPT` of it at the heap's end. XLA's
threads would each get a heap of their own, of at most 64 MB; what is larger would be returned all
the same. So when the package is imported, before those threads begin, we ask for one heap for all.
A process that computed with JAX before doesn't gain that.
"""

import ctypes
import functools
import importlib.metadata
import importlib.util
import os

import jax

__all__ = ["SWITCH", "keep_memory", "share_one_heap"]

SWITCH = "ARTIFEX_KERAS_KEEP_MEMORY"  # the environment's variable; 0 leaves the allocator alone
KEPT = 1 << 30  # bytes
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8  # numbers of glibc's malloc.h
PADDING = 64 << 20  # bytes by which the heap grows, and a thread's heap stays


@functools.cache
def keep_memory():
    """Lets glibc keep freed memory, where JAX computes on a CPU; whether it does.

    Elsewhere nothing happens, nor where the environment sets the allocator itself (`MALLOC_...`,
    `GLIBC_TUNABLES`) or says `ARTIFEX_KERAS_KEEP_MEMORY=0`.
    """
    if jax.default_backend() != "cpu" or not _may_set() or not _glibc():
        return False
    return _set({MMAP_MAX: 0, TRIM_THRESHOLD: KEPT, TOP_PAD: PADDING})


def share_one_heap():
    """Lets all threads allocate from one heap, where JAX will compute on a CPU; whether they do.

    JAX isn't started for that: it computes on a CPU if that is asked for or nothing else is there.
    """
    if not _cpu_alone() or not _may_set() or not _glibc():
        return False
    return _set({ARENA_MAX: 1})


def _set(settings):
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(name, value) for name, value in settings.items()])


def _cpu_alone():
    if jax.config.jax_platforms:
        return jax.config.jax_platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))


def _may_set():
    own = any(name.startswith("MALLOC_") for name in os.environ)
    own = own or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return not own and os.environ.get(SWITCH, "1") != "0"


def _glibc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows; macOS and musl
        return False
