"""One schedule for two optimizers that don't update equally often."""

import keras
from keras import ops

from artifex_keras.arguments import integer
from artifex_keras.trust import deserialize_schedule, saved_value

__all__ = ["PacedSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
class PacedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """schedule(⌊k / n⌋) for update k of an optimizer that makes n updates per batch.

    Args:
        schedule: a schedule that counts batches.
        updates_per_batch: n.
    """

    def __init__(self, schedule, updates_per_batch):
        self.schedule = schedule
        self.updates_per_batch = integer("updates_per_batch", updates_per_batch, minimum=1)

    def __call__(self, step):
        return self.schedule(ops.floor_divide(step, self.updates_per_batch))

    def get_config(self):
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "pace": self.updates_per_batch,
        }

    @classmethod
    def from_config(cls, config):
        schedule = deserialize_schedule(saved_value(cls, config, "schedule"))
        return cls(schedule, saved_value(cls, config, "pace"))
