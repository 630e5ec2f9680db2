"""Passes of a torch `DataLoader` that begin in their middle."""

from artifex_keras import backend
from artifex_keras.backend import keras_internals
from artifex_keras.backend.sources import is_stream, loader_like
from artifex_keras.callbacks.checkpoint.generators import (
    generators_in,
    has_seed_generator,
    own_generators,
)
from artifex_keras.callbacks.checkpoint.seekable import NotedRandomness

__all__ = ["Loader"]


class Loader(NotedRandomness):
    """A torch `DataLoader` of rows by number: its sampler goes on to the batch, no row is taken.

    What the rows draw in this process goes on. Workers are started at the batch, so what they draw
    doesn't: where the checksum shows it, the pass is read again.
    """

    reads_again = True

    @staticmethod
    def reads(adapter):
        loader = keras_internals.loader_of(adapter)
        if loader is None or is_stream(loader.dataset):
            return False
        if loader.num_workers > 0:
            return backend.name() != "tensorflow"  # where no checksum shows another batch
        return not has_seed_generator(loader.dataset)

    def __init__(self, adapter):
        super().__init__(adapter)
        self._loader = keras_internals.loader_of(adapter)
        keras_internals.set_loader(adapter, self._noted(self._loader))

    def generators(self):
        loader = self._loader
        samplers = loader.batch_sampler, getattr(loader.batch_sampler, "sampler", loader.sampler)
        found = [getattr(each, "generator", None) for each in (loader, *samplers)]
        return generators_in([*found, *self.drawn_from()])

    def drawn_from(self):
        """Those from which rows are drawn in this process; a worker has copies of them."""
        return own_generators(self._loader.dataset) if self._loader.num_workers == 0 else []

    def _noted(self, loader):
        """The same loader, whose passes begin where we say. The user's own stays as it is."""
        kind = type(loader)

        def iterate(same):
            index, note = self._begin()
            order.skip(index, note)
            batches = kind.__iter__(same)
            return self._noting(batches, index)

        name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        order = _Order(getattr(loader, name), self._restore)
        return loader_like(loader, iterate, {name: order, "_iterator": None})

    def _restore(self, note):
        """Sets the generators to a note's states; a loader with workers is ahead of its batches,
        and what it draws goes on by itself."""
        if self._loader.num_workers == 0:
            super()._restore(note)


class _Order:
    """The numbers that a sampler gives, from where a pass begins.

    Args:
        sampler: of numbers of rows, or of lists of them.
        restore: called with the note of the place when it is reached.
    """

    def __init__(self, sampler, restore):
        self._sampler, self._restore = sampler, restore
        self._target = 0, None

    def __getattr__(self, name):
        if name == "_sampler":
            raise AttributeError(name)
        return getattr(self._sampler, name)

    def __len__(self):
        return len(self._sampler)

    def skip(self, count, note):
        self._target = count, note

    def __iter__(self):
        return self._rest(iter(self._sampler), *self._target)  # a pass may ask for it twice

    def _rest(self, numbers, count, note):
        for _ in range(count):
            next(numbers, None)
        if note is not None:
            self._restore(note)
        yield from numbers
