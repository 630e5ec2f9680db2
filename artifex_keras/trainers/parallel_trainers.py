"""Training on many devices: any family, on a mesh that the trainer sets up."""

from artifex_keras.distributed import DeviceMesh, data_parallel, model_parallel
from artifex_keras.trainers.trainer import Trainer

__all__ = ["DataParallelTrainer", "ModelParallelTrainer"]


def _reject_distribution(trainer, common):
    if "distribution" in common:
        raise ValueError(
            f"{type(trainer).__name__} makes its own `distribution`: give it to another trainer."
        )


class DataParallelTrainer(Trainer):
    """Trains on several devices, each with its share of every batch and all of the weights.

    The numbers are those of one device with the same config. `batch_size` is that of all devices
    together. For a family's own settings give its trainer `distribution=data_parallel(...)`.

    Args:
        model: any `GenerativeModel`, built or not.
        config: see `Trainer`.
        train_dataset: see `Trainer`.
        val_dataset: see `Trainer`.
        num_devices: how many; None takes all.
        **common: see `Trainer`.

    Raises:
        ValueError: for more devices than there are.
    """

    def __init__(
        self, model, config, train_dataset, val_dataset=None, *, num_devices=None, **common
    ):
        _reject_distribution(self, common)
        common["distribution"] = data_parallel(num_devices)
        super().__init__(model, config, train_dataset, val_dataset, **common)


class ModelParallelTrainer(Trainer):
    """Trains a model that is cut over a mesh of devices: its weights, and what is kept of them.

    Args:
        model: any `GenerativeModel`, built or not.
        config: see `Trainer`.
        train_dataset: see `Trainer`.
        val_dataset: see `Trainer`.
        mesh_shape: devices along each axis, (2, 4) say: batches are cut along the first, layers
            along the second.
        axis_names: names of the axes.
        layout_map: layouts that override those of `distributed.auto_layout_map`.
        fsdp: whether weights are cut along the first axis too.
        **common: see `Trainer`.

    Raises:
        ValueError: for a mesh of more devices than there are, and a `layout_map` that doesn't fit.
    """

    def __init__(
        self,
        model,
        config,
        train_dataset,
        val_dataset=None,
        *,
        mesh_shape,
        axis_names=("data", "model"),
        layout_map=None,
        fsdp=True,
        **common,
    ):
        _reject_distribution(self, common)
        mesh = DeviceMesh(mesh_shape, tuple(axis_names)[: len(mesh_shape)])
        common["distribution"] = model_parallel(mesh, layout_map=layout_map, fsdp=fsdp)
        super().__init__(model, config, train_dataset, val_dataset, **common)
