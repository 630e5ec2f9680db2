"""Checkpoints after the run: load one into a model, or export it as a `.keras` file."""

import keras

from artifex_keras.aliases import FilePath
from artifex_keras.arguments import checked, choice, file_path, folder_path, instance_of, integer
from artifex_keras.atomic import atomic_file
from artifex_keras.callbacks.checkpoint.arrays import restore
from artifex_keras.callbacks.checkpoint.kept import kept_in
from artifex_keras.callbacks.checkpoint.orbax_files import Damaged
from artifex_keras.callbacks.checkpoint.parts import needed_by
from artifex_keras.callbacks.checkpoint.remote_store import store_in
from artifex_keras.callbacks.checkpoint.settings import Settings
from artifex_keras.callbacks.checkpoint.states import model_description

__all__ = ["export_checkpoint", "restore_checkpoint"]


def _step_rule(name, value):
    """The rule of a checkpoint's name: "newest", "best" or its number."""
    if isinstance(value, str):
        return choice(name, value, ("newest", "best"))
    return integer(name, value)


@checked(
    model=instance_of(keras.Layer, what="a Keras model"), save_dir=folder_path, step=_step_rule
)
def restore_checkpoint(model: keras.Model, save_dir: FilePath, step: int | str = "newest"):
    """Loads weights, optimizer and seeds of a checkpoint into a model of the same architecture.

    Args:
        model: a compiled model. If it isn't built, it is built for the data of the checkpoint.
        save_dir: the folder of the `CheckpointCallback`, a path or an address.
        step: "newest", "best", or the number in the name of the checkpoint's folder.

    Returns:
        The step of the checkpoint, an int.

    Raises:
        ValueError: if there is no such checkpoint, if it is damaged, or if it is of a different
            model, with the differences.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        def build():
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
            model.compile("adam", "mse")
            return model

        x = np.random.default_rng(0).normal(size=(32, 4))
        trained, other = build(), build()
        trained.fit(x, x[:, :1], verbose=0, callbacks=[ak.callbacks.CheckpointCallback("run")])
        assert ak.callbacks.restore_checkpoint(other, "run") == 1
        np.testing.assert_array_equal(other.get_weights()[0], trained.get_weights()[0])
        ```
    """
    if getattr(model, "optimizer", None) is None:
        raise ValueError("`model` must be compiled: a checkpoint has an optimizer's state as well.")
    built = model.built and model.optimizer.built
    step, named_arrays, kept = _load(save_dir, step, needed_by(model) if built else None)
    _build(model, kept["model"])
    settings = Settings(model, model_description(model))
    settings.resume(model, named_arrays, kept, save_dir, "model", "optimizer")
    return step


@checked(save_dir=folder_path, path=file_path, step=_step_rule)
def export_checkpoint(
    save_dir: FilePath,
    path: FilePath,
    step: int | str = "newest",
    *,
    model: keras.Model | None = None,
):
    """Writes a checkpoint as a `.keras` file, which `keras.saving.load_model` reads.

    Args:
        save_dir: the folder of the `CheckpointCallback`, a path or an address.
        path: the file to write.
        step: "newest", "best", or the number in the name of the checkpoint's folder.
        model: a compiled model for the weights. By default it is built from the config in
            the checkpoint; Keras must find its classes, as for `load_model`.

    Returns:
        The path.

    Raises:
        ValueError: as `restore_checkpoint`; also without `model` if the checkpoint has no config.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(32, 4))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        model.fit(x, x[:, :1], verbose=0, callbacks=[ak.callbacks.CheckpointCallback("run")])
        loaded = keras.saving.load_model(ak.callbacks.export_checkpoint("run", "model.keras"))
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
        ```
    """
    step, named_arrays, kept = _load(save_dir, step)
    config = kept["model"]
    if model is None:
        if config is None:
            raise ValueError("The checkpoint has no config of its model: pass `model`.")
        model = keras.saving.deserialize_keras_object(_without_inner_builds(config))
    _build(model, config)
    restore(model, named_arrays, "model", "optimizer")
    with atomic_file(path) as temporary:
        model.save(temporary)
    return path


def _without_inner_builds(config):
    """A model's config in which a Sequential builds its layers itself.

    Keras would build them before, outside the Sequential's name scope: with other names.
    """
    if isinstance(config, list):
        return [_without_inner_builds(value) for value in config]
    if not isinstance(config, dict):
        return config
    config = {key: _without_inner_builds(value) for key, value in config.items()}
    layers = config.get("layers")
    if isinstance(layers, list) and not any("inbound_nodes" in layer for layer in layers):
        config["layers"] = [
            {key: value for key, value in layer.items() if key != "build_config"}
            for layer in layers
        ]
    return config


def _load(save_dir, step, needed=None):
    store = store_in(save_dir)
    steps = {"newest": store.steps()[:1], "best": store.best()[:1]}.get(step, [step])
    if not steps or steps[0] not in store.steps():
        raise ValueError(
            f"`step`: there is no checkpoint {step!r} in {str(save_dir)!r}. "
            f"There are: {store.steps()}."
        )
    try:
        named_arrays, meta = store.load(steps[0], needed)
        return steps[0], named_arrays, kept_in(named_arrays, meta, store.path(steps[0]))
    except Damaged as error:
        raise ValueError(str(error)) from error


def _build(model, config):
    """Builds a model for the data of the checkpoint, whose config says its shape; its optimizer."""
    shapes = (config or {}).get("build_config")
    if shapes and not model.built:
        model.build_from_config(shapes)
    if getattr(model, "optimizer", None) is None or model.optimizer.built:
        return
    if hasattr(model, "build_optimizer"):  # ours, which may have several optimizers
        model.build_optimizer()
    else:
        model.optimizer.build(model.trainable_variables)
