"""Training for generative models in Keras 3: bring the networks and the data.

A family is a `keras.Model`: `VAE`, `GAN`, `Diffusion`, `NormalizingFlow`, `FlowMatching`,
`EnergyModel`, `Autoregressive`, `PixelAutoregressive`. `rl` fine-tunes such models by examples,
rewards and preferences: `SFT`, `GRPO`, `PPO`, `REINFORCE`, `DPO`, `KTO`. A trainer turns a
`TrainingConfig` into their `compile` and `fit`. `networks`, `datasets`, `optimizers`, `schedulers`,
`objectives` and `samplers` are what they are made of and what may be used without them;
`artifex-keras --help` says what a shell can do.
"""

from artifex_keras.default_backend import choose_backend, is_command

__version__ = "0.1.0"

if is_command():
    from artifex_keras.cli import answer_at_once

    answer_at_once()  # ends the process for `--help` and the like, before seconds of imports

choose_backend()  # before the first import of Keras

from artifex_keras import (  # noqa: E402
    callbacks,
    datasets,
    distributed,
    metrics,
    mixed_precision,
    models,
    networks,
    objectives,
    optimizers,
    pictures,
    planning,
    rl,
    samplers,
    schedulers,
    sharing,
    trainers,
)
from artifex_keras.config import OptimizerConfig, SchedulerConfig, TrainingConfig  # noqa: E402
from artifex_keras.extending import register  # noqa: E402
from artifex_keras.gradient_accumulation import GradientAccumulation  # noqa: E402
from artifex_keras.mixed_precision import set_precision  # noqa: E402
from artifex_keras.models import *  # noqa: E402, F403
from artifex_keras.optimizers import OptaxOptimizer, create_optimizer  # noqa: E402
from artifex_keras.rl import *  # noqa: E402, F403
from artifex_keras.schedulers import create_scheduler  # noqa: E402
from artifex_keras.trainers import *  # noqa: E402, F403

# Modules above `distributed`, which may not import them; who has a mesh looks for them there.
distributed.DataParallelTrainer = trainers.DataParallelTrainer
distributed.ModelParallelTrainer = trainers.ModelParallelTrainer
distributed.plan = planning.plan

# Families, algorithms and trainers, from the lists of their packages.
_CLASSES = [
    name
    for package in (models, rl, trainers)
    for name in package.__all__
    if isinstance(cls := getattr(package, name), type)
    and issubclass(cls, models.GenerativeModel | trainers.Trainer)
]

__all__ = [
    "GradientAccumulation",
    "OptaxOptimizer",
    "OptimizerConfig",
    "SchedulerConfig",
    "TrainingConfig",
    "callbacks",
    "create_optimizer",
    "create_scheduler",
    "datasets",
    "distributed",
    "metrics",
    "mixed_precision",
    "models",
    "networks",
    "objectives",
    "optimizers",
    "pictures",
    "planning",
    "register",
    "rl",
    "samplers",
    "schedulers",
    "set_precision",
    "sharing",
    "trainers",
    *_CLASSES,
]
