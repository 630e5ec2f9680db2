"""The newest checkpoint that can be read, by one process or by all of a group."""

import warnings

from artifex_keras.backend import processes
from artifex_keras.callbacks.checkpoint.arrays import NamedArray
from artifex_keras.callbacks.checkpoint.kept import kept_in
from artifex_keras.callbacks.checkpoint.orbax_files import Damaged

__all__ = ["newest", "newest_of_all"]


def newest(store):
    """`(named_arrays, meta)` of the newest readable checkpoint, None where there is none.

    In a group the first process reads, and the others get what it has read; all call it. A damaged
    checkpoint is skipped with a warning.

    Raises:
        ValueError: if there are checkpoints and all of them are damaged.
    """
    return _newest(store, lambda step: _sent(store, step))


def newest_of_all(store, needed):
    """`newest` in each process of a group, which reads what it needs; all call it.

    A checkpoint that one of them can't read is skipped by all. One that a single process has
    written is read as by `newest`.

    Args:
        store: the checkpoints, in a folder that all see.
        needed: gives `needed` for `Store.load`.
    """

    def load(step):
        if not processes.on_first_process(lambda: store.is_in_parts(step)):
            return _sent(store, step)
        found, damage = _loaded(store, step, needed())
        damages = [each for each in processes.gather(damage) if each is not None]
        return found, damages[0] if damages else None

    return _newest(store, load)


def _newest(store, load):
    steps = processes.on_first_process(store.steps)
    for step in steps:
        found, damage = load(step)
        if damage is None:
            return found
        if not processes.index():
            warnings.warn(f"{damage} Trying the one before.", stacklevel=4)
    if steps:
        raise ValueError(
            f'No checkpoint in {str(store.folder)!r} can be read. Start again with resume="never".'
        )
    return None


def _loaded(store, step, needed=None):
    """What `Store.load` gives and None, or None and what is wrong with it."""
    try:
        found = store.load(step, needed)
        kept_in(*found, store.path(step))
    except Damaged as damage:
        return None, str(damage)
    return found, None


def _sent(store, step):
    found, damage = processes.on_first_process(lambda: _loaded(store, step))
    if found is not None:
        named_arrays, meta = found  # as another process sends them, plain tuples
        found = [NamedArray(*each) for each in named_arrays], meta
    return found, damage
