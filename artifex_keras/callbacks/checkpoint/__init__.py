"""Checkpoints from which a run resumes as if it had never stopped."""

from artifex_keras.callbacks.checkpoint.callback import CheckpointCallback
from artifex_keras.callbacks.checkpoint.export import export_checkpoint, restore_checkpoint

__all__ = ["CheckpointCallback", "export_checkpoint", "restore_checkpoint"]
