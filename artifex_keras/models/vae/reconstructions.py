"""What each reconstruction asks of the data, and what a decoder's output means under it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import ops

from artifex_keras.models.data_contract import FINITE, Values
from artifex_keras.objectives import elbo

__all__ = ["RECONSTRUCTIONS", "Reconstruction"]


_PROBABILITIES = Values(
    "reconstruction='bce' needs data in [0, 1].",
    low=0.0,
    high=1.0,
    cure="Rescale the data (bytes divided by 255), or use 'mse' or 'gaussian'.",
)


def _levels(count):
    return Values(
        f"reconstruction='categorical' needs data of whole levels 0..{count - 1}, the decoder's "
        f"{count} logits.",
        "level",
        low=0,
        high=count - 1,
        integral=True,
        from_one=True,
        cure="Let the decoder give a logit for each level.",
    )


def _unchanged(output):
    return output


def _mean_level(logits):
    levels = ops.arange(logits.shape[-1], dtype="float32")
    return ops.sum(ops.softmax(logits, axis=-1) * levels, axis=-1)


class Reconstruction(NamedTuple):
    """A row of `RECONSTRUCTIONS`.

    `nll(x, output)` is -ln p(x|z) in nats, (B,); `values` are those that p can have, of K
    levels `levels(K)`; `mean(output)` is the mean of p(x|z). `has_levels`: the data are
    whole levels, and the decoder gives logits of each. `has_variance`: p has a variance, see the
    model's `variance`. `constant`: what `nll` lacks of the density's, in nats per dimension.
    """

    nll: Callable
    values: Values = FINITE
    levels: Callable = _levels
    mean: Callable = _unchanged
    has_levels: bool = False
    has_variance: bool = False
    constant: float = 0.0


_ROWS = {
    "mse": {"constant": 0.5 * np.log(np.pi)},
    "mae": {"constant": np.log(2)},
    "bce": {"values": _PROBABILITIES, "mean": ops.sigmoid},
    "gaussian": {"has_variance": True},
    "categorical": {"mean": _mean_level, "has_levels": True},
}

RECONSTRUCTIONS = {
    name: Reconstruction(nll, **_ROWS.get(name, {})) for name, nll in elbo.RECONSTRUCTIONS.items()
}
