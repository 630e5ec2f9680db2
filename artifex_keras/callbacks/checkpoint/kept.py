"""What a checkpoint keeps beside the variables, as it comes from a file: checked before its use.

A checksum says that a file is what was written, not that one of us wrote it.
"""

import random

import numpy as np

from artifex_keras.arguments import shown
from artifex_keras.callbacks.checkpoint.orbax_files import Damaged, first_line
from artifex_keras.callbacks.checkpoint.trees import unpack

__all__ = ["kept_in"]

MOST = 10**8  # epochs, passes and batches, through which a resume may count


def kept_in(named_arrays, meta, place):
    """The tree that a checkpoint keeps.

    Args:
        named_arrays, meta: what `Store.load` gives.
        place: the checkpoint, for the error.

    Raises:
        Damaged: if it is none that a `CheckpointCallback` writes.
    """
    arrays = {array.name: array.value for array in named_arrays}
    try:
        kept = unpack(meta["kept"], arrays)
    except Exception as error:  # a tree of somebody else's can raise anything
        raise Damaged(f"{place} can't be read: {first_line(error)}") from error
    for rules, values in ((KEPT, kept), (POSITION, _get(kept, "position"))):
        for name, (fits, needed) in rules.items():
            if not isinstance(values, dict) or (name not in values and needed):
                raise Damaged(f"{place} is damaged: it has no {name!r}.")
            if name in values and not fits(values[name]):
                raise Damaged(f"{place} is damaged: its {name!r} is {shown(values[name])}.")
    return kept


def _get(kept, name):
    return kept.get(name) if isinstance(kept, dict) else None


def _is(*kinds):
    return lambda value: isinstance(value, kinds)


def _is_dict_or_none(value):
    return value is None or isinstance(value, dict)


def _is_number_or_none(value):
    return value is None or (isinstance(value, int | float | np.number) and value is not True)


def _counts(value):
    return type(value) is int and 0 <= value <= MOST


def _counts_or_none(value):
    return value is None or _counts(value)


def _is_history(value):
    rows, epochs = _get(value, "rows"), _get(value, "epoch")
    lists = isinstance(rows, dict) and all(isinstance(row, list) for row in rows.values())
    return lists and isinstance(epochs, list)


def _are_settings(value):
    optimizer, rates, config = (
        _get(value, key) for key in ("optimizer", "learning_rates", "config")
    )
    return isinstance(rates, dict) and _is_dict_or_none(optimizer) and _is_dict_or_none(config)


def _are_states(value):
    """Whether the random generators would take them."""
    try:
        name, keys, place, has_gauss, gauss = value["numpy"]
        version, state, gauss_next = value["python"]
        np.random.RandomState().set_state((name, keys, int(place), int(has_gauss), gauss))
        random.Random().setstate((version, tuple(int(word) for word in state), gauss_next))
        np.array(value.get("torch", ()), "uint8")
        return all(isinstance(states, list) for states in value.get("own", []))  # by process
    except Exception:
        return False


def _are_states_or_none(value):
    return value is None or _are_states(value)


def _is_note(value):
    """Whether a data source may be set to it: see `seeking.py`."""
    if not isinstance(value, dict):
        return value is None
    if "random" in value:
        return _are_states(value["random"])
    states = value.get("iterators", [])
    return isinstance(states, list) and all(isinstance(state, dict | str) for state in states)


# By name: what fits, and whether it must be there; earlier versions lack some.
KEPT = {
    "position": (_is(dict), True),
    "history": (_is_history, True),
    "callbacks": (_is(dict), True),
    "model": (_is_dict_or_none, True),
    "best": (_is_number_or_none, True),
    "unkept": (_is(dict), False),
    "settings": (_are_settings, False),
    "config": (_is_dict_or_none, False),
}
POSITION = {
    **dict.fromkeys(("epoch", "batch", "rounds", "passes", "read"), (_counts, True)),
    "running": (_is(bool), True),
    "print": (_is_number_or_none, True),
    "first": (_is_number_or_none, False),
    "note": (_is_note, False),
    "random": (_are_states, True),
    "pass": (_are_states_or_none, False),
    "steps": (_counts_or_none, True),
}
