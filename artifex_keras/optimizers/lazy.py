"""Lazy regularisation: a penalty every few steps, and an optimizer that allows for it."""

import keras
from keras import ops

from artifex_keras.arguments import number
from artifex_keras.trust import deserialize_schedule, saved_value

__all__ = ["StretchedSchedule", "lazily_regularised"]


def lazily_regularised(optimizer, every):
    """A copy of `optimizer` that makes `every + 1` steps in the time of `every`.

    Learning rate times k/(k+1), decays β to the power k/(k+1). 1912.04958 appendix B.
    """
    ratio = every / (every + 1)
    config = optimizer.get_config()
    rate = config["learning_rate"]
    if isinstance(rate, dict):
        schedule = deserialize_schedule(rate)
        config["learning_rate"] = StretchedSchedule(schedule, ratio)
    else:
        config["learning_rate"] = float(rate) * ratio
    for name in ("beta_1", "beta_2", "rho"):
        if config.get(name) is not None:
            config[name] = config[name] ** ratio
    return type(optimizer).from_config(config)


@keras.saving.register_keras_serializable(package="artifex_keras")
class StretchedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`ratio · schedule(ratio · step)`: for an optimizer that makes 1/ratio times the steps."""

    def __init__(self, schedule, ratio):
        self.schedule = schedule
        self.ratio = number("ratio", ratio, above=0)

    def __call__(self, step):
        return self.ratio * self.schedule(self.ratio * ops.cast(step, "float32"))

    def get_config(self):
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "ratio": self.ratio}

    @classmethod
    def from_config(cls, config):
        schedule = deserialize_schedule(saved_value(cls, config, "schedule"))
        return cls(schedule, saved_value(cls, config, "ratio"))
