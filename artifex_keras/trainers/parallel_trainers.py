"""Training on many devices: any family, on a mesh that the trainer sets up."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from artifex_keras.aliases import Data
from artifex_keras.config import TrainingConfig
from artifex_keras.distributed import DeviceMesh, data_parallel, model_parallel
from artifex_keras.distributed.mesh import mesh_axes_of
from artifex_keras.trainers.trainer import Trainer

__all__ = ["DataParallelTrainer", "ModelParallelTrainer"]


def _reject_distribution(trainer, common):
    if "distribution" in common:
        raise ValueError(
            f"{type(trainer).__name__} makes its own `distribution`: give it to another trainer."
        )


class DataParallelTrainer(Trainer):
    """Trains by data parallelism: batches are sharded over devices, weights replicated.

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

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        encoder = ak.networks.mlp_encoder((6,), 2, (8,))
        vae = ak.VAE(encoder, ak.networks.mlp_decoder(2, (6,), (8,)))
        x = np.random.default_rng(0).uniform(size=(64, 6)).astype("float32")
        trainer = ak.DataParallelTrainer(vae, {"num_epochs": 1, "verbose": 0}, x, num_devices=1)
        trainer.train()
        ```
    """

    def __init__(
        self,
        model: keras.Model,
        config: TrainingConfig | Mapping[str, Any],
        train_dataset: Data,
        val_dataset: Data = None,
        *,
        num_devices: int | None = None,
        **common: Any,
    ):
        _reject_distribution(self, common)
        common["distribution"] = data_parallel(num_devices)
        super().__init__(model, config, train_dataset, val_dataset, **common)


class ModelParallelTrainer(Trainer):
    """Trains by FSDP and tensor parallelism: weights, optimizer and average sharded over a mesh.

    Args:
        model: any `GenerativeModel`, built or not.
        config: see `Trainer`.
        train_dataset: see `Trainer`.
        val_dataset: see `Trainer`.
        mesh_shape: devices along each axis, such as (2, 4): batches are sharded over the first,
            layers over the second. Of three, as in (2, 16, 8), batches are sharded over the first
            two, weights over the second, layers over the third. A dict names its axes, as
            {"data": 2, "context": 4} for long rows, see `distributed.model_parallel`.
        axis_names: names of the axes; "replica" stands before these two where there are three.
        layout_map: layouts that override those of `distributed.auto_layout_map`.
        fsdp: whether weights are sharded over the data axis too.
        rollout_mesh: how devices are grouped while a policy samples, as in (1, 8), see
            `distributed.model_parallel`; for algorithms that learn from its own completions.
        **common: see `Trainer`.

    Raises:
        ValueError: for a mesh of more devices than there are, and a `layout_map` that doesn't fit.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        encoder = ak.networks.mlp_encoder((6,), 2, (8,))
        vae = ak.VAE(encoder, ak.networks.mlp_decoder(2, (6,), (8,)))
        x = np.random.default_rng(0).uniform(size=(64, 6)).astype("float32")
        trainer = ak.ModelParallelTrainer(
            vae, {"num_epochs": 1, "verbose": 0}, x, mesh_shape=(1, 1)  # (2, 4) on eight devices
        )
        trainer.train()
        ```
    """

    def __init__(
        self,
        model: keras.Model,
        config: TrainingConfig | Mapping[str, Any],
        train_dataset: Data,
        val_dataset: Data = None,
        *,
        mesh_shape: Sequence[int] | Mapping[str, int],
        axis_names: Sequence[str] = ("data", "model"),
        layout_map: Mapping[str, Any] | None = None,
        fsdp: bool = True,
        rollout_mesh: Sequence[int] | Mapping[str, int] | None = None,
        **common: Any,
    ):
        _reject_distribution(self, common)
        if isinstance(mesh_shape, Mapping):
            mesh_shape, axis_names = mesh_axes_of("mesh_shape", mesh_shape)
        if len(mesh_shape) == 3 and tuple(axis_names) == ("data", "model"):
            axis_names = ("replica", *axis_names)
        mesh = DeviceMesh(mesh_shape, tuple(axis_names)[: len(mesh_shape)])
        rules = {"layout_map": layout_map, "fsdp": fsdp, "rollout_mesh": rollout_mesh}
        common["distribution"] = model_parallel(mesh, **rules)
        super().__init__(model, config, train_dataset, val_dataset, **common)
