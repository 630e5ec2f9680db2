"""The same batches in every form in which `fit` takes them, in the same order."""

import importlib.util
import itertools

import keras
import numpy as np

BATCH = 16


def batches(arrays):
    """Tuples of NumPy arrays."""
    return [
        tuple(array[start : start + BATCH] for array in arrays)
        for start in range(0, len(arrays[0]), BATCH)
    ]


def named(batch):
    return dict(zip(("x", "y"), batch, strict=False))


class Batches(keras.utils.PyDataset):
    """Batches by index."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    num_batches = property(lambda self: len(self.made))

    def __getitem__(self, index):
        return self.made[index]


class Endless(Batches):
    num_batches = None

    def __getitem__(self, index):
        return self.made[index % len(self.made)]


def alone(batch):
    """A batch as a loader of plain tensors gives it."""
    return batch[0] if len(batch) == 1 else batch


def grain_data(arrays, change=tuple, transform=lambda data: data):
    import grain

    rows = list(zip(*arrays, strict=True))
    return transform(grain.MapDataset.source(rows).map(change).batch(BATCH))


def tf_data(arrays, transform=lambda data: data):
    import tensorflow as tf

    return transform(tf.data.Dataset.from_tensor_slices(tuple(arrays)).batch(BATCH))


def torch_loader(arrays, change=tuple, stream=False):
    import torch
    from torch.utils import data

    rows = [
        change(torch.as_tensor(a) for a in map(np.asarray, row))
        for row in zip(*arrays, strict=True)
    ]

    class Stream(data.IterableDataset):
        def __iter__(self):
            return iter(rows)

    return data.DataLoader(Stream() if stream else rows, batch_size=BATCH)


def first_or_all(row):
    return alone(tuple(row))


def as_dict(row):
    return named(tuple(row))


# By name: how to make it of arrays, and whether `fit` needs `steps_per_epoch`.
SOURCES = {
    "PyDataset": (lambda arrays: Batches(batches(arrays)), False),
    "PyDataset of dicts": (lambda arrays: Batches([*map(named, batches(arrays))]), False),
    "endless PyDataset": (lambda arrays: Endless(batches(arrays)), True),
    "generator": (lambda arrays: (b for b in itertools.cycle(batches(arrays))), True),
    "generator of arrays": (lambda arrays: (alone(b) for b in batches(arrays) * 2), True),
    "iterator of dicts": (lambda arrays: map(named, itertools.cycle(batches(arrays))), True),
    "dict of arrays": (named, False),
    "grain": (grain_data, False),
    "grain of dicts": (lambda arrays: grain_data(arrays, as_dict), False),
    "grain without length": (
        lambda a: grain_data(a, transform=lambda d: d.to_iter_dataset()),
        False,
    ),
    "endless grain": (lambda a: grain_data(a, transform=lambda d: d.repeat()), True),
    "tf.data": (tf_data, False),
    "tf.data without length": (lambda a: tf_data(a, lambda d: d.filter(lambda *b: True)), False),
    "endless tf.data": (lambda a: tf_data(a, lambda d: d.repeat()), True),
    "tf.data of dicts": (lambda a: tf_data(a, lambda d: d.map(lambda *b: named(b))), False),
    "torch": (torch_loader, False),
    "torch of tensors": (lambda arrays: torch_loader(arrays, first_or_all), False),
    "torch of dicts": (lambda arrays: torch_loader(arrays, as_dict), False),
    "torch without length": (lambda a: torch_loader(a, first_or_all, stream=True), False),
}
PACKAGES = {"grain": "grain", "tf.data": "tensorflow", "torch": "torch"}


# Another structure of a batch is compiled anew, and "endless grain" looks long for its end.
OTHERS = {name for name in SOURCES if name.endswith("of dicts")} | {"endless grain"}


def available(others=True):
    """The names of those whose package is there; `others` says whether with those of `OTHERS`."""
    missing = {name for name, package in PACKAGES.items() if not importlib.util.find_spec(package)}
    names = [name for name in SOURCES if not any(word in name for word in missing)]
    return [name for name in names if others or name not in OTHERS]
