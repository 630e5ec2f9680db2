"""Which weights of a model are no numbers."""

import numpy as np
from keras import ops

__all__ = ["describe_weights"]


def describe_weights(model):
    """A sentence: how many weights hold NaN or infinity, and the first of them.

    It reads all weights, so it is for a run that has ended.
    """
    bad = [weight.path for weight in model.weights if not _is_finite(weight)]
    if not bad:
        return "All weights are finite."
    return f"Of {len(model.weights)} weights {len(bad)} are not finite, first {bad[0]!r}."


def _is_finite(weight):
    return bool(np.isfinite(ops.convert_to_numpy(weight.value).astype("float64")).all())
