"""The families: each a `keras.Model` with its objective, its sampler, and nothing else."""

from artifex_keras.models.autoregressive import Autoregressive, PixelAutoregressive
from artifex_keras.models.base import GenerativeModel
from artifex_keras.models.batch import Batch
from artifex_keras.models.diffusion import Diffusion
from artifex_keras.models.energy import EnergyModel
from artifex_keras.models.flow import NormalizingFlow
from artifex_keras.models.flow_matching import FlowMatching
from artifex_keras.models.gan import GAN
from artifex_keras.models.vae import VAE

__all__ = [
    "GAN",
    "VAE",
    "Autoregressive",
    "Batch",
    "Diffusion",
    "EnergyModel",
    "FlowMatching",
    "GenerativeModel",
    "NormalizingFlow",
    "PixelAutoregressive",
]
