"""Metrics of samples: how far generated examples are from real ones.

Each is a function of two arrays, (N, D) or (N, ...), of the examples themselves or of features of
them. `METRICS` has the names that `SampleMetricsCallback` and `artifex-keras evaluate --metrics`
take.
"""

from artifex_keras.metrics.errors import standard_error
from artifex_keras.metrics.features import classifier_features, extracted
from artifex_keras.metrics.frechet import FrechetDistance, frechet_bias, frechet_distance
from artifex_keras.metrics.kernel import KernelDistance, kernel_distance, mmd
from artifex_keras.metrics.named import METRICS, measured
from artifex_keras.metrics.neighbours import (
    density_coverage,
    mode_coverage,
    nearest_training,
    precision_recall,
)
from artifex_keras.metrics.projections import sliced_wasserstein
from artifex_keras.metrics.two_samples import classifier_two_sample

__all__ = [
    "METRICS",
    "FrechetDistance",
    "KernelDistance",
    "classifier_features",
    "classifier_two_sample",
    "density_coverage",
    "extracted",
    "frechet_bias",
    "frechet_distance",
    "kernel_distance",
    "measured",
    "mmd",
    "mode_coverage",
    "nearest_training",
    "precision_recall",
    "sliced_wasserstein",
    "standard_error",
]
