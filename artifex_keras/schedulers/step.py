"""A staircase."""

from collections.abc import Sequence

import keras
from keras import ops

from artifex_keras.aliases import LearningRate
from artifex_keras.arguments import broken_rule, checked, integer, number
from artifex_keras.schedulers.scheduler import FlooredSchedule

__all__ = ["StepSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked()
class StepSchedule(FlooredSchedule):
    """learning_rate · gamma^n after n stairs; at least `min_lr`.

    Args:
        step_size: a stair every so many updates after the peak.
        milestones: or a list: the updates, counted from 0, that are the first of a new stair.
            One of the two is needed.
        gamma: the factor of each stair, in (0, 1].

    Example:

    ```python
    from artifex_keras.schedulers import StepSchedule

    schedule = StepSchedule(0.1, milestones=[100, 200], gamma=0.1)
    print(float(schedule(50)), float(schedule(150)))  # 0.1 0.01
    ```
    """

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        step_size: int | None = None,
        *,
        milestones: Sequence[int] | None = None,
        gamma: float = 0.1,
        warmup_steps: int = 0,
        min_lr: float = 0.0,
    ):
        super().__init__(learning_rate, warmup_steps=warmup_steps, min_lr=min_lr)
        self.step_size = integer("step_size", step_size, minimum=1, optional=True)
        self.milestones = None if milestones is None else self._checked(milestones)
        self.gamma = number("gamma", gamma, above=0, maximum=1)
        if (step_size is None) == (milestones is None):
            raise ValueError(
                "One of `step_size` and `milestones` is needed. "
                f"Received: step_size={step_size}, milestones={milestones}."
            )

    def _checked(self, milestones):
        milestones = milestones.tolist() if hasattr(milestones, "tolist") else milestones
        if not isinstance(milestones, list | tuple | range):
            raise broken_rule("milestones", milestones, "a list of updates")
        return [integer("milestones", m, minimum=self.peak_step + 1) for m in milestones]

    def decay(self, updates):
        if self.step_size is not None:
            stairs = ops.floor(updates / self.step_size)
        else:
            stairs = ops.zeros_like(updates)
            for milestone in self.milestones:
                stairs += ops.cast(updates >= milestone - self.peak_step, "float32")
        return self.floored(self.learning_rate * self.gamma**stairs)
