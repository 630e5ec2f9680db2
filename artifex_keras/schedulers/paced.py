"""One schedule for two optimizers that don't update equally often."""

import keras
from keras import ops

from artifex_keras.trust import deserialize_schedule

__all__ = ["PacedSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
class PacedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """schedule(⌊k / pace⌋) for update k of an optimizer that makes `pace` updates per step.

    Args:
        schedule: a schedule that counts steps.
        pace: updates per step.
    """

    def __init__(self, schedule, pace):
        self.schedule = schedule
        self.pace = pace

    def __call__(self, step):
        return self.schedule(ops.floor_divide(step, self.pace))

    def get_config(self):
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "pace": self.pace}

    @classmethod
    def from_config(cls, config):
        return cls(deserialize_schedule(config["schedule"]), config["pace"])
