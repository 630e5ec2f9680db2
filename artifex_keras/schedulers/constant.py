"""A rate that stays, after its warm-up."""

import keras
from keras import ops

from artifex_keras.arguments import checked
from artifex_keras.schedulers.scheduler import Schedule

__all__ = ["ConstantSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked()
class ConstantSchedule(Schedule):
    """`learning_rate` for every update after the linear warm-up.

    Example:

    ```python
    from artifex_keras.schedulers import ConstantSchedule

    schedule = ConstantSchedule(1e-3, warmup_steps=10)
    print(float(schedule(0)), float(schedule(9)), float(schedule(99)))  # 0.0001 0.001 0.001
    ```
    """

    def decay(self, updates):
        return self.learning_rate * ops.ones_like(updates)
