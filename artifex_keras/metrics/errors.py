"""How exact a metric of two samples is, by computing it again on random halves."""

from collections.abc import Callable
from typing import Any

import numpy as np

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import checked, count, function, random_seed
from artifex_keras.metrics.rows import checked_pair

__all__ = ["standard_error"]


@checked(metric=function, num_resamples=count(2), seed=random_seed)
def standard_error(
    metric: Callable[..., Any],
    real: Tensor,
    generated: Tensor,
    num_resamples: int = 20,
    seed: int | None = None,
):
    """The standard error of a metric, from its values on random halves of both sets.

    A bootstrap without repeated rows: a row that stands twice would be its own neighbour, and
    would make a Fréchet distance larger. The variance of those values estimates that of the whole
    (the delete-half jackknife).

    Source: Shao and Wu 1989, Annals of Statistics 17, 1176.

    Args:
        metric: a function of `(real, generated)` that gives a float or several.
        real: features of real examples, (N, D) or (N, ...).
        generated: features of generated examples, (M, D).
        num_resamples: pairs of halves.
        seed: makes the halves repeatable.

    Returns:
        A float, or a tuple of them as `metric` gives.

    Raises:
        ValueError: for too few rows, rows of two widths, or numbers that aren't finite.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        real, generated = np.random.default_rng(0).normal(size=(2, 400, 2))
        error = ak.metrics.standard_error(ak.metrics.frechet_distance, real, generated, seed=0)
        assert 0 < error < 0.1
        ```
    """
    real, generated = checked_pair(real, generated, least=4)
    generator = np.random.default_rng(seed)
    values = [
        metric(*(_half(rows, generator) for rows in (real, generated)))
        for _ in range(num_resamples)
    ]
    errors = np.std(np.asarray(values, "float64"), axis=0, ddof=1)
    return float(errors) if errors.ndim == 0 else tuple(map(float, errors))


def _half(rows, generator):
    return rows[generator.choice(len(rows), len(rows) // 2, replace=False)]
