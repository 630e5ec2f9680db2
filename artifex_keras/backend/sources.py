"""What `fit` may be given as data: one description of it, and the form in which Keras reads it."""

import collections
import dataclasses
import itertools

import keras

from artifex_keras.backend import keras_internals

__all__ = [
    "Source",
    "describe",
    "is_arrays",
    "is_stream",
    "loader_like",
    "readable_batches",
    "shard_of",
]

ENDLESS = 1 << 48  # a grain dataset that repeats for ever says a length of about 2**63


@dataclasses.dataclass(frozen=True)
class Source:
    """What is known of data before they are read.

    Attributes:
        batches: how many a pass has; None if nobody knows, or if it has no end.
        endless: whether it is known that a pass has no end.
        rows: how many examples a pass has; None if nobody knows.
        repeatable: whether it can be read again from the beginning; an iterator can't.
    """

    batches: int | None = None
    endless: bool = False
    rows: int | None = None
    repeatable: bool = True


def describe(data, batch_size=None):
    """The `Source` that any data are which `fit` takes. Nothing is read.

    Args:
        data: arrays, or batches in any form.
        batch_size: of arrays; None is Keras's 32.
    """
    if is_arrays(data):
        leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
        rows = min(int(leaf.shape[0]) if len(leaf.shape) else 1 for leaf in leaves)
        return Source(batches=-(-rows // (batch_size or 32)), rows=rows)
    count = _length(data)
    endless = count is not None and (count < 0 or count >= ENDLESS) or _repeats(data)
    return Source(
        batches=None if endless else count,
        endless=endless,
        rows=getattr(data, "rows", None) if isinstance(data, keras.utils.PyDataset) else None,
        repeatable=not hasattr(data, "__next__"),
    )


def _length(data):
    """How many batches data say that they have; -1 for no end; None if they don't know."""
    if hasattr(data, "num_batches"):
        count = data.num_batches
        return -1 if count is None and isinstance(data, keras.utils.PyDataset) else count
    if hasattr(data, "cardinality"):  # tf.data: -1 for infinite, -2 for unknown
        count = int(data.cardinality())
        return None if count < -1 else count
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


def _repeats(data):
    """Whether an iterator of itertools has no end, or a grain dataset that knows no length."""
    if isinstance(data, (itertools.cycle, itertools.count)):
        return True
    parents = getattr(data, "parents", ())
    return not callable(parents) and any(describe(parent).endless for parent in parents)


def is_arrays(data):
    """Whether `data` is an array, or a tuple, list or dict of arrays."""
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    return bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves)


def shard_of(data):
    """`(index, count)` of the shard that a grain `DataLoader` reads; (0, 1) of anything else."""
    data = getattr(data, "source", data)  # one whose passes a callback notes
    shard = getattr(data, "_shard_options", None)
    return (0, 1) if shard is None else (shard.shard_index, shard.shard_count)


def is_stream(dataset):
    """Whether a torch dataset gives its rows one after the other, and none by number."""
    return any(kind.__name__ == "IterableDataset" for kind in type(dataset).__mro__)


def readable_batches(data):
    """`data` in a form of which Keras's adapters take each batch: an array, a dict or a tuple.

    A torch DataLoader and an iterator must give tuples there; theirs become some. Others stay.
    """
    if keras_internals.is_torch_loader(data):
        return _loader_of_tuples(data)
    if isinstance(data, collections.abc.Iterator):
        return (_as_tuple(batch) for batch in data)
    return data


def _as_tuple(batch):
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)


def _loader_of_tuples(loader):
    """The same loader, its batches as tuples."""
    kind = type(loader)
    if getattr(kind, "gives_tuples", False):
        return loader

    def iterate(self):
        return map(_as_tuple, kind.__iter__(self))

    return loader_like(loader, iterate, {}, gives_tuples=True)


def loader_like(loader, iterate, changes, **names):
    """A torch DataLoader with other passes; the user's own object stays as it is.

    Args:
        iterate: its `__iter__`.
        changes: attributes of it that are others than those of `loader`, by name.
        names: attributes of its class.
    """
    kind = type(loader)
    same = object.__new__(type(kind.__name__, (kind,), {"__iter__": iterate, **names}))
    same.__dict__.update(loader.__dict__ | changes)
    return same
