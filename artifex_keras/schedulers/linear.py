"""A straight line down to the last update."""

import keras

from artifex_keras.schedulers.scheduler import BoundedSchedule

__all__ = ["LinearSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
class LinearSchedule(BoundedSchedule):
    """min_lr + (learning_rate - min_lr)(1 - p) at progress p."""

    def decay(self, updates):
        return self.mixed(1.0 - self.progress(updates))
