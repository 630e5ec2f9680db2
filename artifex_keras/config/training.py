"""`TrainingConfig`: the fields of a run, and the rule of each."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from artifex_keras.aliases import FilePath
from artifex_keras.arguments import (
    boolean,
    choice,
    folder_path,
    integer,
    number,
    optional,
    random_seed,
)
from artifex_keras.atomic import user_path, write_text
from artifex_keras.config.assembly import assemble_optimizer
from artifex_keras.config.named import OptimizerConfig, SchedulerConfig, check_names
from artifex_keras.config.text import dump_yaml, plain_value
from artifex_keras.remote import is_address
from artifex_keras.trust import read_yaml

__all__ = ["RULES", "TrainingConfig"]

# What a field accepts: `rule(name, value)` gives the value to keep, or raises.


def _count(minimum, optional=False):
    def rule(name, value):
        return integer(name, value, minimum=minimum, optional=optional)

    return rule


def _positive(name, value):
    return number(name, value, above=0.0, optional=True)


def _folder(name, value):
    if isinstance(value, str | os.PathLike) and is_address(value):
        return str(value)  # what reaches it is looked for when a run begins
    return None if value is None else user_path(optional(folder_path)(name, value))


def _verbosity(name, value):
    return choice(name, value, ("auto", 0, 1, 2))


def _on_nan(name, value):
    return choice(name, value, ("raise", "warn", "restore"))


def _remat(name, value):
    return choice(name, value, (None, "full", "dots"))


def _chunk_size(name, value):
    if isinstance(value, str):
        return choice(name, value, ("auto",))
    return integer(name, value, minimum=1, optional=True)


def _optimizer(name, value):
    return _object(name, value, OptimizerConfig, keras.optimizers.Optimizer)


def _scheduler(name, value):
    schedule = keras.optimizers.schedules.LearningRateSchedule
    return None if value is None else _object(name, value, SchedulerConfig, schedule)


def _object(name, value, config, keras_class):
    """A config object or a Keras object from a name, a dict, or itself."""
    if isinstance(value, dict) and "class_name" in value:
        value = keras.saving.deserialize_keras_object(value)
    if isinstance(value, config | keras_class):
        return value
    if isinstance(value, str):
        return config(type=value)
    if isinstance(value, dict):
        return config.from_dict(value)
    raise ValueError(
        f"`{name}` must be a name, a dict with a `type`, a {config.__name__}, or a Keras "
        f"{keras_class.__name__}. Received: {name}={value!r} of type {type(value).__name__}."
    )


RULES = {
    "batch_size": _count(1),
    "num_epochs": _count(1),
    "optimizer": _optimizer,
    "scheduler": _scheduler,
    "gradient_clip_norm": _positive,
    "checkpoint_dir": _folder,
    "save_frequency": _count(1, optional=True),
    "save_every_n_steps": _count(1, optional=True),
    "save_every_n_minutes": _positive,
    "save_best": boolean,
    "max_checkpoints": _count(1, optional=True),
    "log_frequency": _count(1),
    "verbose": _verbosity,
    "steps_per_execution": _count(1),
    "steps_per_epoch": _count(1, optional=True),
    "shuffle": boolean,
    "on_nan": _on_nan,
    "remat": _remat,
    "chunk_size": _chunk_size,
    "seed": random_seed,
}


def _check_fields(cls):
    """Unknown keyword arguments of a dataclass become an error that names the nearest fields."""
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, **values):
        check_names(values, RULES, "config key")
        init(self, **values)

    cls.__init__ = __init__
    return cls


@_check_fields
@dataclasses.dataclass(kw_only=True)
class TrainingConfig:
    """How a model is trained, for any family.

    Every field is checked where it is set, and an unknown one is an error.

    Args:
        batch_size: examples per batch, for data given as arrays. A dataset that yields batches
            (tf.data, PyDataset, DataLoader, grain) keeps its own.
        num_epochs: passes over the data.
        optimizer: a name, a dict such as `{"type": "adamw", "learning_rate": 1e-3}`, an
            `OptimizerConfig`, or a Keras optimizer.
        scheduler: None, a name, a dict such as `{"type": "cosine", "warmup_steps": 1000}`, a
            `SchedulerConfig`, or a Keras schedule. It counts updates. A schedule whose length is
            not given takes the run's.
        gradient_clip_norm: the largest global norm of the gradients of an update.
        checkpoint_dir: where a `CheckpointCallback` keeps the run, so that it can go on: a local
            folder, or an address such as "gs://bucket/run"; None keeps none.
        save_frequency: epochs between two checkpoints, None for none between. The end of the run is
            kept in any case.
        save_every_n_steps: batches between two checkpoints within an epoch.
        save_every_n_minutes: minutes between two checkpoints.
        save_best: whether the epoch with the best `val_loss` (without a `val_dataset` `loss`) is
            kept besides.
        max_checkpoints: how many to keep, the newest; None keeps all.
        log_frequency: steps between two lines of running means, at level INFO of the logger
            "artifex_keras". Where that logger is not set up, they are printed when there is no
            progress bar (`verbose=2`).
        verbose: 0 silent, 1 Keras's progress bar, 2 a line per epoch; "auto" is 1 in a terminal or
            notebook and 2 in a log file.
        steps_per_execution: batches per call of the compiled program.
        steps_per_epoch: batches per epoch, for datasets without an end; None is one pass.
        shuffle: whether arrays, and the batches of a `PyDataset`, come in a new order each epoch.
        on_nan: what is done where the loss is no number, "raise", "warn" or "restore": see
            `GenerativeModel.compile`.
        remat: "full" lets the gradient compute blocks of the model's networks once more in place of
            keeping what they make, "dots" all of a block of a `CausalTransformer` but its products
            with weights: less memory, the same numbers. None leaves the networks as they were made.
            For a `CausalTransformer`, `unet` or `dit`.
        chunk_size: how many tokens' logits exist at a time, or None for all at once, for models
            that have this option, such as `Autoregressive`, `SFT`, `DPO` and `GRPO`. "auto" leaves
            the model's own, by default "auto" too.
        seed: makes a run repeatable: order of the data, noise, dropout. Weights are drawn when the
            networks are made, so for the same weights call `keras.utils.set_random_seed` first.

    Example:

        ```python
        import artifex_keras as ak

        config = ak.TrainingConfig(
            batch_size=64,
            num_epochs=20,
            optimizer={"type": "adamw", "learning_rate": 3e-4},
            scheduler={"type": "cosine", "warmup_steps": 100},
            gradient_clip_norm=1.0,
        )
        config.to_yaml("run.yaml")
        assert ak.TrainingConfig.from_yaml("run.yaml") == config
        ```
    """

    batch_size: int = 32
    num_epochs: int = 100
    optimizer: OptimizerConfig | Mapping[str, Any] | str = dataclasses.field(
        default_factory=OptimizerConfig
    )
    scheduler: SchedulerConfig | Mapping[str, Any] | str | None = None
    gradient_clip_norm: float | None = None
    checkpoint_dir: Path | str | None = None
    save_frequency: int | None = 1
    save_every_n_steps: int | None = None
    save_every_n_minutes: float | None = None
    save_best: bool = False
    max_checkpoints: int | None = 5
    log_frequency: int = 100
    verbose: str | int = "auto"
    steps_per_execution: int = 1
    steps_per_epoch: int | None = None
    shuffle: bool = True
    on_nan: str = "raise"
    remat: str | None = None
    chunk_size: int | str | None = "auto"
    seed: int | None = None

    def __setattr__(self, name, value):
        check_names([name], RULES, "config key")
        super().__setattr__(name, RULES[name](name, value))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingConfig":
        """A config from `{field: value}`; fields that are left out have their defaults."""
        if not isinstance(values, dict):
            raise ValueError(f"A config must be a dict. Received: {values!r}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values; Keras objects as `keras.saving` writes them."""
        return {name: plain_value(getattr(self, name)) for name in RULES}

    @classmethod
    def from_yaml(cls, path: FilePath) -> "TrainingConfig":
        """A config from a YAML file of plain values."""
        return cls.from_dict(read_yaml(user_path(path), "a config"))

    def to_yaml(self, path: FilePath):
        """Writes all fields to a YAML file."""
        write_text(path, dump_yaml(self.to_dict()))

    def create_optimizer(
        self,
        num_batches: int | None = None,
        gradient_accumulation_steps: int = 1,
        optimizer: Any = None,
        updates_per_batch: int = 1,
    ):
        """The Keras optimizer with schedule, clipping and accumulation, ready for `compile`.

        Args:
            num_batches: batches of the whole run, from which a schedule has its length in updates;
                None if unknown.
            gradient_accumulation_steps: batches per update.
            optimizer: another one than the config's own, in any of its forms.
            updates_per_batch: calls of the optimizer per batch; the schedule counts batches.

        Raises:
            ValueError: where a setting is given twice, or the schedule's length is unknown.
        """
        chosen = self.optimizer if optimizer is None else _optimizer("optimizer", optimizer)
        return assemble_optimizer(
            chosen, self, num_batches, gradient_accumulation_steps, updates_per_batch
        )
