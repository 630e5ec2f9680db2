"""Normalizing flows: the model, its base distributions, its likelihood, training without data."""

from artifex_keras.models.flow.model import NormalizingFlow

__all__ = ["NormalizingFlow"]
