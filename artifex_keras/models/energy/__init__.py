"""Energy-based models: the model, its training methods, its chains, its partition function."""

from artifex_keras.models.energy.chains import SAMPLERS
from artifex_keras.models.energy.methods import TRAINING_METHODS
from artifex_keras.models.energy.model import EnergyModel
from artifex_keras.models.energy.options import RULES
from artifex_keras.models.energy.partition import PARTITIONS, plane_grid
from artifex_keras.models.energy.replay import ReplayBuffer

__all__ = [
    "PARTITIONS",
    "RULES",
    "SAMPLERS",
    "TRAINING_METHODS",
    "EnergyModel",
    "ReplayBuffer",
    "plane_grid",
]
