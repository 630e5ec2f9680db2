"""What a checkpoint is good for after the run: a model with its weights, a `.keras` file."""

import keras

from artifex_keras.callbacks.checkpoint.arrays import restore, unpacked
from artifex_keras.callbacks.checkpoint.store import Damaged, Store

__all__ = ["export_checkpoint", "restore_checkpoint"]


def restore_checkpoint(model, save_dir, step="newest"):
    """Puts a checkpoint's weights, optimizer and seeds into a model like the one that was saved.

    Args:
        model: a compiled model, built like that one (its family's `build`, or a first call).
        save_dir: the folder of the `CheckpointCallback`.
        step: "newest", "best", or the number in the folder's name.

    Returns:
        the step.

    Raises:
        ValueError: without such a checkpoint, for a damaged one, and for one of another model, with
            what differs.
    """
    step, leaves, _ = _chosen(save_dir, step)
    _build_optimizer(model)
    restore(model, leaves, "model", "optimizer")
    return step


def export_checkpoint(save_dir, path, step="newest", *, model=None):
    """Writes a checkpoint as a `.keras` file, which `keras.saving.load_model` reads.

    Args:
        save_dir: the folder of the `CheckpointCallback`.
        path: the file to write.
        step: "newest", "best", or the number in the folder's name.
        model: a built and compiled model for the weights. By default it is made as the checkpoint
            describes it, which needs classes that Keras can find, as for `load_model`.

    Returns:
        the path.
    """
    step, leaves, meta = _chosen(save_dir, step)
    if model is None:
        arrays = {leaf.name: leaf.value for leaf in leaves}
        described = unpacked(meta["kept"], arrays)["model"]
        if described is None:
            raise ValueError("The checkpoint doesn't describe its model: give `model`.")
        model = keras.saving.deserialize_keras_object(described)
    _build_optimizer(model)
    restore(model, leaves, "model", "optimizer")
    model.save(path)
    return path


def _chosen(save_dir, step):
    store = Store(save_dir)
    steps = {"newest": store.steps()[:1], "best": store.best()[:1]}.get(step, [step])
    if not steps or steps[0] not in store.steps():
        raise ValueError(
            f"There is no checkpoint {step!r} in {str(save_dir)!r}. There are: {store.steps()}."
        )
    try:
        return steps[0], *store.load(steps[0])
    except Damaged as error:
        raise ValueError(str(error)) from error


def _build_optimizer(model):
    if getattr(model, "optimizer", None) is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
