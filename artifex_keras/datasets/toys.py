"""Two-dimensional distributions to look at: each `(n, seed)` gives points (n, 2) in float32.

The same seed gives the same points on every machine. Points are independent draws in random
order, so that any part of them is a sample too.
"""

from typing import Any

import numpy as np

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import bounded, checked, count, random_seed
from artifex_keras.columns import column_moments, warn_of_constants

__all__ = ["TOYS", "checkerboard", "gaussians", "moons", "ring", "standardise", "swiss_roll"]

RULES = {
    "n": count(),
    "seed": random_seed,
    "modes": count(),
    "noise": bounded(minimum=0.0),
    "radius": bounded(above=0.0),
    "side": count(),
    "spacing": bounded(above=0.0),
    "std": bounded(minimum=0.0),
}


def _points(x, y):
    return np.stack([x, y], axis=-1).astype("float32")


@checked(RULES)
def moons(n: int, seed: int = 0, *, noise: float = 0.05) -> np.ndarray:
    """Two interleaved half circles of radius 1, with Gaussian noise of that standard deviation.

    The upper one is centred at (0, 0), the lower one at (1, ½).

    Example:

    ```python
    from artifex_keras.datasets import moons

    print(moons(1000, seed=0).shape)  # (1000, 2)
    ```
    """
    rng = np.random.default_rng(seed)
    angle, lower = rng.uniform(0, np.pi, n), rng.integers(2, size=n)
    x = np.where(lower, 1 - np.cos(angle), np.cos(angle))
    y = np.where(lower, 0.5 - np.sin(angle), np.sin(angle))
    return _points(*(np.stack([x, y]) + noise * rng.standard_normal((2, n))))


@checked(RULES)
def ring(
    n: int, seed: int = 0, *, modes: int = 8, radius: float = 2.0, std: float = 0.1
) -> np.ndarray:
    """`modes` equal Gaussians, of standard deviation `std`, evenly on a circle from (radius, 0).

    Example:

    ```python
    from artifex_keras.datasets import ring

    points = ring(1000, modes=8, radius=2.0)
    ```
    """
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * rng.integers(modes, size=n) / modes
    centres = radius * np.stack([np.cos(angle), np.sin(angle)])
    return _points(*(centres + std * rng.standard_normal((2, n))))


@checked(RULES)
def gaussians(
    n: int, seed: int = 0, *, side: int = 5, spacing: float = 1.0, std: float = 0.05
) -> np.ndarray:
    """A square grid of `side` x `side` equal Gaussians, `spacing` apart, centred at the origin.

    Example:

    ```python
    from artifex_keras.datasets import gaussians

    points = gaussians(1000, side=5)  # 25 modes
    ```
    """
    rng = np.random.default_rng(seed)
    centres = spacing * (rng.integers(side, size=(2, n)) - (side - 1) / 2)
    return _points(*(centres + std * rng.standard_normal((2, n))))


@checked(RULES)
def swiss_roll(n: int, seed: int = 0, *, noise: float = 0.05) -> np.ndarray:
    """A spiral of one and a half turns, its radius growing with the angle from ⅔ to 2.

    Example:

    ```python
    from artifex_keras.datasets import swiss_roll

    points = swiss_roll(1000, noise=0.05)
    ```
    """
    rng = np.random.default_rng(seed)
    angle = 1.5 * np.pi * (1 + 2 * rng.uniform(size=n))
    radius = angle / (2.25 * np.pi)
    roll = radius * np.stack([np.cos(angle), np.sin(angle)])
    return _points(*(roll + noise * rng.standard_normal((2, n))))


@checked(RULES)
def checkerboard(n: int, seed: int = 0) -> np.ndarray:
    """Uniform on the eight squares of one colour of a 4 x 4 board over [-2, 2]²; density ⅛.

    Example:

    ```python
    from artifex_keras.datasets import checkerboard

    points = checkerboard(1000)  # entropy ln 8 nats
    ```
    """
    rng = np.random.default_rng(seed)
    column, half = rng.integers(4, size=n), rng.integers(2, size=n)
    row = 2 * half + column % 2
    return _points(*(np.stack([column, row]) + rng.uniform(size=(2, n)) - 2))


TOYS = {
    "moons": moons,
    "ring": ring,
    "gaussians": gaussians,
    "swiss_roll": swiss_roll,
    "checkerboard": checkerboard,
}


def standardise(train: Tensor, *others: Any):
    """`train`, and the `others` beside it, with the mean of `train` taken off each column and
    divided by its standard deviation. No value of `train` is then further than 20 from 0, however
    rare. A column that does not vary is only centred, and a warning names it.

    Example:

    ```python
    import numpy as np
    from artifex_keras.datasets import standardise

    rows = np.random.default_rng(0).normal(5, 2, (100, 3))
    train, test = standardise(rows[:80], rows[80:])  # by the mean and deviation of `train`
    ```
    """
    train = np.asarray(train)
    warn_of_constants(train, "they are only centred.")
    mean, std = column_moments(train)
    arrays = tuple(((np.asarray(x) - mean) / std).astype("float32") for x in (train, *others))
    return arrays if others else arrays[0]
