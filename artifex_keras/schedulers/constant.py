"""A rate that stays, after its warm-up."""

import keras
from keras import ops

from artifex_keras.schedulers.scheduler import Schedule

__all__ = ["ConstantSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
class ConstantSchedule(Schedule):
    """`learning_rate` for every update after the linear warm-up."""

    def decay(self, updates):
        return self.learning_rate * ops.ones_like(updates)
