"""From a config to a trained model: what `compile` and `fit` would do, said in one place."""

from artifex_keras.trainers.autoregressive_trainer import (
    AutoregressiveTrainer,
    PixelAutoregressiveTrainer,
)
from artifex_keras.trainers.diffusion_trainer import DiffusionTrainer
from artifex_keras.trainers.energy_trainer import EnergyTrainer
from artifex_keras.trainers.flow_trainer import FlowTrainer
from artifex_keras.trainers.gan_trainer import GANTrainer
from artifex_keras.trainers.parallel_trainers import DataParallelTrainer, ModelParallelTrainer
from artifex_keras.trainers.rl_trainers import (
    DistillationTrainer,
    DPOTrainer,
    GRPOTrainer,
    KTOTrainer,
    PPOTrainer,
    ProcessRewardModelTrainer,
    REINFORCETrainer,
    RewardModelTrainer,
    RLOOTrainer,
    SFTTrainer,
)
from artifex_keras.trainers.trainer import Trainer
from artifex_keras.trainers.vae_trainer import VAETrainer

__all__ = [
    "AutoregressiveTrainer",
    "DPOTrainer",
    "DataParallelTrainer",
    "DiffusionTrainer",
    "DistillationTrainer",
    "EnergyTrainer",
    "FlowTrainer",
    "GANTrainer",
    "GRPOTrainer",
    "KTOTrainer",
    "ModelParallelTrainer",
    "PPOTrainer",
    "PixelAutoregressiveTrainer",
    "REINFORCETrainer",
    "RLOOTrainer",
    "ProcessRewardModelTrainer",
    "RewardModelTrainer",
    "SFTTrainer",
    "Trainer",
    "VAETrainer",
]
