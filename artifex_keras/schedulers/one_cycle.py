"""Up and down once (super-convergence, 1708.07120)."""

import math

import keras
from keras import ops

from artifex_keras.aliases import LearningRate, Tensor
from artifex_keras.arguments import checked, number
from artifex_keras.schedulers.scheduler import BoundedSchedule

__all__ = ["OneCycleSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked()
class OneCycleSchedule(BoundedSchedule):
    """Half a cosine up from learning_rate / div_factor to the peak, and half a cosine down to
    `min_lr`.

    The warm-up is part of the cycle: its `warmup_steps` updates are the way up, update
    `warmup_steps` - 1 has the peak, and they start at learning_rate / div_factor instead of
    following the straight line of the other schedules.

    Args:
        warmup_steps: updates on the way up; 0 takes 30% of `total_steps`.
        div_factor: the peak over the first rate.

    Example:

    ```python
    from artifex_keras.schedulers import OneCycleSchedule

    schedule = OneCycleSchedule(1e-2, total_steps=1000, warmup_steps=300)
    ```
    """

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        total_steps: int | None = None,
        *,
        warmup_steps: int = 0,
        min_lr: float = 0.0,
        div_factor: float = 25.0,
    ):
        super().__init__(learning_rate, total_steps, warmup_steps=warmup_steps, min_lr=min_lr)
        self.div_factor = number("div_factor", div_factor, minimum=1.0)

    @property
    def peak_step(self):
        return max((self.warmup_steps or round(0.3 * self.total_steps)) - 1, 0)

    def decay(self, updates):
        return self.mixed(0.5 * (1.0 + ops.cos(math.pi * self.progress(updates))))

    def __call__(self, step: Tensor):
        step = ops.cast(step, "float32")
        down = self.decay(ops.maximum(step - self.peak_step, 0.0))
        rise = ops.minimum(step / max(self.peak_step, 1), 1.0)
        share = 0.5 * (1.0 - ops.cos(math.pi * rise))
        first = self.learning_rate / self.div_factor
        up = self.learning_rate * share + first * (1.0 - share)
        return ops.where(step < self.peak_step, up, down)
