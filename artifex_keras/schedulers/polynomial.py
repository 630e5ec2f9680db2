"""A power of the remaining progress."""

import keras
from keras import ops

from artifex_keras.aliases import LearningRate
from artifex_keras.arguments import checked, number
from artifex_keras.schedulers.scheduler import BoundedSchedule

__all__ = ["PolynomialSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked()
class PolynomialSchedule(BoundedSchedule):
    """min_lr + (learning_rate - min_lr)(1 - p)^power at progress p; power 1 is the linear one.

    Args:
        power: the exponent; above 1 it falls fast first, below 1 fast at the end.

    Example:

    ```python
    from artifex_keras.schedulers import PolynomialSchedule

    schedule = PolynomialSchedule(1e-3, total_steps=1000, power=2.0)
    ```
    """

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        total_steps: int | None = None,
        *,
        warmup_steps: int = 0,
        min_lr: float = 0.0,
        power: float = 2.0,
    ):
        super().__init__(learning_rate, total_steps, warmup_steps=warmup_steps, min_lr=min_lr)
        self.power = number("power", power, minimum=0.0)

    def decay(self, updates):
        return self.mixed(ops.power(1.0 - self.progress(updates), self.power))
