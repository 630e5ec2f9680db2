"""Ready networks, for a start and for tests: any `keras.Model` of the same inputs does as well."""

from artifex_keras.networks.bijections import (
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    Bijection,
    Chain,
    Flatten,
    Inverse,
    InvertibleLinear,
    Logit,
    MaskedAutoregressive,
    Permutation,
    Reverse,
    SplineCoupling,
    Split,
    Squeeze,
    Standardise,
    glow,
    masked_autoregressive_flow,
    realnvp,
    spline_flow,
)
from artifex_keras.networks.conv import conv_critic, conv_decoder, conv_encoder, conv_generator
from artifex_keras.networks.dit import dit
from artifex_keras.networks.masked_conv import MaskedConv2D, pixelcnn
from artifex_keras.networks.mlp import mlp, mlp_critic, mlp_decoder, mlp_encoder, mlp_generator
from artifex_keras.networks.spectral import SpectralNormalization
from artifex_keras.networks.stable_diffusion import stable_diffusion_unet
from artifex_keras.networks.timed import TimeEmbedding, timed_mlp
from artifex_keras.networks.transformer import CausalTransformer
from artifex_keras.networks.unet import unet

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "Affine",
    "AffineCoupling",
    "Bijection",
    "CausalTransformer",
    "Chain",
    "Flatten",
    "Inverse",
    "InvertibleLinear",
    "Logit",
    "MaskedAutoregressive",
    "MaskedConv2D",
    "Permutation",
    "Reverse",
    "SpectralNormalization",
    "SplineCoupling",
    "Split",
    "Squeeze",
    "Standardise",
    "TimeEmbedding",
    "conv_critic",
    "conv_decoder",
    "conv_encoder",
    "conv_generator",
    "dit",
    "glow",
    "masked_autoregressive_flow",
    "mlp",
    "mlp_critic",
    "mlp_decoder",
    "mlp_encoder",
    "mlp_generator",
    "pixelcnn",
    "realnvp",
    "spline_flow",
    "stable_diffusion_unet",
    "timed_mlp",
    "unet",
]
