"""Model FLOPs utilization, MFU: which share of its chips' peak figures a run reaches."""

import keras

from artifex_keras.backend import choice
from artifex_keras.backend.chips import CHIPS, chip_of, precision

__all__ = ["steps_at_peak"]


def steps_at_peak(model, rows=None):
    """Steps per second at which a running `fit` would reach the peak figures of all its devices.

    None where that isn't known: for a chip that isn't in `CHIPS`, on TensorFlow and torch, for
    models that aren't ours, and for steps of which nobody knows how often a loop turns.

    Args:
        rows: of a batch; None takes the largest that was trained on.
    """
    if choice.name() != "jax" or not hasattr(model, "traced_batches"):
        return None
    from artifex_keras.backend import lowering

    name = chip_of(lowering.device_kind())
    operations = None if name is None else lowering.step_operations(model, rows)
    if not operations:
        return None
    distribution = keras.distribution.distribution()
    devices = 1 if distribution is None else distribution.device_mesh.devices.size
    return devices * CHIPS[name].peak(precision(model)) / operations
