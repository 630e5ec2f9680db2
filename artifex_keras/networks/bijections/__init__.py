"""Bijections with their log-determinants: the parts that normalizing flows are chained from."""

from artifex_keras.networks.bijections.autoregressive import MaskedAutoregressive
from artifex_keras.networks.bijections.base import Bijection, Chain, Inverse
from artifex_keras.networks.bijections.coupling import (
    AdditiveCoupling,
    AffineCoupling,
    SplineCoupling,
)
from artifex_keras.networks.bijections.elementwise import ActNorm, Affine, Logit, Standardise
from artifex_keras.networks.bijections.factories import (
    glow,
    masked_autoregressive_flow,
    realnvp,
    spline_flow,
)
from artifex_keras.networks.bijections.linear import InvertibleLinear, Permutation, Reverse
from artifex_keras.networks.bijections.shapes import Flatten, Split, Squeeze

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "Affine",
    "AffineCoupling",
    "Bijection",
    "Chain",
    "Flatten",
    "Inverse",
    "InvertibleLinear",
    "Logit",
    "MaskedAutoregressive",
    "Permutation",
    "Reverse",
    "SplineCoupling",
    "Split",
    "Squeeze",
    "Standardise",
    "glow",
    "masked_autoregressive_flow",
    "realnvp",
    "spline_flow",
]
