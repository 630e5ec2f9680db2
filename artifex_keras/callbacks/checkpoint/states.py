"""What a checkpoint keeps besides variables: states of callbacks, the model's config, versions."""

import importlib.metadata

import keras
import numpy as np

from artifex_keras.callbacks.checkpoint.arrays import packed

__all__ = [
    "callback_state",
    "config_of",
    "model_description",
    "named_callbacks",
    "set_callback_state",
    "versions",
]

# What Keras's own callbacks carry from epoch to epoch.
KEPT_BY_KERAS = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "best_weights", "stopped_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best",),
}


def named_callbacks(callbacks):
    """Callbacks with names that they have in the next process too."""
    times = {}
    for callback in callbacks:
        kind = type(callback).__name__
        times[kind] = times.get(kind, 0) + 1
        yield f"{kind}-{times[kind]}", callback


def _kept_by_keras(callback):
    kinds = (kind for kind in KEPT_BY_KERAS if isinstance(callback, kind))
    return KEPT_BY_KERAS.get(next(kinds, None), ())


def callback_state(callback):
    if hasattr(callback, "get_state"):
        return callback.get_state()
    return {key: getattr(callback, key, None) for key in _kept_by_keras(callback)}


def set_callback_state(callback, state):
    if hasattr(callback, "set_state"):
        callback.set_state(state)
        return
    for key in _kept_by_keras(callback):
        setattr(callback, key, state[key])


def model_description(model):
    """The model as Keras describes it, None if it can't."""
    return _kept_or_none(lambda: keras.saving.serialize_keras_object(model))


def config_of(trainer):
    """The trainer's config as a dict, None without one that can be written down."""
    return _kept_or_none(lambda: trainer.config.to_dict())


def _kept_or_none(make):
    try:
        made = make()
        packed(made, [], "made")
        return made
    except Exception:  # a user's class without `get_config`, or with objects in it
        return None


def versions():
    found = {"backend": keras.config.backend(), "numpy": np.__version__}
    for name in ("artifex-keras", "keras", "jax", "orbax-checkpoint"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
