"""Keras callbacks: checkpoints, early stopping, evaluation, logging, profiling, pictures.

They work in any `keras.Model.fit`, alone or together, and in a trainer.
"""

from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.checkpoint import (
    CheckpointCallback,
    export_checkpoint,
    restore_checkpoint,
)
from artifex_keras.callbacks.early_stopping import EarlyStoppingCallback
from artifex_keras.callbacks.evaluation import EvaluationCallback
from artifex_keras.callbacks.logging import LoggingCallback
from artifex_keras.callbacks.nan_guard import NaNGuard
from artifex_keras.callbacks.profiling import ProfilingCallback
from artifex_keras.callbacks.sample_metrics import SampleMetricsCallback
from artifex_keras.callbacks.visualization import VisualizationCallback

__all__ = [
    "BaseCallback",
    "CheckpointCallback",
    "EarlyStoppingCallback",
    "EvaluationCallback",
    "LoggingCallback",
    "NaNGuard",
    "ProfilingCallback",
    "SampleMetricsCallback",
    "VisualizationCallback",
    "export_checkpoint",
    "restore_checkpoint",
]
