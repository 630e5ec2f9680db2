"""A straight line down to the last update."""

import keras

from artifex_keras.arguments import checked
from artifex_keras.schedulers.scheduler import BoundedSchedule

__all__ = ["LinearSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked()
class LinearSchedule(BoundedSchedule):
    """min_lr + (learning_rate - min_lr)(1 - p) at progress p.

    Example:

    ```python
    from artifex_keras.schedulers import LinearSchedule

    schedule = LinearSchedule(1e-3, total_steps=1000, warmup_steps=100)
    print(float(schedule(99)), float(schedule(999)))  # 0.001 0.0
    ```
    """

    def decay(self, updates):
        return self.mixed(1.0 - self.progress(updates))
