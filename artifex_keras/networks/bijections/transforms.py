"""Monotone maps of single numbers with parameters that a network gives, as pure functions.

A row of `TRANSFORMS` makes a `Transform` from its options. Parameters have one axis more than what
they transform, behind it; all of them zero is the identity.
"""

import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from artifex_keras.arguments import known_name, lookup

__all__ = ["TRANSFORMS", "Transform", "rational_quadratic_spline", "transform"]


class Transform(NamedTuple):
    """`forward(x, parameters)` and `inverse(y, parameters)` give the value and ln of the slope,
    both of the shape of x; `parameters` counts how many a number needs."""

    parameters: int
    forward: Callable
    inverse: Callable


def additive():
    """``y = x + t``, of slope 1. 1410.8516."""
    return Transform(
        1,
        lambda x, p: (x + p[..., 0], ops.zeros_like(x)),
        lambda y, p: (y - p[..., 0], ops.zeros_like(y)),
    )


def affine(bound=5.0):
    """``y = x e^s + t``, ``s = bound · tanh(raw/bound)``. 1605.08803."""

    def scale_and_shift(p):
        return bound * ops.tanh(p[..., 0] / bound), p[..., 1]

    def forward(x, p):
        log_scale, shift = scale_and_shift(p)
        return x * ops.exp(log_scale) + shift, log_scale

    def inverse(y, p):
        log_scale, shift = scale_and_shift(p)
        return (y - shift) * ops.exp(-log_scale), -log_scale

    return Transform(2, forward, inverse)


# Rational-quadratic splines, 1906.04032


def spline(bins=8, bound=5.0):
    """A rational-quadratic spline of so many bins on [-bound, bound], the identity outside."""
    return Transform(
        3 * bins - 1,
        lambda x, p: rational_quadratic_spline(x, p, bound=bound),
        lambda y, p: rational_quadratic_spline(y, p, bound=bound, inverse=True),
    )


def rational_quadratic_spline(
    x, parameters, *, bound=5.0, inverse=False, min_bin=1e-3, min_slope=1e-3
):
    """`(y, ln|dy/dx|)` of the monotone spline with linear tails, or of its inverse.

    Of 3K - 1 `parameters`, the first K give the bins' widths and the next K their heights (softmax,
    each at least `min_bin` of the whole), the others the slopes at the inner knots (softplus plus
    `min_slope`); at ±bound the slope is 1, and outside the map is the identity. All zero gives the
    identity inside too. 1906.04032 eq. 4-8; x is clipped before the spline sees it, so that what
    lies outside has finite gradients.
    """
    bins = (parameters.shape[-1] + 1) // 3
    inside = ops.logical_and(x >= -bound, x <= bound)
    safe = ops.clip(x, -bound, bound)
    bin_ = _bin(safe, parameters, bins, bound, inverse, min_bin, min_slope)
    y, log_slope = (_backwards if inverse else _forwards)(safe, bin_)
    return ops.where(inside, y, x), ops.where(inside, log_slope, 0.0)


class _Bin(NamedTuple):
    """The bin that a number lies in: its lower left corner, extent, and slopes at both ends."""

    x: object
    y: object
    width: object
    height: object
    slope: object
    next_slope: object


def _bin(value, parameters, bins, bound, inverse, min_bin, min_slope):
    widths = _lengths(parameters[..., :bins], bound, min_bin)
    heights = _lengths(parameters[..., bins : 2 * bins], bound, min_bin)
    xs, ys = (ops.cumsum(lengths, axis=-1) - lengths - bound for lengths in (widths, heights))
    offset = math.log(math.expm1(1 - min_slope))  # softplus of it is 1 - min_slope
    inner = min_slope + ops.softplus(parameters[..., 2 * bins :] + offset)
    one = ops.ones_like(widths[..., :1])
    slopes = ops.concatenate([one, inner, one], axis=-1)
    inner_knots = (ys if inverse else xs)[..., 1:]
    index = ops.sum(ops.cast(value[..., None] >= inner_knots, "int32"), axis=-1)
    chosen = ops.one_hot(index, bins, dtype=value.dtype)
    rows = (xs, ys, widths, heights, slopes[..., :-1], slopes[..., 1:])
    return _Bin(*(ops.sum(chosen * row, axis=-1) for row in rows))


def _lengths(raw, bound, least):
    """Positive lengths that add up to the whole interval."""
    bins = raw.shape[-1]
    return 2 * bound * (least + (1 - least * bins) * ops.softmax(raw, axis=-1))


def _forwards(x, b):
    return _at(ops.clip((x - b.x) / b.width, 0.0, 1.0), b)


def _at(share, b):
    """The spline and ln of its slope at a share of the way through the bin."""
    mean = b.height / b.width
    rest = 1 - share
    bend = b.slope + b.next_slope - 2 * mean
    below = mean + bend * share * rest
    y = b.y + b.height * (mean * ops.square(share) + b.slope * share * rest) / below
    rise = b.next_slope * ops.square(share) + 2 * mean * share * rest + b.slope * ops.square(rest)
    return y, 2 * ops.log(mean) + ops.log(rise) - 2 * ops.log(below)


def _backwards(y, b):
    mean = b.height / b.width
    bend = b.slope + b.next_slope - 2 * mean
    up = y - b.y
    quadratic = b.height * (mean - b.slope) + up * bend
    linear = b.height * b.slope - up * bend
    constant = -mean * up
    discriminant = ops.square(linear) - 4 * quadratic * constant
    # Rounding may take it below 0, and the root's slope is infinite there.
    root = ops.sqrt(ops.maximum(discriminant, 1e-24))
    share = ops.clip(2 * constant / (-linear - root), 0.0, 1.0)
    return b.x + share * b.width, -_at(share, b)[1]


TRANSFORMS = {"additive": additive, "affine": affine, "spline": spline}


def transform(name, **options):
    """The `Transform` of a row of `TRANSFORMS` with these options.

    Raises:
        ValueError: for an unknown name.
    """
    row = lookup(TRANSFORMS, name, "transform")
    for option in options:
        known_name(option, inspect.signature(row).parameters, f"option of the {name!r} transform")
    return row(**options)
