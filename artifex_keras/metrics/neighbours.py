"""What nearest neighbours say: precision, recall, density, coverage, memorisation."""

import numpy as np

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import checked, count, number
from artifex_keras.metrics.rows import checked_pair, checked_rows, in_chunks, squared_distances

__all__ = ["density_coverage", "mode_coverage", "nearest_training", "precision_recall"]


@checked(k=count())
def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """The share of generated examples among real ones, and of real examples among generated ones.

    A row lies among others if it is nearer to one of them than that one's k-th neighbour of its
    own set. Precision falls as samples leave the data, recall as the samples miss parts of it.

    Source: Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991.

    Args:
        real: features of real examples, (N, D) or (N, ...), N above k.
        generated: features of generated examples, (M, D), M above k.
        k: which neighbour gives the radius, the point itself not counted.

    Returns:
        `(precision, recall)`, floats in [0, 1].

    Raises:
        ValueError: for k or fewer rows, rows of two widths, or numbers that aren't finite.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        rng = np.random.default_rng(0)
        real = rng.normal(size=(500, 2))
        narrow = 0.3 * rng.normal(size=(500, 2))  # good samples, of the middle alone
        precision, recall = ak.metrics.precision_recall(real, narrow)
        assert precision > 0.9 > 0.6 > recall
        ```
    """
    real, generated = checked_pair(real, generated, least=k + 1)
    return _share_inside(generated, real, k), _share_inside(real, generated, k)


@checked(k=count())
def density_coverage(real: Tensor, generated: Tensor, k: int = 5) -> tuple[float, float]:
    """How many real neighbourhoods a sample lies in, and the share of them that samples reach.

    Density is 1 in the mean for equal distributions and can be above it; coverage is 1 - 2⁻ᵏ for
    equal distributions and many rows. Outliers among the samples change neither, which precision
    and recall can't say.

    Source: Naeem et al. 2020, https://arxiv.org/abs/2002.09797.

    Args:
        real: features of real examples, (N, D) or (N, ...), N above k.
        generated: features of generated examples, (M, D).
        k: which neighbour gives the radius, the point itself not counted.

    Returns:
        `(density, coverage)`, floats.

    Raises:
        ValueError: for k or fewer real rows, rows of two widths, or numbers that aren't finite.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        rng = np.random.default_rng(0)
        real, generated = rng.normal(size=(500, 2)), rng.normal(size=(500, 2))
        density, coverage = ak.metrics.density_coverage(real, generated)
        assert abs(density - 1) < 0.15 and coverage > 0.9
        ```
    """
    generated = checked_rows("generated", generated)
    real = checked_rows("real", real, least=k + 1)
    checked_pair(real, generated)
    radii = _radii(real, k)
    inside = covered = 0
    for part in in_chunks(len(real)):
        distances = squared_distances(real[part], generated)
        inside += (distances < radii[part, None]).sum()
        covered += (distances.min(axis=1) < radii[part]).sum()
    return float(inside / (k * len(generated))), float(covered / len(real))


def nearest_training(generated: Tensor, train: Tensor, held_out: Tensor) -> float:
    """How near samples come to the training examples, beside what held-out examples do.

    The median distance of a sample to its nearest training example, divided by that of a held-out
    example: 1 for a model that learnt the distribution, towards 0 for one that learnt its examples
    by heart, above 1 for samples that lie beside the data.

    Args:
        generated: features of generated examples, (N, D) or (N, ...).
        train: features of the examples that the model was trained on, (M, D).
        held_out: features of examples that it hasn't seen, (L, D).

    Returns:
        A float, at least 0.

    Raises:
        ValueError: for rows of two widths, numbers that aren't finite, or held-out examples of
            which more than half are training examples too.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        rng = np.random.default_rng(0)
        train, held_out, new = rng.normal(size=(3, 500, 2))
        assert ak.metrics.nearest_training(train[:100], train, held_out) == 0.0
        assert abs(ak.metrics.nearest_training(new, train, held_out) - 1) < 0.3
        ```
    """
    generated, train = checked_pair(generated, train, ("generated", "train"))
    held_out, _ = checked_pair(held_out, train, ("held_out", "train"))
    usual = np.median(_nearest(held_out, train))
    if usual == 0:
        raise ValueError(
            "`held_out` must be other examples than `train`. Received: "
            "more than half of its rows stand in `train` too."
        )
    return float(np.median(_nearest(generated, train)) / usual)


def mode_coverage(samples: Tensor, centres: Tensor, radius: float) -> float:
    """The share of modes that have a sample within `radius`: 1 if none was dropped.

    Args:
        samples: points, (N, D).
        centres: where the modes are, (K, D).
        radius: in units of the data; three standard deviations of a mode are usual.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: for rows of two widths, numbers that aren't finite, or a radius that isn't
            above 0.

    Example:

        ```python
        import artifex_keras as ak

        centres = [[0.0, 0.0], [4.0, 0.0]]
        assert ak.metrics.mode_coverage([[0.1, 0.0], [0.2, 0.1]], centres, radius=0.5) == 0.5
        ```
    """
    samples, centres = checked_pair(samples, centres, ("samples", "centres"))
    radius = number("radius", radius, above=0)
    return float((_nearest(centres, samples) < radius).mean())


def _nearest(rows, others):
    """The distance of each row to the nearest of `others`. Equal rows give exactly 0."""
    found = []
    for part in in_chunks(len(rows)):
        nearest = others[squared_distances(rows[part], others).argmin(axis=1)]
        found.append(np.sqrt(((rows[part] - nearest) ** 2).sum(axis=1)))
    return np.concatenate(found)


def _radii(rows, k):
    """The squared distance of each row to its k-th neighbour among the other rows."""
    found = []
    for part in in_chunks(len(rows)):
        distances = squared_distances(rows[part], rows)
        own = np.arange(len(distances))
        distances[own, own + part.start] = -1.0  # itself comes first, whatever the rounding
        found.append(np.partition(distances, k, axis=1)[:, k])
    return np.concatenate(found)


def _share_inside(rows, others, k):
    """The share of `rows` within the radius of one of `others`."""
    radii = _radii(others, k)
    inside = [
        (squared_distances(rows[part], others) < radii).any(axis=1) for part in in_chunks(len(rows))
    ]
    return float(np.concatenate(inside).mean())
