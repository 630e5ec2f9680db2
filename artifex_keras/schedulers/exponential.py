"""A constant ratio from update to update."""

import math

import keras
from keras import ops

from artifex_keras.aliases import LearningRate
from artifex_keras.arguments import checked, number
from artifex_keras.schedulers.scheduler import FlooredSchedule

__all__ = ["ExponentialSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked()
class ExponentialSchedule(FlooredSchedule):
    """learning_rate · decay_rate^(u / decay_steps), u updates after the peak; at least `min_lr`.

    Args:
        decay_rate: the factor by which the rate falls in `decay_steps` updates, in (0, 1].
        decay_steps: that number of updates.

    Example:

    ```python
    from artifex_keras.schedulers import ExponentialSchedule

    schedule = ExponentialSchedule(1e-3, decay_rate=0.5, decay_steps=100)
    print(float(schedule(100)))  # 0.0005
    ```
    """

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        decay_rate: float = 0.96,
        decay_steps: int = 1000,
        *,
        warmup_steps: int = 0,
        min_lr: float = 0.0,
    ):
        super().__init__(learning_rate, warmup_steps=warmup_steps, min_lr=min_lr)
        self.decay_rate = number("decay_rate", decay_rate, above=0, maximum=1)
        self.decay_steps = number("decay_steps", decay_steps, above=0)

    def decay(self, updates):
        exponent = math.log(self.decay_rate) / self.decay_steps
        return self.floored(self.learning_rate * ops.exp(exponent * updates))
