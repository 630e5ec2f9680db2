"""Optimizers: by name, with decay on weights alone, from optax, several as one."""

from artifex_keras.optimizers.adafactor import Adafactor
from artifex_keras.optimizers.adamw import Adam, AdamW, Nadam
from artifex_keras.optimizers.base import is_decayed
from artifex_keras.optimizers.factory import OPTIMIZERS, create_optimizer, optimizer_arguments
from artifex_keras.optimizers.group import OptimizerGroup
from artifex_keras.optimizers.lamb import Lamb
from artifex_keras.optimizers.lion import Lion
from artifex_keras.optimizers.muon import Muon
from artifex_keras.optimizers.optax_wrappers import OptaxOptimizer
from artifex_keras.optimizers.schedule_free import ScheduleFreeAdamW
from artifex_keras.optimizers.sgd import SGD, Adagrad, RMSprop

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Lamb",
    "Lion",
    "Muon",
    "Nadam",
    "OptaxOptimizer",
    "OptimizerGroup",
    "RMSprop",
    "ScheduleFreeAdamW",
    "create_optimizer",
    "is_decayed",
    "optimizer_arguments",
]
