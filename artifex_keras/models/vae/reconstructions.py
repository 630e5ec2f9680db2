"""What each reconstruction asks of the data, and what a decoder's output means under it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import ops

from artifex_keras.objectives import elbo

__all__ = ["RECONSTRUCTIONS", "Reconstruction"]


def _accept(values):
    """Every value may be had."""


def _check_probabilities(values):
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            "reconstruction='bce' needs data in [0, 1]. Received: values from "
            f"{values.min()} to {values.max()}. Rescale the data, or use 'mse' or "
            "'gaussian'."
        )


def _check_levels(values):
    if values.min() < 0 or np.any(values % 1):
        raise ValueError(
            "reconstruction='categorical' needs whole levels 0..K-1. Received: "
            f"values from {values.min()} to {values.max()}."
        )


def _unchanged(output):
    return output


def _mean_level(logits):
    levels = ops.arange(logits.shape[-1], dtype="float32")
    return ops.sum(ops.softmax(logits, axis=-1) * levels, axis=-1)


class Reconstruction(NamedTuple):
    """A row of `RECONSTRUCTIONS`.

    `nll(x, output)` is -ln p(x|z) in nats, (B,); `check(values)` raises for data that p can't
    have; `mean(output)` is the mean of p(x|z). `has_levels`: the data are whole levels, and the
    decoder gives logits of each. `has_variance`: p has a variance, see the model's `variance`.
    `constant`: what `nll` lacks of the density's, in nats per dimension.
    """

    nll: Callable
    check: Callable = _accept
    mean: Callable = _unchanged
    has_levels: bool = False
    has_variance: bool = False
    constant: float = 0.0


_ROWS = {
    "mse": {"constant": 0.5 * np.log(np.pi)},
    "mae": {"constant": np.log(2)},
    "bce": {"check": _check_probabilities, "mean": ops.sigmoid},
    "gaussian": {"has_variance": True},
    "categorical": {"check": _check_levels, "mean": _mean_level, "has_levels": True},
}

RECONSTRUCTIONS = {
    name: Reconstruction(nll, **_ROWS.get(name, {})) for name, nll in elbo.RECONSTRUCTIONS.items()
}
