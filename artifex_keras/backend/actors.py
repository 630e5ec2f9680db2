"""Who samples: the devices that a distribution keeps for it, while others learn."""

import keras

__all__ = ["actors", "role"]


def actors():
    """The distribution over the devices that sample, of that in force; None where all do both."""
    return getattr(keras.distribution.distribution(), "actors", None)


def role():
    """What this process does under the distribution in force, "learner" or "actor"; None where it
    does both."""
    return getattr(keras.distribution.distribution(), "role", None)
