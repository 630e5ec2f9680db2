"""Passes of a torch `DataLoader` that begin in their middle."""

from artifex_keras import backend
from artifex_keras.backend import keras_internals
from artifex_keras.backend.sources import is_stream, loader_like
from artifex_keras.callbacks.checkpoint.randomness import (
    has_generator,
    noted_randomness,
    restore_randomness,
)
from artifex_keras.callbacks.checkpoint.seekable import Noted

__all__ = ["Loader"]


class Loader(Noted):
    """A torch `DataLoader` of rows by number: its sampler goes on to the batch, no row is taken.

    What the rows draw from the global generators in this process goes on. Workers are started at
    the batch, so what they draw doesn't: where the checksum shows it, the pass is read again.
    """

    reads_again = True

    @staticmethod
    def reads(adapter):
        loader = keras_internals.loader_of(adapter)
        if loader is None or is_stream(loader.dataset):
            return False
        if loader.num_workers > 0:
            return backend.name() != "tensorflow"  # where no checksum shows another batch
        return not has_generator(loader.dataset)

    def __init__(self, adapter):
        super().__init__(adapter)
        self._loader = keras_internals.loader_of(adapter)
        keras_internals.set_loader(adapter, self._noted(self._loader))

    def generators(self):
        loader = self._loader
        samplers = loader.batch_sampler, getattr(loader.batch_sampler, "sampler", loader.sampler)
        found = [getattr(each, "generator", None) for each in (loader, *samplers)]
        return list({id(each): each for each in found if each is not None}.values())

    def note(self, index):
        note = super().note(index)
        return None if note is None else {"random": note()}

    def can_seek(self, note):
        return "random" in (note or ())

    def _noted(self, loader):
        """The same loader, whose passes begin where we say. The user's own stays as it is."""
        kind = type(loader)

        def iterate(same):
            index, note = self._begin()
            order.skip(index, note)
            batches = kind.__iter__(same)
            return self._batches(batches, index)

        name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        order = _Order(getattr(loader, name), loader.num_workers == 0)
        return loader_like(loader, iterate, {name: order, "_iterator": None})

    def _batches(self, batches, index):
        while True:
            self._add(index, noted_randomness())
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch
            index += 1


class _Order:
    """The numbers that a sampler gives, from where a pass begins.

    Args:
        sampler: of numbers of rows, or of lists of them.
        restores: whether the random states of a note are set when the place is reached. A loader
            with workers is ahead of its batches, and what it draws goes on by itself.
    """

    def __init__(self, sampler, restores):
        self._sampler, self._restores = sampler, restores
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
        if note is not None and self._restores:
            restore_randomness(note["random"])
        yield from numbers
