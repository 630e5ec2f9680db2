"""The metrics by name, and what each is called in logs."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import broken_rule, lookup
from artifex_keras.metrics.errors import standard_error
from artifex_keras.metrics.frechet import frechet_bias, frechet_distance
from artifex_keras.metrics.kernel import kernel_distance, mmd
from artifex_keras.metrics.neighbours import density_coverage, precision_recall
from artifex_keras.metrics.projections import sliced_wasserstein
from artifex_keras.metrics.two_samples import classifier_two_sample

__all__ = ["METRICS", "Metric", "checked_metrics", "measured"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A function of two samples, the names of what it gives, and which way is better."""

    function: Callable
    names: tuple
    modes: tuple  # "min", "max" or None for each name
    bias: Callable | None = None  # what equal distributions would give, at this number of rows
    resampled: bool = True  # whether its error is found by computing it again on random halves


METRICS = {
    "frechet": Metric(frechet_distance, ("frechet_distance",), ("min",), bias=frechet_bias),
    "kernel": Metric(
        kernel_distance, ("kernel_distance", "kernel_distance_error"), ("min", None),
        resampled=False,
    ),
    "precision_recall": Metric(precision_recall, ("precision", "recall"), ("max", "max")),
    "density_coverage": Metric(density_coverage, ("density", "coverage"), (None, "max")),
    "sliced_wasserstein": Metric(sliced_wasserstein, ("sliced_wasserstein",), ("min",)),
    "mmd": Metric(mmd, ("mmd",), ("min",)),
    "classifier_two_sample": Metric(  # which trains two networks each time, and knows its error
        classifier_two_sample, ("classifier_two_sample",), ("min",), resampled=False
    ),
}  # fmt: skip


def checked_metrics(name, value):
    """Metrics by name: from one name, a function, or a list of them.

    Raises:
        ValueError: for an unknown name, with the nearest, or what is neither name nor function.
    """
    given = [value] if isinstance(value, str) or callable(value) else value
    if not isinstance(given, list | tuple) or not given:
        raise broken_rule(name, value, "names of `metrics.METRICS` and functions of two arrays")
    return {_name(each): _metric(name, each) for each in given}


def _name(metric):
    return metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")


def _metric(name, given):
    if not callable(given):
        return lookup(METRICS, given, "metric")
    known = next((row for row in METRICS.values() if row.function is given), None)
    return known or Metric(given, (_name(given),), (None,))


def measured(
    metrics: Any, real: Tensor, generated: Tensor, *, seed: int | None = None, errors: bool = False
):
    """The numbers that metrics give for two samples, by name.

    Args:
        metrics: names of `METRICS`, or functions of `(real, generated)` that give a float, a tuple
            or a dict.
        real: real examples or features of them, (N, D) or (N, ...).
        generated: generated ones, (M, D).
        seed: makes those metrics repeatable that draw numbers.
        errors: whether to add "..._error", the standard error by `standard_error` (not of
            "classifier_two_sample", whose error is .5 / √N at most), and "..._bias", what equal
            distributions would give, where it is known.

    Returns:
        A dict of floats.

    Raises:
        ValueError: for an unknown name, with the nearest.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        real, generated = np.random.default_rng(0).normal(size=(2, 200, 2))
        found = ak.metrics.measured(["frechet", "precision_recall"], real, generated)
        assert sorted(found) == ["frechet_distance", "precision", "recall"]
        ```
    """
    found = {}
    for metric in checked_metrics("metrics", metrics).values():
        compute = _seeded(metric.function, seed)
        values = _by_name(metric, compute(real, generated))
        found |= values
        if errors and metric.resampled:
            again = functools.partial(_values, metric, compute)
            deviations = standard_error(again, real, generated, seed=seed)
            found |= {
                f"{name}_error": error for name, error in zip(values, deviations, strict=True)
            }
        if errors and metric.bias is not None:
            found[f"{metric.names[0]}_bias"] = metric.bias(real, generated)
    return found


def _seeded(function, seed):
    accepts = "seed" in inspect.signature(function).parameters
    return functools.partial(function, seed=seed) if accepts else function


def _values(metric, compute, real, generated):
    return tuple(_by_name(metric, compute(real, generated)).values())


def _by_name(metric, result):
    """A metric's result as a dict of floats by name."""
    if isinstance(result, dict):
        return {name: float(value) for name, value in result.items()}
    values = np.atleast_1d(np.asarray(result, "float64"))
    names = metric.names
    if len(names) != len(values):
        names = [f"{metric.names[0]}_{index}" for index in range(len(values))]
    return dict(zip(names, map(float, values), strict=True))
