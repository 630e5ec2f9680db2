"""Variational autoencoders: the model, its reconstructions, its likelihood."""

from artifex_keras.models.vae.model import VAE

__all__ = ["VAE"]
