"""What a training run is asked for, as objects, dicts or YAML."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import keras
import numpy as np

from artifex_keras.arguments import boolean, choice, integer, number, random_seed, unknown_name
from artifex_keras.gradient_accumulation import accumulated
from artifex_keras.optimizers import create_optimizer, optimizer_arguments
from artifex_keras.schedulers import create_scheduler, schedule_arguments
from artifex_keras.schedulers.paced import PacedSchedule
from artifex_keras.trust import deserialize_schedule

__all__ = ["OptimizerConfig", "SchedulerConfig", "TrainingConfig", "dump_yaml", "parse_yaml"]


class _Named:
    """A type by its name and the arguments it is made with; reads and writes dicts."""

    what = ""

    def __init__(self, type, **arguments):
        self.type = type
        self.arguments = arguments

    def __getattr__(self, name):
        arguments = self.__dict__.get("arguments", {})
        if name in arguments:
            return arguments[name]
        raise AttributeError(unknown_name(name, arguments, f"{self.what} argument"))

    @classmethod
    def from_dict(cls, values):
        return cls(**values)

    def to_dict(self):
        return {"type": self.type, **{k: _plain(v) for k, v in self.arguments.items()}}

    def __eq__(self, other):
        return type(self) is type(other) and self.to_dict() == other.to_dict()

    def __repr__(self):
        given = {"type": self.type, **self.arguments}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in given.items())})"


class OptimizerConfig(_Named):
    """An optimizer by its name, with the arguments of `optimizers.create_optimizer`.

    Args:
        type: `"adamw"`, `"adam"`, `"lion"`, ...: a name that `create_optimizer` knows.
        learning_rate: a number or a Keras schedule; under a `scheduler` the rate's peak.
        **arguments: what `create_optimizer` takes besides: `weight_decay`, `beta1`, ...

    Raises:
        ValueError: for an argument that it doesn't take.
    """

    what = "optimizer"

    def __init__(self, type="adamw", learning_rate=1e-3, **arguments):
        if isinstance(learning_rate, dict):
            learning_rate = deserialize_schedule(learning_rate)
        super().__init__(type, learning_rate=learning_rate, **arguments)
        taken = [*optimizer_arguments(type), "learning_rate", "gradient_accumulation_steps"]
        _known(arguments, taken, f"argument of the {type!r} optimizer")

    def create(self, **changes):
        """The Keras optimizer, with `changes` in the place of its arguments."""
        return create_optimizer(self.type, **{**self.arguments, **changes})


class SchedulerConfig(_Named):
    """A learning-rate schedule by its name, with the arguments of `schedulers.create_scheduler`.

    Args:
        type: `"cosine"`, `"linear"`, ...: a name that `create_scheduler` knows.
        **arguments: what that schedule takes: `warmup_steps`, `min_lr`, ... The peak is the
            optimizer's `learning_rate`. `total_steps`, counted in updates, is by default the
            length of the run.

    Raises:
        ValueError: for an argument that it doesn't take.
    """

    what = "scheduler"

    def __init__(self, type="cosine", **arguments):
        super().__init__(type, **arguments)
        if "learning_rate" in arguments:
            raise ValueError(
                "A scheduler takes no `learning_rate`: its peak is the optimizer's. Received: "
                f"learning_rate={arguments['learning_rate']!r}."
            )
        taken = [name for name in schedule_arguments(type) if name != "learning_rate"]
        _known(arguments, [*taken, "warmup_steps"], f"argument of the {type!r} scheduler")

    def create(self, learning_rate, total_steps=None):
        """The schedule with that peak; `total_steps` serves where it was not given."""
        arguments = dict(self.arguments)
        if "total_steps" in schedule_arguments(self.type) and not arguments.get("total_steps"):
            arguments["total_steps"] = self._length(total_steps)
        return create_scheduler(self.type, learning_rate=learning_rate, **arguments)

    def _length(self, updates):
        if updates is None:
            raise ValueError(
                f"The {self.type!r} scheduler needs the length of the run, and the dataset doesn't "
                "tell how many batches it has. Give the scheduler `total_steps` (updates), or the "
                "config `steps_per_epoch` (batches)."
            )
        warmup = self.arguments.get("warmup_steps", 0)
        if warmup > updates:
            raise ValueError(
                "`warmup_steps` must not exceed the updates of the run. Received: warmup_steps="
                f"{warmup}, in a run of {updates} updates (batches of an epoch, times epochs)."
            )
        return updates


# What a field accepts: `rule(name, value)` gives the value to keep, or raises.


def _count(minimum, optional=False):
    def rule(name, value):
        return integer(name, value, minimum=minimum, optional=optional)

    return rule


def _positive(name, value):
    return number(name, value, above=0.0, optional=True)


def _folder(name, value):
    if value is not None and not isinstance(value, str | Path):
        raise ValueError(f"`{name}` must be a path or None. Received: {name}={value!r}.")
    return None if value is None else Path(value)


def _verbosity(name, value):
    return choice(name, value, ("auto", 0, 1, 2))


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
    "seed": random_seed,
}


def _says_what_it_knows(cls):
    """Unknown keyword arguments of a dataclass become an error that names the nearest fields."""
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, **values):
        _known(values, RULES, "config key")
        init(self, **values)

    cls.__init__ = __init__
    return cls


@_says_what_it_knows
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
        checkpoint_dir: where a `CheckpointCallback` keeps the run, so that it can go on; None keeps
            none.
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
        seed: makes a run repeatable: order of the data, noise, dropout. Weights are drawn when the
            networks are made, so for the same weights call `keras.utils.set_random_seed` first.
    """

    batch_size: int = 32
    num_epochs: int = 100
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig | None = None
    gradient_clip_norm: float | None = None
    checkpoint_dir: Path | None = None
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
    seed: int | None = None

    def __setattr__(self, name, value):
        _known([name], RULES, "config key")
        super().__setattr__(name, RULES[name](name, value))

    @classmethod
    def from_dict(cls, values):
        """A config from `{field: value}`; fields that are left out have their defaults."""
        if not isinstance(values, dict):
            raise ValueError(f"A config must be a dict. Received: {values!r}.")
        return cls(**values)

    def to_dict(self):
        """All fields as plain values; Keras objects as `keras.saving` writes them."""
        return {name: _plain(getattr(self, name)) for name in RULES}

    @classmethod
    def from_yaml(cls, path):
        """A config from a YAML file."""
        return cls.from_dict(parse_yaml(Path(path).read_text(encoding="utf-8")) or {})

    def to_yaml(self, path):
        """Writes all fields to a YAML file."""
        Path(path).write_text(dump_yaml(self.to_dict()), encoding="utf-8")

    def create_optimizer(
        self, num_batches=None, gradient_accumulation_steps=1, optimizer=None, updates_per_batch=1
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
        steps = _batches_per_update(chosen, gradient_accumulation_steps)
        changes = {}
        if self.scheduler is not None:
            updates = None if num_batches is None else max(num_batches // steps, 1)
            schedule = self._schedule(_peak(chosen), updates)
            changes["learning_rate"] = (
                PacedSchedule(schedule, updates_per_batch) if updates_per_batch > 1 else schedule
            )
        if isinstance(chosen, OptimizerConfig):
            made = _with_clipping(chosen, self.gradient_clip_norm).create(**changes)
        else:
            made = _changed(chosen, changes, self.gradient_clip_norm)
        return accumulated(made, None if steps == 1 else steps)

    def _schedule(self, peak, total_steps):
        if isinstance(self.scheduler, SchedulerConfig):
            return self.scheduler.create(peak, total_steps)
        return self.scheduler


def _batches_per_update(optimizer, given):
    """What is asked for, or what the optimizer accumulates by itself."""
    given = integer("gradient_accumulation_steps", given, minimum=1)
    if isinstance(optimizer, OptimizerConfig):
        own = optimizer.arguments.get("gradient_accumulation_steps")
    else:
        own = getattr(optimizer, "steps", None) or optimizer.gradient_accumulation_steps
    if given > 1 and own not in (None, given):
        raise ValueError(
            "`gradient_accumulation_steps` is given twice. Received: "
            f"{given} and, for the optimizer, {own}."
        )
    return own or given


def _peak(optimizer):
    """The number that a schedule starts from."""
    if isinstance(optimizer, OptimizerConfig):
        rate = optimizer.learning_rate
    else:
        rate = optimizer.get_config()["learning_rate"]
    if isinstance(rate, dict | keras.optimizers.schedules.LearningRateSchedule):
        raise ValueError(
            "`scheduler` and an optimizer whose `learning_rate` is a schedule exclude each other. "
            f"Received: learning_rate={rate!r}."
        )
    return rate


def _with_clipping(config, norm):
    if norm is None:
        return config
    if config.arguments.get("gradient_clip_norm") not in (None, norm):
        raise ValueError(
            "`gradient_clip_norm` is given twice. Received: "
            f"{norm} and, for the optimizer, {config.gradient_clip_norm}."
        )
    return OptimizerConfig(config.type, **{**config.arguments, "gradient_clip_norm": norm})


def _changed(optimizer, changes, clip_norm):
    """The Keras optimizer itself, or a new one like it with other settings."""
    config = optimizer.get_config()
    if clip_norm is not None:
        clips = {k: config.get(k) for k in ("clipnorm", "clipvalue", "global_clipnorm")}
        if any(value is not None for value in clips.values()):
            raise ValueError(
                "`gradient_clip_norm` and an optimizer that clips exclude each other. Received: "
                f"gradient_clip_norm={clip_norm} and an optimizer with {clips}."
            )
        changes = {**changes, "global_clipnorm": clip_norm}
    if not changes:
        return optimizer
    return type(optimizer).from_config({**config, **changes})


def _known(names, choices, what):
    for name in names:
        if name not in choices:
            raise ValueError(unknown_name(name, choices, what))


def _plain(value):
    """`value` in the types that YAML and JSON have."""
    if isinstance(value, _Named):
        return value.to_dict()
    if isinstance(
        value, keras.optimizers.Optimizer | keras.optimizers.schedules.LearningRateSchedule
    ):
        return json.loads(json.dumps(keras.saving.serialize_keras_object(value), default=_plain))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def parse_yaml(text):
    """The content of a YAML text, in which `1e-3` is a number: YAML 1.1 alone calls it a string.

    Raises:
        ValueError: for text that isn't YAML, with the place.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark
        raise ValueError(
            f"This is not YAML: line {place.line + 1}, column {place.column + 1}: {error.problem}."
        ) from error


def dump_yaml(values):
    """`values` as YAML text, keys in their order."""
    import yaml

    return yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True)
