"""Generative adversarial networks: the model, its discriminator's training, its inputs."""

from artifex_keras.models.gan.model import GAN

__all__ = ["GAN"]
