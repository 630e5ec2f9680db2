"""Passes over data that begin in their middle: batches before it are not made."""

import copy
import json

import numpy as np

from artifex_keras import backend
from artifex_keras.backend import keras_internals, processes
from artifex_keras.backend.adapters import innermost
from artifex_keras.backend.workers import workers_of
from artifex_keras.callbacks.checkpoint.fingerprints import fingerprint
from artifex_keras.callbacks.checkpoint.generators import has_seed_generator, own_generators
from artifex_keras.callbacks.checkpoint.loaders import Loader
from artifex_keras.callbacks.checkpoint.randomness import randomness, restore_randomness
from artifex_keras.callbacks.checkpoint.seekable import Noted, NotedRandomness, Unseekable
from artifex_keras.trust import parse_json

__all__ = ["seeker"]

AHEAD = 4  # batches that are read before it is their turn, beside those of one execution
PREFETCHED = 512  # as many as tf.data is given room to read before; it chooses how many it does


def seeker(adapter, steps_per_execution):
    """What lets the next pass of Keras's adapter begin at any batch.

    It can do so with arrays (not on TensorFlow, which gathers their rows inside of tf.data), a
    `PyDataset`, grain, and a torch loader of rows by number.
    """
    adapter = innermost(adapter)
    if not hasattr(adapter, "_artifex_keras_seeker"):  # a user's own may be read by several `fit`s
        adapter._artifex_keras_seeker = _kind(adapter)(adapter)
    ahead = AHEAD if backend.name() != "tensorflow" else PREFETCHED
    adapter._artifex_keras_seeker.begin_fit(2 * steps_per_execution + ahead)
    return adapter._artifex_keras_seeker


def _kind(adapter):
    kinds = (Arrays, Indexed, WithWorkers, Grain, Loader)
    return next((kind for kind in kinds if kind.reads(adapter)), Unseekable)


class Arrays(Unseekable):
    """Arrays: Keras draws the order anew, and takes no rows for the batches before."""

    @staticmethod
    def reads(adapter):
        if backend.name() == "tensorflow":
            return False
        return keras_internals.has_arrays(adapter) and keras_internals.has_batches(adapter)

    def note(self, index):
        return {}

    def can_seek(self, note):
        return note == {}

    def seek(self, index, note):
        if backend.name() == "torch":
            self._seek_loader(index)
        else:
            self._seek_batches(index)

    def _seek_batches(self, index):
        def opened(take, arrays):
            keras_internals.replace_batches(self._adapter, open_pass)
            reached = False

            def rows(array, indices):
                return take(array, indices=indices) if reached else None

            batches = open_pass(rows, arrays)
            for _ in range(index):
                next(batches, None)
            reached = True
            yield from batches

        open_pass = keras_internals.replace_batches(self._adapter, opened)

    def _seek_loader(self, index):
        def opened():
            self._adapter.get_torch_dataloader = open_pass
            loader = open_pass()
            loader.dataset.__getitems__ = lambda indices: None
            batches = iter(loader)
            for _ in range(index):
                next(batches, None)
            del loader.dataset.__getitems__
            yield from batches

        open_pass = self._adapter.get_torch_dataloader
        self._adapter.get_torch_dataloader = opened


class Indexed(NotedRandomness):
    """A `PyDataset` without workers: asked for the batches from an index on.

    The note is the state of the global random generators and of those among its attributes, from
    which a batch may be drawn. A source with one of Keras's is read from its beginning.
    """

    @staticmethod
    def reads(adapter):
        source = getattr(adapter, "py_dataset", None)
        if source is None or adapter.enqueuer is not None or has_seed_generator(source):
            return False
        return keras_internals.has_batches(adapter)

    def __init__(self, adapter):
        super().__init__(adapter)
        self._open_pass = keras_internals.replace_batches(adapter, self._opened)

    def generators(self):
        return own_generators(self._adapter.py_dataset)

    def _opened(self):
        index, note = self._begin()
        batches = self._open_pass()
        if note is not None:
            self._pass_over(batches, index)
            self._restore(note)
        yield from self._noting(batches, index)

    def _pass_over(self, batches, count):
        """Lets Keras draw the order and count, without a batch being made."""
        source = self._adapter.py_dataset
        self._adapter.py_dataset = _Placeholders(source.num_batches)
        for _ in range(count):
            next(batches, None)
        self._adapter.py_dataset = source


class WithWorkers(Unseekable):
    """A `PyDataset` with workers: they begin at the batch.

    What several of them draw is in no order. Where the checksum shows that a batch isn't the same,
    the pass is read again.
    """

    reads_again = True

    @staticmethod
    def reads(adapter):
        if workers_of(adapter) is None or own_generators(adapter.py_dataset):
            return False
        return not has_seed_generator(adapter.py_dataset)

    def note(self, index):
        return {}

    def can_seek(self, note):
        if note == {} and backend.name() == "tensorflow":  # no checksum would show another batch
            return not self._draws()
        return note == {}

    def _draws(self):
        """Whether one index gives two batches, as far as one index shows it."""
        states = randomness()
        first, second = (fingerprint(self._adapter.py_dataset[0]) for _ in range(2))
        restore_randomness(states)
        return first != second

    def seek(self, index, note):
        workers_of(self._adapter).begin_at(index)


class _Placeholders:
    """Stands in for a `PyDataset` whose batches nobody looks at."""

    def __init__(self, num_batches):
        self.num_batches = num_batches

    def __getitem__(self, index):
        return np.zeros(0)


class Grain(Noted):
    """A grain dataset or `DataLoader`: its iterator gives its state and takes it.

    Of several processes each has a state of its own, where each reads a shard.
    """

    @staticmethod
    def reads(adapter):
        return keras_internals.reads_grain(adapter)

    def __init__(self, adapter):
        super().__init__(adapter)
        dataset = keras_internals.dataset_of(adapter)
        keras_internals.set_dataset(adapter, _noted(dataset, self))

    def note(self, index):
        states = processes.gather(super().note(index))
        return None if any(state is None for state in states) else {"iterators": states}

    def can_seek(self, note):
        return self._own_state(note) is not None

    def seek(self, index, note):
        super().seek(index, self._own_state(note))

    def _own_state(self, note):
        """This process's state; None where there were others and each had its own."""
        states = (note or {}).get("iterators", ())
        if len(states) == processes.count():
            return states[processes.index()]
        return states[0] if states and all(state == states[0] for state in states) else None

    def begin(self, iterator):
        """Sets a new iterator to where the pass begins; gives the number of its next batch."""
        index, state = self._begin()
        if state is not None:
            _set_state(iterator, state)
        return index

    def add(self, index, iterator):
        state = iterator.get_state()
        state = state.decode() if isinstance(state, bytes) else copy.deepcopy(state)
        self._add(index, state)


def _set_state(iterator, state):
    if not isinstance(state, str):
        iterator.set_state(state)
        return
    # A DataLoader compares how its source is printed, which may be its address in memory.
    source = parse_json(iterator.get_state().decode()).get("data_source")
    state = parse_json(state)
    if " at 0x" in str(source):
        state["data_source"] = source
    iterator.set_state(json.dumps(state, indent=4).encode())


def _noted(dataset, seeker):
    """The dataset as one whose iterators begin where `seeker` says, and note their states there."""
    import grain

    class Batches(grain.DatasetIterator):
        def __init__(self):
            super().__init__()
            self._source = iter(dataset)
            self._index = seeker.begin(self._source)

        def __next__(self):
            seeker.add(self._index, self._source)
            batch = next(self._source)
            self._index += 1
            return batch

        def get_state(self):
            return self._source.get_state()

        def set_state(self, state):
            self._source.set_state(state)

    class Passes(grain.IterDataset):
        source = dataset

        def __iter__(self):
            return Batches()

    return Passes()
