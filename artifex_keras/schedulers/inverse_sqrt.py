"""The square root's slow decay, for runs whose length isn't known."""

import keras
from keras import ops

from artifex_keras.aliases import LearningRate
from artifex_keras.arguments import checked, number
from artifex_keras.schedulers.scheduler import FlooredSchedule

__all__ = ["InverseSqrtSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked()
class InverseSqrtSchedule(FlooredSchedule):
    """learning_rate · √(τ / (τ + u)), u updates after the peak; at least `min_lr`.

    With τ = W, the number of warm-up steps, update k has learning_rate · √(W / (k + 1)), the
    schedule of the transformer (1706.03762, section 5.3).

    Args:
        timescale: τ, in updates; W by default, and 1 without a warm-up.

    Example:

    ```python
    from artifex_keras.schedulers import InverseSqrtSchedule

    schedule = InverseSqrtSchedule(1e-3, warmup_steps=100)
    print(float(schedule(399)))  # 0.0005: four times the warm-up, half the rate
    ```
    """

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        *,
        warmup_steps: int = 0,
        min_lr: float = 0.0,
        timescale: float | None = None,
    ):
        super().__init__(learning_rate, warmup_steps=warmup_steps, min_lr=min_lr)
        self.timescale = number("timescale", timescale, above=0, optional=True)

    def decay(self, updates):
        timescale = float(self.timescale or max(self.warmup_steps, 1))
        return self.floored(self.learning_rate * ops.sqrt(timescale / (timescale + updates)))
