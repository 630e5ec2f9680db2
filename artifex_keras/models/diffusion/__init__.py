"""Diffusion models: the model and its loss, its samplers, its likelihood."""

from artifex_keras.models.diffusion.model import Diffusion

__all__ = ["Diffusion"]
