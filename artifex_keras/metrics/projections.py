"""The sliced Wasserstein distance: two samples compared along random directions."""

import numpy as np

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import checked, count, random_seed
from artifex_keras.metrics.rows import checked_pair

__all__ = ["sliced_wasserstein"]


@checked(num_projections=count(), seed=random_seed)
def sliced_wasserstein(
    a: Tensor, b: Tensor, num_projections: int = 128, seed: int | None = None
) -> float:
    """The sliced 2-Wasserstein distance: the root of the mean of W₂² over random directions.

    Along a direction W₂² is the mean square of the difference of the quantile functions, exact for
    samples of two sizes too. For N(0, I) and N(m, I) it is ‖m‖ / √D.

    Source: Bonneel et al. 2015, Journal of Mathematical Imaging and Vision 51.

    Args:
        a: a sample, (N, D) or (N, ...).
        b: a sample, (M, D).
        num_projections: random directions.
        seed: makes the directions repeatable.

    Returns:
        A float, in units of the data.

    Raises:
        ValueError: for rows of two widths, or numbers that aren't finite.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        a = np.random.default_rng(0).normal(size=(500, 2))
        assert abs(ak.metrics.sliced_wasserstein(a, a + [1.0, 1.0], seed=0) - 1.0) < 0.1
        ```
    """
    a, b = checked_pair(a, b, ("a", "b"))
    directions = np.random.default_rng(seed).normal(size=(a.shape[1], num_projections))
    directions /= np.linalg.norm(directions, axis=0)
    first, second, weights = _quantiles(np.sort(a @ directions, 0), np.sort(b @ directions, 0))
    return float(np.sqrt((weights @ (first - second) ** 2).mean()))


def _quantiles(first, second):
    """Both quantile functions on the steps of either, and the widths of the steps."""
    n, m = len(first), len(second)
    # The steps of both in units of 1 / (n m), which are whole numbers.
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(ends, prepend=0) / (n * m)
    return first[(ends - 1) // m], second[(ends - 1) // n], widths
