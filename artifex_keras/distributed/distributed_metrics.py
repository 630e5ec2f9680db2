"""Numbers that each process has from its own share, made into one.

Keras's metrics need none of this: a step sees the whole batch, so what `fit` and `evaluate` report
is of all processes already. It is for what Python counts: rewards, times, rows of files. All
processes must call these, in the same order; with one process they give what they were given.
"""

import keras
import numpy as np

from artifex_keras.backend import processes

__all__ = ["max", "mean", "min", "sum"]


def mean(value, count=None):
    """The mean over all processes: Σ count·value / Σ count.

    Args:
        value: this process's mean, a number or an array, or a tree of those, such as a dict of
            metrics. Where its `count` is zero it may be anything, NaN too.
        count: how many examples it is the mean of; None weighs all processes the same.

    Returns:
        the mean in float64, of the same structure; NaN where nobody has counted anything.

    Raises:
        ValueError: for a negative count, and for values whose structures or shapes differ between
            processes.

    Example:

        ```python
        from artifex_keras.distributed import distributed_metrics

        rewards = [1.0, 0.0, 0.5]  # of this process
        print(distributed_metrics.mean(sum(rewards) / len(rewards), count=len(rewards)))
        ```
    """
    count = 1.0 if count is None else float(count)
    counts = np.array(processes.gather(count))
    if not np.all(counts >= 0):
        raise ValueError(f"`count` must not be negative. Received: {counts.tolist()}, by process.")
    if processes.count() == 1:
        return value
    return _combined(lambda rows: _weighted(rows, counts), value)


def sum(value):
    """The sum over all processes of a number, an array, or a tree of those."""
    return _combined(lambda rows: np.sum(rows, axis=0), value)


def max(value):
    """The largest of all processes, entry by entry."""
    return _combined(lambda rows: np.max(rows, axis=0), value)


def min(value):
    """The smallest of all processes, entry by entry."""
    return _combined(lambda rows: np.min(rows, axis=0), value)


def _weighted(rows, counts):
    counted = counts > 0
    if not counted.any():
        return np.full(rows.shape[1:], np.nan)
    weights = counts[counted] / counts.sum()
    return np.tensordot(weights, rows[counted].astype("float64"), axes=1)


def _combined(combine, value):
    """`combine` of each leaf of `value`, stacked over the processes."""
    if processes.count() == 1:
        return value
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(value)]
    all_leaves = processes.gather(leaves)
    shapes = [[leaf.shape for leaf in leaves] for leaves in all_leaves]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"All processes must give values of the same shapes. Received: {shapes}, by process."
        )
    made = [combine(np.stack(rows)) for rows in zip(*all_leaves, strict=True)]
    made = [leaf[()] for leaf in made]  # numbers stay numbers
    return keras.tree.pack_sequence_as(value, made)
