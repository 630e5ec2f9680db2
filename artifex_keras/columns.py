"""What columns of data look like: their mean and deviation, and those that don't vary."""

import math

import numpy as np

from artifex_keras.utils import warn

__all__ = ["column_moments", "constant_columns", "warn_of_constants"]

REACH = 20.0  # deviations from the mean to the furthest value, at most


def column_moments(x):
    """`(mean, std)` of each entry of x (N, ...), float64, to standardise by.

    The deviation of a rare entry is such that no value is further than 20 of them from the mean;
    an entry that doesn't vary has the typical deviation of the others, 1 if there are none.
    """
    x = np.asarray(x, "float64")
    mean, std = x.mean(axis=0), x.std(axis=0)
    std = np.maximum(std, np.maximum(x.max(axis=0) - mean, mean - x.min(axis=0)) / REACH)
    constant = constant_columns(x)
    varying = std[~constant]
    typical = np.exp(np.log(varying).mean()) if varying.size else 1.0
    return mean, np.where(constant, typical, std)


def constant_columns(x):
    """Which entries of x (N, ...) don't vary, but for the rounding of float32: booleans (...)."""
    low, high = x.min(axis=0), x.max(axis=0)
    largest = np.maximum(np.abs(low.astype("float64")), np.abs(high.astype("float64")))
    return high.astype("float64") - low <= 1e-6 * largest


def warn_of_constants(x, cure):
    """Warns if entries of x (N, ...) don't vary, and names them; `cure` ends the sentence."""
    places = np.argwhere(constant_columns(x)) if len(x) > 1 else []
    if not len(places) or not math.prod(x.shape[1:]):
        return
    names = [str(place[0] if len(place) == 1 else tuple(place.tolist())) for place in places[:8]]
    more = f" and {len(places) - 8} more" if len(places) > 8 else ""
    what = "Column" if x.ndim == 2 else "Entry"
    plural = what if len(places) == 1 else {"Column": "Columns", "Entry": "Entries"}[what]
    verb = "doesn't" if len(places) == 1 else "don't"
    warn(f"{plural} {', '.join(names)}{more} of the data {verb} vary in {len(x)} rows: {cure}")
