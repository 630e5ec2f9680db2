"""What a checkpoint keeps besides variables: states of callbacks, the model's config, versions."""

import importlib.metadata
import warnings

import keras
import numpy as np

from artifex_keras import backend
from artifex_keras.callbacks.checkpoint.arrays import pack

__all__ = [
    "callback_state",
    "config_of",
    "model_description",
    "named_callbacks",
    "set_callback_state",
    "versions",
    "warn_of_changed_settings",
]

# The attributes in which Keras's own callbacks carry their state from epoch to epoch.
KERAS_ATTRIBUTES = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "best_weights", "stopped_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best",),
}

# Settings that a resumed run may change: the numbers don't depend on them.
CHANGEABLE = {
    *("num_epochs", "checkpoint_dir", "max_checkpoints", "log_frequency", "verbose"),
    *("save_frequency", "save_every_n_steps", "save_every_n_minutes", "save_best"),
}


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


def callback_state(callback):
    """What `callback` must keep across a resume: its `get_state()`, or what Keras's own need."""
    if hasattr(callback, "get_state"):
        return callback.get_state()
    return {key: getattr(callback, key, None) for key in _keras_attributes(callback)}


def set_callback_state(callback, state):
    """Gives `callback` a state of `callback_state`."""
    if hasattr(callback, "set_state"):
        callback.set_state(state)
        return
    for key in _keras_attributes(callback):
        setattr(callback, key, state[key])


def model_description(model):
    """The model's Keras config, from which `export_checkpoint` builds it; None if it has none."""
    return _packable_or_none(lambda: keras.saving.serialize_keras_object(model))


def config_of(trainer):
    """The trainer's config as a dict; None without one, or for one that isn't plain values."""
    return _packable_or_none(lambda: trainer.config.to_dict())


def warn_of_changed_settings(then, now):
    """Warns of settings of a resumed run, dicts or None, that change its numbers."""
    then, now = then or {}, now or {}
    changed = sorted(k for k in now.keys() & then.keys() - CHANGEABLE if now[k] != then[k])
    if changed:
        changes = ", ".join(f"{key} was {then[key]!r} and is {now[key]!r}" for key in changed)
        warnings.warn(f"The run resumes with other settings: {changes}.", stacklevel=2)


def _packable_or_none(build):
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
