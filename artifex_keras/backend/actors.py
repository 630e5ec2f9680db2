"""Who samples: the devices that a distribution keeps for it, while others learn."""

import keras

__all__ = ["actors"]


def actors():
    """The distribution over the devices that sample, of that in force; None where all do both."""
    return getattr(keras.distribution.distribution(), "actors", None)
