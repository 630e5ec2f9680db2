"""The Fréchet distance between two sets of features, at once and from batches."""

import numpy as np

from artifex_keras.aliases import Tensor
from artifex_keras.metrics.rows import checked_pair, checked_rows

__all__ = ["FrechetDistance", "frechet_bias", "frechet_distance"]


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """The Fréchet distance between Gaussians fitted to two sets of features.

    ‖μ1 - μ2‖² + tr(Σ1 + Σ2 - 2 (Σ1 Σ2)^½), in float64. In the features of a network trained on
    ImageNet it is called FID. It falls to 0 as the first two moments agree, and small samples make
    it larger: `frechet_bias` says by how much.

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500.

    Args:
        real: features of real examples, (N, D) or (N, ...), N at least 2.
        generated: features of generated examples, (M, D), M at least 2.

    Returns:
        A float, in squared units of the features.

    Raises:
        ValueError: for too few rows, rows of two widths, or numbers that aren't finite.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        rng = np.random.default_rng(0)
        real, generated = rng.normal(size=(2000, 4)), rng.normal(1.0, 1.0, size=(2000, 4))
        assert abs(ak.metrics.frechet_distance(real, generated) - 4.0) < 0.3
        ```
    """
    real, generated = checked_pair(real, generated, least=2)
    return _distance(_moments(real), _moments(generated))


def frechet_bias(real: Tensor, generated: Tensor) -> float:
    """About how much `frechet_distance` would be if both sets came from one distribution.

    (1/N + 1/M) (Σ_i λ_i + ½ Σ_ij λ_i λ_j (1 + δ_ij) / (λ_i + λ_j)), with λ the variances of the
    principal axes of both sets together: the expectation for Gaussians to the first order in 1/N.
    For N(0, I_8) and 500 rows each it is .104. It is of use where N and M are some times D.

    Args:
        real: features of real examples, (N, D).
        generated: features of generated examples, (M, D).

    Returns:
        A float, in the units of the distance.

    Raises:
        ValueError: as for `frechet_distance`.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        rng = np.random.default_rng(0)
        real, generated = rng.normal(size=(500, 8)), rng.normal(size=(500, 8))
        assert abs(ak.metrics.frechet_bias(real, generated) - 0.104) < 0.01
        ```
    """
    real, generated = checked_pair(real, generated, least=2)
    return _bias(_moments(real), _moments(generated))


class FrechetDistance:
    """The Fréchet distance from batches of features, as if all had been given at once.

    It keeps the count, mean and covariance of each side and no features.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        rng = np.random.default_rng(0)
        real, generated = rng.normal(size=(256, 4)), rng.normal(size=(256, 4))
        distance = ak.metrics.FrechetDistance()
        for start in range(0, 256, 64):
            distance.update_state(real[start : start + 64], real=True)
            distance.update_state(generated[start : start + 64], real=False)
        whole = ak.metrics.frechet_distance(real, generated)
        assert abs(distance.result() - whole) < 1e-9
        ```
    """

    def __init__(self):
        self.reset_state()

    def reset_state(self) -> None:
        """Forgets all features."""
        self._sides = {True: None, False: None}

    def update_state(self, features: Tensor, *, real: bool):
        """Adds a batch of features (B, D): of real examples, or of generated ones."""
        given = _moments(checked_rows("features", features))
        side, other = self._sides[bool(real)], self._sides[not real]
        for known in filter(None, (side, other)):
            if known[1].shape != given[1].shape:
                raise ValueError(
                    "`features` must have the width of those before. Received: "
                    f"{len(given[1])} numbers in a row after {len(known[1])}."
                )
        self._sides[bool(real)] = given if side is None else _joined(side, given)

    def result(self):
        """The distance of all that was given, a float."""
        return _distance(*self._both())

    def bias(self):
        """About what the distance would be for equal distributions, as by `frechet_bias`."""
        return _bias(*self._both())

    def _both(self):
        for real, side in self._sides.items():
            if side is None or side[0] < 2:
                raise ValueError(
                    "`result` needs two rows of features on each side. Received: "
                    f"{0 if side is None else side[0]} with real={real}."
                )
        return self._sides[True], self._sides[False]


def _moments(rows):
    """Count, mean (D,) and the sum of squares around it (D, D)."""
    mean = rows.mean(axis=0)
    centred = rows - mean
    return len(rows), mean, centred.T @ centred


def _joined(a, b):
    """The moments of two sets together (Chan et al. 1979)."""
    count = a[0] + b[0]
    gap = b[1] - a[1]
    return (
        count,
        a[1] + gap * (b[0] / count),
        a[2] + b[2] + np.outer(gap, gap) * (a[0] * b[0] / count),
    )


def _distance(a, b):
    first, second = (squares / (count - 1) for count, _, squares in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    # tr (Σ1 Σ2)^½ = tr (Σ1^½ Σ2 Σ1^½)^½, which is symmetric: no complex numbers, no failures.
    inner = np.linalg.eigvalsh(root @ second @ root)
    cross = np.sqrt(np.maximum(inner, 0.0)).sum()
    gap = ((a[1] - b[1]) ** 2).sum()
    return float(max(gap + np.trace(first) + np.trace(second) - 2 * cross, 0.0))


def _bias(a, b):
    pooled = (a[2] + b[2]) / (a[0] + b[0] - 2)
    axes = np.maximum(np.linalg.eigvalsh(pooled), 0.0)
    sums = axes[:, None] + axes
    pairs = np.divide(np.outer(axes, axes), sums, out=np.zeros_like(sums), where=sums > 0)
    dispersion = axes.sum() + 0.5 * (pairs.sum() + np.trace(pairs))
    return float((1 / a[0] + 1 / b[0]) * dispersion)
