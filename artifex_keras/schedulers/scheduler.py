"""What all schedules share: warm-up, the update that each rate belongs to, saving."""

import inspect

import keras
from keras import ops

from artifex_keras.aliases import LearningRate, Tensor
from artifex_keras.arguments import checked, integer, number

__all__ = ["BoundedSchedule", "FlooredSchedule", "Schedule", "arguments_of"]


def arguments_of(cls):
    """The parameters of the constructor of `cls`, by name."""
    parameters = dict(inspect.signature(cls.__init__).parameters)
    del parameters["self"]
    return parameters


@checked()
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each update: a linear warm-up, then `decay`.

    Update k = 0, 1, 2, ... of a schedule with W warm-up steps uses

        learning_rate · (k + 1) / W     for k < W,
        decay(k - max(W - 1, 0))        from then on.

    So no update is wasted at a rate of zero, update W - 1 has exactly the peak, `learning_rate`,
    and the decay starts there. W = 0 and W = 1 are the same: the first update has the peak.

    A schedule is a pure function of k: traceable in a compiled step, callable on arrays of
    updates, saved with the optimizer. A subclass writes `decay(updates)`, the rate so many updates
    after the peak, and keeps each constructor argument in an attribute of the same name.

    Args:
        learning_rate: the peak.
        warmup_steps: W, in updates.

    Example:

    ```python
    import keras
    from artifex_keras.schedulers import Schedule

    @keras.saving.register_keras_serializable(package="my_package")
    class Halving(Schedule):
        def decay(self, updates):
            return self.learning_rate * 0.5**updates

    print(float(Halving(1.0)(3)))  # 0.125
    ```
    """

    def __init__(self, learning_rate: LearningRate = 1e-3, *, warmup_steps: int = 0):
        self.learning_rate = number("learning_rate", learning_rate, minimum=0.0)
        self.warmup_steps = integer("warmup_steps", warmup_steps, minimum=0)

    @property
    def peak_step(self):
        """The update that has the peak."""
        return max(self.warmup_steps - 1, 0)

    def decay(self, updates):
        raise NotImplementedError

    def __call__(self, step: Tensor):
        step = ops.cast(step, "float32")
        decayed = self.decay(ops.maximum(step - self.peak_step, 0.0))
        if self.warmup_steps < 2:
            return decayed
        warming = self.learning_rate * ((step + 1.0) / self.warmup_steps)
        return ops.where(step < self.peak_step, warming, decayed)

    def get_config(self):
        return {name: getattr(self, name) for name in arguments_of(type(self))}


class BoundedSchedule(Schedule):
    """A schedule that goes from its peak to `min_lr`, which the last update has, and stays there.

    With T total steps its progress at update k is (k - k₀) / (T - 1 - k₀), where k₀ is the update
    that has the peak.

    Args:
        learning_rate: the peak.
        total_steps: T, in updates, warm-up included.
        warmup_steps: length of the linear warm-up, in updates.
        min_lr: the rate of update T - 1 and of all later ones.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        total_steps: int | None = None,
        *,
        warmup_steps: int = 0,
        min_lr: float = 0.0,
    ):
        super().__init__(learning_rate, warmup_steps=warmup_steps)
        self.total_steps = integer("total_steps", total_steps, minimum=1)
        self.min_lr = number("min_lr", min_lr, minimum=0.0)
        check_floor(self)
        if self.warmup_steps > self.total_steps:
            raise ValueError(
                "`warmup_steps` must not exceed `total_steps`. "
                f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}."
            )

    @property
    def decay_steps(self):
        """The number of updates from the peak to the last update; at least 1."""
        return max(self.total_steps - 1 - self.peak_step, 1)

    def progress(self, updates):
        """The share of the decay that is done, in [0, 1]."""
        return ops.clip(updates / self.decay_steps, 0.0, 1.0)

    def mixed(self, share):
        """The rate with so large a `share` of the peak; exact at 0 and 1."""
        return self.learning_rate * share + self.min_lr * (1.0 - share)


class FlooredSchedule(Schedule):
    """A schedule without an end, which never falls below `min_lr`.

    Args:
        learning_rate: the peak.
        warmup_steps: length of the linear warm-up, in updates.
        min_lr: the floor.
    """

    def __init__(
        self, learning_rate: LearningRate = 1e-3, *, warmup_steps: int = 0, min_lr: float = 0.0
    ):
        super().__init__(learning_rate, warmup_steps=warmup_steps)
        self.min_lr = number("min_lr", min_lr, minimum=0.0)
        check_floor(self)

    def floored(self, decayed):
        return ops.maximum(decayed, self.min_lr)


def check_floor(schedule):
    if schedule.min_lr > schedule.learning_rate:
        raise ValueError(
            "`min_lr` must not exceed `learning_rate`. Received: "
            f"min_lr={schedule.min_lr}, learning_rate={schedule.learning_rate}."
        )
