"""The workers of a `PyDataset`: each batch once a pass, in order, from any batch on."""

import contextlib
import random

__all__ = ["Workers", "workers_of"]


def workers_of(adapter):
    """The `Workers` of Keras's adapter of a `PyDataset`, from now on; None where it has none."""
    found = getattr(adapter, "enqueuer", None)
    if found is not None and not isinstance(found, Workers):
        found = adapter.enqueuer = Workers(adapter)
    return found


class Workers:
    """Stands in for the enqueuer of Keras's adapter, which keeps what it has made ahead of a pass.

    Keras stops its enqueuer at the end of an epoch, and gives the batches that nobody has taken in
    the next one, after which that begins with its first. So batches come twice and others never.
    It also draws the order in a thread. Here each pass has an enqueuer of its own, made at its
    first batch, and the order is drawn where that is asked for.
    """

    def __init__(self, adapter):
        source = adapter.py_dataset
        self._source, self._shuffle = source, adapter.shuffle
        self._kind = type(adapter.enqueuer)
        adapter.enqueuer.stop()
        self._options = {
            "workers": source.workers,
            "use_multiprocessing": source.use_multiprocessing,
            "max_queue_size": source.max_queue_size,
        }
        self._first = 0
        self._running = None

    def begin_at(self, index):
        """Lets the next pass begin with that batch: none before it is made."""
        self._first = index

    def start(self):
        """Does nothing: they begin when a batch is asked for."""

    def stop(self):
        """Stops them; a pass that isn't over begins them again with its next batch."""
        enqueuer, self._running = self._running, None
        if enqueuer is not None:
            with contextlib.suppress(Exception):  # of batches that nobody asks for any more
                enqueuer.stop()

    def get(self):
        """The batches of a pass."""
        index, self._first = self._first, 0
        count = self._source.num_batches
        order = None if count is None else list(range(count))
        if order is not None and self._shuffle:
            random.shuffle(order)
        own = None
        try:
            while count is None or index < count:
                if own is None or self._running is not own:
                    self.stop()
                    view = _From(self._source, order, index)
                    own = self._running = self._kind(view, **self._options)
                    own.start()
                    batches = own.get()
                yield next(batches)
                index += 1
        finally:
            if self._running is own:
                self.stop()


class _From:
    """A `PyDataset` in another order, from a place on.

    Args:
        order: the numbers of its batches; None for all numbers there are.
        start: how many of them are left out.
    """

    def __init__(self, source, order, start):
        self._source, self._order, self._start = source, order, start
        self.num_batches = None if order is None else len(order) - start

    def __getitem__(self, index):
        index += self._start
        return self._source[index if self._order is None else self._order[index]]
