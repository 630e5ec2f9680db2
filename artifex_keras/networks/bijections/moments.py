"""Mean and variance of entries from few rows or many, gathered batch by batch."""

from typing import NamedTuple

import numpy as np
from keras import ops

__all__ = ["ROWS", "Moments", "gathered"]

ROWS = 1024  # after so many, statistics are gathered
PRIOR = 4.0  # rows that the typical variance counts for
REACH = 4.0  # deviations from the mean to the furthest value, at most


class Moments(NamedTuple):
    """Of each entry of the last axis: how many rows were seen, their mean, the variance."""

    rows: object
    mean: object
    variance: object


def gathered(before, x, weight=None):
    """The `Moments` of what was seen `before` and of x (B, ..., C), over all axes but the last.

    The rows are weighted by `weight` (B,); unequal weights count for (Σw)²/Σw² rows. What rows of
    weight 0 hold, NaN too, drops out.
    """
    batch, reach = _moments(x, weight)
    rows = before.rows + batch.rows
    share = batch.rows / ops.maximum(rows, 1e-12)
    change = batch.mean - before.mean
    squares = (before.rows + PRIOR) * before.variance + batch.rows * batch.variance
    squares = squares + share * before.rows * ops.square(change)
    first = before.rows == 0
    variance = ops.where(first, _shrunk(batch), squares / (rows + PRIOR))
    mean = before.mean + share * change
    reach = reach + ops.abs(batch.mean - mean)
    return Moments(rows, mean, ops.maximum(variance, ops.square(reach / REACH)))


def _moments(x, weight):
    """The `Moments` of x alone, and the largest distance from the mean."""
    weight = ops.ones((ops.shape(x)[0],), "float32") if weight is None else weight
    rows = ops.square(ops.sum(weight)) / ops.maximum(ops.sum(ops.square(weight)), 1e-12)
    weight = ops.reshape(weight, (-1,) + (1,) * (len(x.shape) - 1))
    x = ops.where(weight == 0, 0.0, x)
    axes = tuple(range(len(x.shape) - 1))
    positions = float(np.prod(x.shape[1:-1], dtype=int))
    total = ops.maximum(positions * ops.sum(weight), 1e-12)
    mean = ops.sum(weight * x, axis=axes) / total
    distance = ops.where(weight == 0, 0.0, ops.abs(x - mean))
    variance = ops.sum(weight * ops.square(distance), axis=axes) / total
    reach = ops.max(distance, axis=axes)
    varies = reach > 1e-5 * ops.abs(mean)  # else it is rounding
    return Moments(rows, mean, ops.where(varies, variance, 0.0)), reach


def _shrunk(batch):
    """The variances, those of few rows drawn to the typical one; in place of 0 the typical one."""
    varies = batch.variance > 0
    own = ops.log(ops.where(varies, batch.variance, 1.0))
    typical = ops.sum(own) / ops.maximum(ops.sum(ops.cast(varies, "float32")), 1.0)
    shrunk = (batch.rows * own + PRIOR * typical) / (batch.rows + PRIOR)
    known = ops.exp(ops.where(varies, shrunk, typical))
    return ops.where(ops.any(varies), known, _among(batch.mean))


def _among(mean):
    """The variance of all entries together, as that of one row; 1 if they are all the same."""
    variance = ops.var(mean)
    return ops.where(variance > 1e-10 * ops.square(ops.mean(mean)), variance, 1.0)
