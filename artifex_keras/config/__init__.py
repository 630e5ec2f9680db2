"""Settings of a training run, as objects, dicts or YAML: `TrainingConfig` and what it holds."""

from artifex_keras.config.named import OptimizerConfig, SchedulerConfig
from artifex_keras.config.text import dump_yaml
from artifex_keras.config.training import RULES, TrainingConfig
from artifex_keras.trust import parse_yaml

__all__ = [
    "RULES",
    "OptimizerConfig",
    "SchedulerConfig",
    "TrainingConfig",
    "dump_yaml",
    "parse_yaml",
]
