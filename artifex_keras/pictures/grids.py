"""Where in the plane functions are asked: grids, limits, and the plane that data lie in most."""

import numpy as np

from artifex_keras.aliases import Data, Limits, Tensor

__all__ = ["ARROWS", "arrow_grid", "bounds_of", "plane_grid", "principal_plane"]

ARROWS = 15  # to a row


def plane_grid(bounds: Limits, size: int):
    """The centres of size x size cells of the square `bounds`, (size², 2) float32, row by row.

    Example:

        ```python
        from artifex_keras import pictures

        assert pictures.plane_grid((0, 2), 2)[1].tolist() == [1.5, 0.5]
        ```
    """
    low, high = bounds
    axis = low + (high - low) * (np.arange(size) + 0.5) / size
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype("float32")


def arrow_grid(bounds: Limits):
    """The points at which `landscape` and `flight` draw arrows, (N, 2).

    Example:

        ```python
        from artifex_keras import pictures

        assert pictures.arrow_grid((-1, 1)).shape == (15 * 15, 2)
        ```
    """
    return plane_grid(bounds, ARROWS)


def bounds_of(points: Tensor, margin: float = 0.15):
    """(low, high) of a square around the points, wider by `margin` of their range on each side.

    Example:

        ```python
        import numpy as np
        from artifex_keras import pictures

        points = np.random.default_rng(0).normal(size=(100, 2))
        low, high = pictures.bounds_of(points)
        assert low < points.min() < points.max() < high
        ```
    """
    low, high = float(np.min(points)), float(np.max(points))
    margin *= (high - low) or 1.0
    return low - margin, high + margin


def principal_plane(x: Data):
    """The projection on the first two principal components of `x`: a function (N, ...) to (N, 2).

    The sign of a component makes its largest coordinate positive.

    Example:

        ```python
        import numpy as np
        from artifex_keras import pictures

        points = np.random.default_rng(0).normal(size=(100, 2))
        project = pictures.principal_plane(points @ np.ones((2, 5)))
        assert project(np.ones((3, 5))).shape == (3, 2)
        ```
    """
    x = np.asarray(x, dtype="float64").reshape(len(x), -1)
    mean = x.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(x - mean, rowvar=False).reshape(x.shape[1], -1))
    axes = axes[:, ::-1][:, :2]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(axes.shape[1])])
    return lambda rows: (np.asarray(rows, dtype="float64").reshape(len(rows), -1) - mean) @ axes
