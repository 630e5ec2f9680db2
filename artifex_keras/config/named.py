"""An optimizer and a schedule by name and arguments."""

from collections.abc import Mapping
from typing import Any

from artifex_keras.aliases import LearningRate
from artifex_keras.arguments import integer, unknown_name
from artifex_keras.config.text import plain_value
from artifex_keras.optimizers import create_optimizer, optimizer_arguments
from artifex_keras.optimizers.factory import check_arguments
from artifex_keras.schedulers import create_scheduler, schedule_arguments
from artifex_keras.trust import deserialize_schedule
from artifex_keras.utils import warn

__all__ = ["Named", "OptimizerConfig", "SchedulerConfig", "check_names"]


LARGE, LONG = 1e30, 2**62  # a rate and a run that leave room for any argument


def check_names(names, choices, what):
    """Raises a ValueError for a name that is not among `choices`, with the nearest ones."""
    for name in names:
        if name not in choices:
            raise ValueError(unknown_name(name, choices, what))


class Named:
    """A type by its name and the arguments it is made with; reads and writes dicts."""

    what = ""

    def __init__(self, type: str, **arguments: Any):
        self.type = type
        self.arguments = arguments

    def __getattr__(self, name):
        arguments = self.__dict__.get("arguments", {})
        if name in arguments:
            return arguments[name]
        raise AttributeError(unknown_name(name, arguments, f"{self.what} argument"))

    def __setattr__(self, name, value):
        """Sets an argument, which is checked as by the constructor."""
        if name not in ("type", "arguments"):
            changed = type(self)(self.type, **{**self.arguments, name: value})
            name, value = "arguments", changed.arguments
        super().__setattr__(name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]):
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type, **{k: plain_value(v) for k, v in self.arguments.items()}}

    def __eq__(self, other):
        return type(self) is type(other) and self.to_dict() == other.to_dict()

    def __repr__(self):
        given = {"type": self.type, **self.arguments}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in given.items())})"


class OptimizerConfig(Named):
    """An optimizer by its name, with the arguments of `optimizers.create_optimizer`.

    Args:
        type: `"adamw"`, `"adam"`, `"lion"`, ...: a name that `create_optimizer` knows.
        learning_rate: a number or a Keras schedule; under a `scheduler` the rate's peak.
        **arguments: what `create_optimizer` takes besides: `weight_decay`, `beta1`, ...

    Raises:
        ValueError: for an unknown argument.

    Example:

        ```python
        import artifex_keras as ak

        config = ak.OptimizerConfig("adamw", learning_rate=3e-4, weight_decay=0.01)
        optimizer = config.create()  # a Keras optimizer
        ```
    """

    what = "optimizer"

    def __init__(self, type: str = "adamw", learning_rate: LearningRate = 1e-3, **arguments: Any):
        if isinstance(learning_rate, dict):
            learning_rate = deserialize_schedule(learning_rate)
        super().__init__(type, learning_rate=learning_rate, **arguments)
        accepted = [*optimizer_arguments(type), "learning_rate", "gradient_accumulation_steps"]
        check_names(arguments, accepted, f"argument of the {type!r} optimizer")
        check_arguments({"learning_rate": learning_rate, **arguments})

    def create(self, **changes):
        """The Keras optimizer, with `changes` in the place of its arguments."""
        return create_optimizer(self.type, **{**self.arguments, **changes})


class SchedulerConfig(Named):
    """A learning-rate schedule by its name, with the arguments of `schedulers.create_scheduler`.

    Args:
        type: `"cosine"`, `"linear"`, ...: a name that `create_scheduler` knows.
        **arguments: what that schedule takes: `warmup_steps`, `min_lr`, ... The peak is the
            optimizer's `learning_rate`. `total_steps`, counted in updates, is by default the
            length of the run.

    Raises:
        ValueError: for an unknown argument.

    Example:

        ```python
        import artifex_keras as ak

        config = ak.SchedulerConfig("cosine", warmup_steps=10)
        schedule = config.create(learning_rate=1e-3, total_steps=100)
        print(float(schedule(10)))
        ```
    """

    what = "scheduler"

    def __init__(self, type: str = "cosine", **arguments: Any):
        super().__init__(type, **arguments)
        integer("warmup_steps", arguments.get("warmup_steps", 0))
        if "learning_rate" in arguments:
            raise ValueError(
                "A scheduler takes no `learning_rate`: its peak is the optimizer's. Received: "
                f"learning_rate={arguments['learning_rate']!r}."
            )
        accepted = [name for name in schedule_arguments(type) if name != "learning_rate"]
        check_names(arguments, [*accepted, "warmup_steps"], f"argument of the {type!r} scheduler")
        self.create(LARGE, LONG)  # says what is wrong with an argument

    def create(self, learning_rate, total_steps=None):
        """The schedule with that peak; `total_steps` serves where it was not given."""
        arguments = dict(self.arguments)
        if "total_steps" in schedule_arguments(self.type) and arguments.get("total_steps") is None:
            arguments["total_steps"] = self._length(total_steps)
        return create_scheduler(self.type, learning_rate=learning_rate, **arguments)

    def _length(self, updates):
        if updates is None:
            raise ValueError(
                f"The {self.type!r} scheduler needs the length of the run, and the dataset "
                "doesn't have one. Give the scheduler `total_steps` (updates), or the "
                "config `steps_per_epoch` (batches)."
            )
        warmup = self.arguments.get("warmup_steps", 0)
        if warmup > updates:
            warn(
                f"`warmup_steps` is longer than the run of {updates} updates (batches of an epoch, "
                f"times epochs), which ends below the full rate. Received: warmup_steps={warmup}."
            )
        return max(updates, warmup)
