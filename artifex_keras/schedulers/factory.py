"""A schedule by its name."""

from typing import Any

from artifex_keras.aliases import LearningRate
from artifex_keras.arguments import checked, lookup, nearest, shown
from artifex_keras.schedulers.constant import ConstantSchedule
from artifex_keras.schedulers.cosine import CosineSchedule
from artifex_keras.schedulers.exponential import ExponentialSchedule
from artifex_keras.schedulers.inverse_sqrt import InverseSqrtSchedule
from artifex_keras.schedulers.linear import LinearSchedule
from artifex_keras.schedulers.one_cycle import OneCycleSchedule
from artifex_keras.schedulers.polynomial import PolynomialSchedule
from artifex_keras.schedulers.scheduler import Schedule, arguments_of
from artifex_keras.schedulers.step import StepSchedule

__all__ = ["SCHEDULES", "create_scheduler", "schedule_arguments"]

SCHEDULES = {
    "constant": ConstantSchedule,
    "cosine": CosineSchedule,
    "exponential": ExponentialSchedule,
    "inverse_sqrt": InverseSqrtSchedule,
    "linear": LinearSchedule,
    "one_cycle": OneCycleSchedule,
    "polynomial": PolynomialSchedule,
    "step": StepSchedule,
}

# Those whose end must be known. All other arguments have a default.
COMMON = ("learning_rate", "warmup_steps", "total_steps", "min_lr")
NEEDS_TOTAL_STEPS = {"cosine", "linear", "one_cycle", "polynomial"}


def create_scheduler(
    scheduler_type: str = "cosine",
    learning_rate: LearningRate = 1e-3,
    warmup_steps: int = 0,
    total_steps: int | None = None,
    min_lr: float | None = None,
    **arguments: Any,
) -> Schedule:
    """A learning-rate schedule for any Keras optimizer.

    Update k = 0, 1, 2, ... uses schedule(k). A warm-up of W steps uses learning_rate · (k + 1) / W,
    never 0, and has the peak at update W - 1, where the decay takes over; a schedule with
    `total_steps` has `min_lr` at its last update, total_steps - 1. `OneCycleSchedule` rises in its
    own way.

    Args:
        scheduler_type: constant, cosine, exponential, inverse_sqrt, linear, one_cycle, polynomial
            or step.
        learning_rate: the peak.
        warmup_steps: W, in updates.
        total_steps: length of the run in updates, warm-up included.
        min_lr: the last rate, or the floor of a schedule that has no end. 0 by default.
        arguments: what the schedule's class takes besides: `num_cycles`, `decay_rate`, `gamma`,
            `power`, ... One that is None counts as not given.

    Raises:
        ValueError: for an unknown name, an argument that the schedule has no use for, and one that
            it needs and wasn't given.

    Example:

    ```python
    import artifex_keras as ak

    schedule = ak.create_scheduler("cosine", 1e-3, warmup_steps=100, total_steps=10_000)
    optimizer = ak.create_optimizer("adamw", schedule)
    ```
    """
    schedule = lookup(SCHEDULES, scheduler_type, "scheduler")
    given = dict(arguments, total_steps=total_steps, min_lr=min_lr)
    given = {name: value for name, value in given.items() if value is not None}
    accepted = schedule_arguments(scheduler_type)
    for name in given:
        if name not in accepted:
            raise ValueError(
                f"`{name}` is of no use to the {scheduler_type!r} schedule, which takes "
                f"{', '.join(accepted)}. Received: {name}={shown(given[name])}."
                f"{nearest(name, [*accepted, 'scheduler_type', *COMMON])}"
            )
    if scheduler_type in NEEDS_TOTAL_STEPS and total_steps is None:
        raise ValueError(
            f"`total_steps`, the length of the run in updates, is needed by the {scheduler_type!r} "
            "schedule. Received: total_steps=None."
        )
    return schedule(learning_rate, warmup_steps=warmup_steps, **given)


@checked()
def schedule_arguments(scheduler_type: str) -> list[str]:
    """The names of the arguments that the schedule called `scheduler_type` takes.

    Example:

    ```python
    from artifex_keras.schedulers import schedule_arguments

    print("num_cycles" in schedule_arguments("cosine"))  # True
    ```
    """
    return list(arguments_of(lookup(SCHEDULES, scheduler_type, "scheduler")))
