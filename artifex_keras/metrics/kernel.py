"""Distances by kernels: the kernel distance of features (KID) and MMD with a Gaussian kernel."""

import numpy as np

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import checked, count, number, random_seed
from artifex_keras.metrics.rows import checked_pair, checked_rows, in_chunks, squared_distances

__all__ = ["KernelDistance", "kernel_distance", "mmd"]


@checked(subset_size=count(2), num_subsets=count(), seed=random_seed)
def kernel_distance(
    real: Tensor,
    generated: Tensor,
    subset_size: int = 1000,
    num_subsets: int = 100,
    seed: int | None = None,
):
    """The squared MMD of two sets of features under the kernel (x·y/D + 1)³, over subsets.

    In the features of a network trained on ImageNet it is called KID. It has no bias: 0 in the
    mean for equal distributions, at every number of rows; single values may be below 0.

    Source: Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401.

    Args:
        real: features of real examples, (N, D) or (N, ...), N at least 4.
        generated: features of generated examples, (M, D), M at least 4.
        subset_size: rows of each side in a subset. Where a side has fewer rows, a subset has half
            of the smaller side's.
        num_subsets: subsets, drawn at random without repeated rows.
        seed: makes the subsets repeatable.

    Returns:
        `(mean, standard_error)`, floats. Subsets share rows, so the error is a little too small
        where `subset_size * num_subsets` is many times N.

    Raises:
        ValueError: for too few rows, rows of two widths, or numbers that aren't finite.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        rng = np.random.default_rng(0)
        real, generated = rng.normal(size=(400, 4)), rng.normal(size=(400, 4))
        mean, error = ak.metrics.kernel_distance(real, generated, 100, 50, seed=0)
        assert abs(mean) < 0.1 and error > 0
        ```
    """
    real, generated = checked_pair(real, generated, least=4)
    fewest = min(len(real), len(generated))
    size = subset_size if subset_size <= fewest else fewest // 2
    generator = np.random.default_rng(seed)
    found = np.array(
        [
            _unbiased(*(_subset(rows, size, generator) for rows in (real, generated)), _cubic)
            for _ in range(num_subsets)
        ]
    )
    error = found.std(ddof=1) / np.sqrt(num_subsets) if num_subsets > 1 else np.nan
    return float(found.mean()), float(error)


class KernelDistance:
    """The kernel distance from batches of features. It keeps the features.

    Args:
        subset_size: as for `kernel_distance`.
        num_subsets: as for `kernel_distance`.
        seed: as for `kernel_distance`.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        rng = np.random.default_rng(0)
        distance = ak.metrics.KernelDistance(subset_size=50, num_subsets=20, seed=0)
        for _ in range(4):
            distance.update_state(rng.normal(size=(32, 4)), real=True)
            distance.update_state(rng.normal(size=(32, 4)), real=False)
        mean, error = distance.result()
        assert abs(mean) < 0.5
        ```
    """

    @checked(subset_size=count(2), num_subsets=count(), seed=random_seed)
    def __init__(self, subset_size: int = 1000, num_subsets: int = 100, seed: int | None = None):
        self.subset_size, self.num_subsets, self.seed = subset_size, num_subsets, seed
        self.reset_state()

    def reset_state(self) -> None:
        """Forgets all features."""
        self._sides = {True: [], False: []}

    def update_state(self, features: Tensor, *, real: bool):
        """Adds a batch of features (B, D): of real examples, or of generated ones."""
        self._sides[bool(real)].append(checked_rows("features", features))

    def result(self):
        """`(mean, standard_error)` of all that was given."""
        for real, batches in self._sides.items():
            if not batches:
                raise ValueError(f"`result` needs features. Received: none with real={real}.")
        sides = (np.concatenate(self._sides[real]) for real in (True, False))
        return kernel_distance(*sides, self.subset_size, self.num_subsets, self.seed)


def mmd(a: Tensor, b: Tensor, bandwidth: float | None = None) -> float:
    """The squared maximum mean discrepancy of two samples, kernel exp(-‖x - y‖² / (2 h²)).

    The estimate without bias: 0 in the mean for equal distributions, and single values may be
    below 0.

    Source: Gretton et al. 2012, Journal of Machine Learning Research 13, eq. 3.

    Args:
        a: a sample, (N, D) or (N, ...), N at least 2.
        b: a sample, (M, D), M at least 2.
        bandwidth: h, in units of the data; by default the median distance between the rows of both
            samples together, of 1,000 rows at most.

    Returns:
        A float.

    Raises:
        ValueError: for too few rows, rows of two widths, numbers that aren't finite, or a
            bandwidth that isn't above 0.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(500, 2)), rng.normal(1.0, 1.0, size=(500, 2))
        assert ak.metrics.mmd(a, b) > 0.1 > ak.metrics.mmd(a, a[::-1] + 0.01)
        ```
    """
    a, b = checked_pair(a, b, ("a", "b"), least=2)
    bandwidth = number("bandwidth", bandwidth, above=0, optional=True) or _median_distance(a, b)
    if not bandwidth:
        return 0.0  # all rows are one point

    def gaussian(x, y):
        return np.exp(squared_distances(x, y) / (-2 * bandwidth**2))

    return float(_unbiased(a, b, gaussian))


def _median_distance(a, b):
    half = [rows[:: max(1, len(rows) // 500)] for rows in (a, b)]
    rows = np.concatenate(half)
    distances = squared_distances(rows, rows)[np.triu_indices(len(rows), 1)]
    return float(np.sqrt(np.median(distances)))


def _subset(rows, size, generator):
    return rows[generator.choice(len(rows), size, replace=False)]


def _cubic(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def _unbiased(a, b, kernel):
    """The estimate of MMD² without bias: pairs of a row with itself don't count."""

    def within(rows):
        total = sum(kernel(rows[part], rows).sum() for part in in_chunks(len(rows)))
        diagonal = sum(np.trace(kernel(rows[p], rows[p])) for p in in_chunks(len(rows)))
        return (total - diagonal) / (len(rows) * (len(rows) - 1))

    cross = sum(kernel(a[part], b).sum() for part in in_chunks(len(a))) / (len(a) * len(b))
    return within(a) + within(b) - 2 * cross
