"""Ready networks, for a start and for tests: any `keras.Model` of the same inputs does as well."""

from artifex_keras.networks.conv import conv_critic, conv_decoder, conv_encoder, conv_generator
from artifex_keras.networks.mlp import mlp, mlp_critic, mlp_decoder, mlp_encoder, mlp_generator
from artifex_keras.networks.spectral import SpectralNormalization
from artifex_keras.networks.timed import TimeEmbedding, timed_mlp

__all__ = [
    "SpectralNormalization",
    "TimeEmbedding",
    "conv_critic",
    "conv_decoder",
    "conv_encoder",
    "conv_generator",
    "mlp",
    "mlp_critic",
    "mlp_decoder",
    "mlp_encoder",
    "mlp_generator",
    "timed_mlp",
]
