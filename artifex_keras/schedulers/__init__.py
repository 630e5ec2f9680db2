"""Learning-rate schedules: warm-up and decay as a pure function of the update's number."""

from artifex_keras.schedulers.constant import ConstantSchedule
from artifex_keras.schedulers.cosine import CosineSchedule
from artifex_keras.schedulers.exponential import ExponentialSchedule
from artifex_keras.schedulers.factory import SCHEDULES, create_scheduler, schedule_arguments
from artifex_keras.schedulers.inverse_sqrt import InverseSqrtSchedule
from artifex_keras.schedulers.linear import LinearSchedule
from artifex_keras.schedulers.one_cycle import OneCycleSchedule
from artifex_keras.schedulers.polynomial import PolynomialSchedule
from artifex_keras.schedulers.scheduler import Schedule
from artifex_keras.schedulers.step import StepSchedule

__all__ = [
    "SCHEDULES",
    "ConstantSchedule",
    "CosineSchedule",
    "ExponentialSchedule",
    "InverseSqrtSchedule",
    "LinearSchedule",
    "OneCycleSchedule",
    "PolynomialSchedule",
    "Schedule",
    "StepSchedule",
    "create_scheduler",
    "schedule_arguments",
]
