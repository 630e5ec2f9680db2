"""What a checkpoint keeps besides variables: states of callbacks, the model's config, versions."""

import collections
import importlib.metadata
import itertools

import keras
import numpy as np

from artifex_keras import backend
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.checkpoint.trees import pack
from artifex_keras.utils import warn

__all__ = [
    "Unkept",
    "callback_state",
    "config_of",
    "model_description",
    "named_callbacks",
    "set_callback_states",
    "packable_or_none",
    "versions",
    "why_ended",
]

# The attributes in which Keras's own callbacks carry their state from epoch to epoch.
KERAS_ATTRIBUTES = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "best_weights", "stopped_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best",),
}

KERAS_OWN = {"params", "_model", "_trainer", "validation_data"}  # attributes of each callback
MARKED_BYTES, MARKED_ITEMS = 2**12, 64  # how much of an attribute is looked at


def named_callbacks(callbacks):
    """Pairs of a name and a callback; a name such as "EarlyStopping-1" is the same in each run."""
    times = {}
    for callback in callbacks:
        kind = type(callback).__name__
        times[kind] = times.get(kind, 0) + 1
        yield f"{kind}-{times[kind]}", callback


def _keras_attributes(callback):
    kinds = (kind for kind in KERAS_ATTRIBUTES if isinstance(callback, kind))
    return KERAS_ATTRIBUTES.get(next(kinds, None), ())


def keeps_state(callback):
    """Whether `callback` defines `get_state` and `set_state`, or is one of Keras's with a state."""
    both = _defines_get_state(callback) and hasattr(callback, "set_state")
    return both or bool(_keras_attributes(callback))


def callback_state(callback):
    """What `callback` must keep across a resume: its `get_state()`, or what Keras's own need."""
    if hasattr(callback, "get_state"):
        return callback.get_state()
    return {key: getattr(callback, key, None) for key in _keras_attributes(callback)}


def set_callback_states(callbacks, states, unkept):
    """Gives each of `callbacks` its state of `callback_state`, and warns of those without one.

    Args:
        callbacks: all callbacks of the `fit`.
        states: the states in the checkpoint, a dict by the names of `named_callbacks`.
        unkept: what `Unkept.find` gave when the checkpoint was written.
    """
    dropped, anew = {name for name, state in states.items() if state}, []
    for name, callback in named_callbacks(callbacks):
        dropped.discard(name)
        if states.get(name) and keeps_state(callback):
            _set_callback_state(callback, states[name])
        elif states.get(name) or (name not in states and keeps_state(callback)):
            anew.append(name)
        if name in unkept:
            anew.append(f"{name} ({', '.join(unkept[name])})")
    if anew:
        warn(f"The checkpoint has no state of {', '.join(anew)}: begun anew, not resumed.")
    if dropped:
        warn(
            f"The checkpoint has states of {', '.join(sorted(dropped))}, which this `fit` doesn't "
            "have among its callbacks: they are dropped."
        )


def why_ended(callbacks):
    """Why one of `callbacks`, with the states of a checkpoint, has ended its run; None if none has.

    Keras's early stopping has, if it stopped and wouldn't wait longer by its `patience` of now.
    """
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.EarlyStopping):
            if callback.stopped_epoch > 0 and callback.wait >= callback.patience:
                return f"`{callback.monitor}` has not improved for {callback.wait} epochs"
        elif getattr(callback, "ended", None):
            return callback.ended
    return None


def _set_callback_state(callback, state):
    if hasattr(callback, "set_state"):
        callback.set_state(state)
        return
    for key in _keras_attributes(callback):
        setattr(callback, key, state[key])


def _defines_get_state(callback):
    """Whether its class has a `get_state` of its own, which may say that there is nothing."""
    own = getattr(type(callback), "get_state", None)
    return own not in (None, BaseCallback.get_state)


class Unkept:
    """Finds attributes of callbacks that change in a run and that no checkpoint keeps.

    Args:
        callbacks: all callbacks of a `fit` that begins.
    """

    def __init__(self, callbacks):
        self._before = {
            name: (callback, _marks(callback))
            for name, callback in named_callbacks(callbacks)
            if not (_defines_get_state(callback) and hasattr(callback, "set_state"))
            and not type(callback).__module__.startswith(("keras.", "artifex_keras."))
        }
        self._found = {}

    def find(self, *given):
        """The attributes that have changed by now, a dict from a callback's name to a list.

        It warns once of each callback. Numbers among `given`, such as that of the running epoch,
        are what a hook has just been called with, and no state.
        """
        fresh = {}
        ignored = {_mark(number) for number in given}
        for name, (callback, before) in list(self._before.items()):
            marks = _marks(callback).items()
            changed = sorted(k for k, m in marks if m != before.get(k) and m not in ignored)
            if changed:
                fresh[name] = changed
                del self._before[name]
        if fresh:
            listed = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in fresh.items())
            warn(
                f"Checkpoints don't keep what these callbacks remember: {listed}. A resumed run "
                "begins them anew. Define both `get_state` and `set_state`, with {} for a state "
                "where there is nothing to keep."
            )
        self._found |= fresh
        return self._found


def _marks(callback):
    """A mark for each attribute that a state could hold: another value has another mark."""
    known = {*KERAS_OWN, *_keras_attributes(callback)}
    marks = {key: _mark(value) for key, value in vars(callback).items() if key not in known}
    return {key: mark for key, mark in marks.items() if mark is not None}


def _mark(value, depth=0):
    if value is None or isinstance(value, str | bytes | bool | int | float | np.generic):
        return type(value).__name__, repr(value)
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes() if value.nbytes <= MARKED_BYTES else value.shape
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, dict):
        return len(value), _mark(list(value.values()), depth)
    if isinstance(value, list | tuple | set | frozenset | collections.deque):
        ends = [*itertools.islice(value, MARKED_ITEMS)] if depth < 3 else []
        return len(value), tuple(_mark(item, depth + 1) for item in ends)
    return None


def model_description(model):
    """The model's Keras config, from which `export_checkpoint` builds it; None if it has none."""
    return packable_or_none(lambda: keras.saving.serialize_keras_object(model))


def config_of(trainer):
    """The trainer's config as a dict; None without one, or for one that isn't plain values."""
    return packable_or_none(lambda: trainer.config.to_dict())


def packable_or_none(build):
    """What `build()` gives, if a checkpoint can keep it; else None."""
    try:
        tree = build()
        pack(tree, [], "tree")
        return tree
    except Exception:  # a user's class without `get_config`, or with objects in it
        return None


def versions():
    """The versions of the packages that a checkpoint depends on, a dict."""
    found = {"backend": backend.name(), "numpy": np.__version__}
    for name in ("artifex-keras", "keras", "jax", "orbax-checkpoint"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
