"""Sums and means over events and over weighted examples: the reductions all losses share."""

from keras import ops
from keras.backend import standardize_dtype

__all__ = ["as_floats", "known_mean", "mean_event", "sum_event", "weighted_mean"]


def as_floats(*tensors):
    """`tensors` in the precision that losses use: float64 if one of them is, else float32.

    Half-precision network outputs become float32 here, before any exp or log. Returns one
    tensor for one argument, a tuple for several.
    """
    tensors = [ops.convert_to_tensor(tensor) for tensor in tensors]
    double = any(standardize_dtype(tensor.dtype) == "float64" for tensor in tensors)
    tensors = tuple(ops.cast(tensor, "float64" if double else "float32") for tensor in tensors)
    return tensors[0] if len(tensors) == 1 else tensors


def sum_event(x):
    """The sum of `x` (B, ...) over all axes but the first: (B,). Rank 1 is returned as it is."""
    x = as_floats(x)
    axes = tuple(range(1, ops.ndim(x)))
    return ops.sum(x, axis=axes) if axes else x


def mean_event(x):
    """The mean of `x` (B, ...) over all axes but the first: (B,). Rank 1 is returned as it is."""
    x = as_floats(x)
    axes = tuple(range(1, ops.ndim(x)))
    return ops.mean(x, axis=axes) if axes else x


def weighted_mean(values, weights=None):
    """``Σ w v / Σ w`` over everything, a scalar; the plain mean without weights.

    `weights` cover the leading axes of `values`: (B,) weights rows of (B, T). A value of weight
    zero drops out, even if it is NaN. All weights zero give zero.

    Raises:
        ValueError: if `weights` has more axes than `values`.
    """
    if weights is None:
        return ops.mean(as_floats(values))
    values, weights = as_floats(values, weights)
    missing = ops.ndim(values) - ops.ndim(weights)
    if missing < 0:
        raise ValueError(
            "`weights` must not have more axes than the values. "
            f"Received: weights of shape {weights.shape}, values of shape {values.shape}."
        )
    for _ in range(missing):
        weights = ops.expand_dims(weights, -1)
    weights = ops.broadcast_to(weights, ops.shape(values))
    total = ops.sum(weights)
    kept = ops.where(weights == 0, ops.zeros_like(values), values)
    return ops.sum(weights * kept) / ops.where(total == 0, ops.ones_like(total), total)


def known_mean(values):
    """The mean of the values that aren't NaN, a scalar; NaN where there is none."""
    known = ops.logical_not(ops.isnan(values))
    return ops.where(ops.any(known), weighted_mean(values, known), float("nan"))
