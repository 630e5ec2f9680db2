"""Checksums of batches, by which a resumed run knows the data again."""

import zlib

import keras
import numpy as np

from artifex_keras.backend import keras_internals
from artifex_keras.backend.processes import to_host_array

__all__ = [
    "draws_own_numbers",
    "fingerprint",
    "first_of_pass",
    "is_one_pass",
]


def fingerprint(batch):
    """A checksum of a batch; None where batches can't be seen."""
    if batch is None:
        return None
    total = 0
    for value in keras.tree.flatten(batch):
        if value is not None and hasattr(value, "shape"):
            array = np.ascontiguousarray(to_host_array(value))
            total = zlib.crc32(array.reshape(-1).view(np.uint8), total)
    return total


def is_one_pass(adapter):
    """Whether the data are a generator, which can't be read again."""
    return hasattr(adapter, "generator")


def first_of_pass(open_pass):
    """The fingerprint of the first batch of a pass, which is opened and closed again."""
    batches = iter(open_pass())
    first = fingerprint(next(batches, None))
    if hasattr(batches, "close"):
        batches.close()
    return first


def draws_own_numbers(adapter, restore):
    """Whether one index of the source gives two batches after `restore()`, which sets the random
    generators that are known."""
    source = getattr(adapter, "py_dataset", None)
    if source is None:
        source = getattr(keras_internals.loader_of(adapter), "dataset", None)
    if not hasattr(type(source), "__getitem__"):
        return False
    prints = set()
    for _ in range(2):
        restore()
        prints.add(fingerprint(source[0]))
    return len(prints) > 1
