"""The distributions that a flow's latents may have."""

from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from artifex_keras.objectives.elbo import log_normal
from artifex_keras.objectives.masks import sum_event

__all__ = ["BASES", "Base", "logistic_log_prob"]


class Base(NamedTuple):
    """A distribution of latents: ln p(z) in nats, (B,), and draws of a shape from a model's noise.

    A `temperature` below 1 narrows the draws.
    """

    log_prob: Callable
    draw: Callable


def logistic_log_prob(z):
    """``-Σ z + 2 ln(1 + e^{-z})``, (B,): the standard logistic density, heavier in its tails."""
    return -sum_event(z + 2 * ops.softplus(-z))


def _logistic_draw(model, shape):
    u = ops.clip(model.uniform(shape), 1e-7, 1 - 1e-7)
    return ops.log(u) - ops.log1p(-u)


BASES = {
    "logistic": Base(logistic_log_prob, _logistic_draw),
    "normal": Base(log_normal, lambda model, shape: model.normal(shape)),
}
