"""What a running `fit` does ahead: the next batch is sampled while Python judges the last one, or
while other devices learn from it."""

import functools
import itertools

import keras

from artifex_keras.backend import keras_internals, processes
from artifex_keras.utils import in_thread

__all__ = ["Ahead", "Overlap", "overlap_of"]


class Ahead:
    """Batches of which the next one may be looked at before it is its turn."""

    def __init__(self, batches):
        self.batches, self.ahead, self._error = batches, [], None

    def __iter__(self):
        return self

    def __next__(self):
        if not self.has_next():
            raise StopIteration
        return self.ahead.pop()

    def has_next(self):
        """Whether there is another batch, which is then read ahead."""
        if self._error is not None:
            raise self._error
        if not self.ahead:
            self.ahead.extend(itertools.islice(self.batches, 1))
        return bool(self.ahead)

    def peek(self):
        """The next batch; None where there is none, or where reading it raises an `Exception`,
        which is then raised when it is its turn."""
        try:
            return self.ahead[0] if self.has_next() else None
        except Exception as error:
            self._error = error
            return None


class Overlap:
    """The part on the host of a step in a thread, beside the first part of the next step.

    Every batch of an epoch but its first is begun with the weights before the update with the batch
    before it. What is begun ahead is lost with `forget()`: it is begun again when it is its turn.

    Args:
        iterator: Keras's iterator over the training data of a `fit`.
    """

    def __init__(self, iterator):
        self._iterator, self._batches, self._is_last = iterator, None, True
        self._next = None  # a batch and what `begin` gave for it
        self._keras_epoch = keras_internals.replace_epochs(iterator, self._enumerate_batches)

    def _enumerate_batches(self):
        """Keras's enumeration of the batches of an epoch, which can then be read ahead."""
        self.forget()
        for first, last, batches in self._keras_epoch():
            if hasattr(batches, "peek"):
                self._batches = batches
            elif getattr(self._batches, "batches", None) is not batches:
                self._batches = Ahead(batches)
            count = self._iterator.num_batches
            self._is_last = bool(count) and last + 1 >= count
            yield first, last, self._batches

    def forget(self):
        """Forgets what is begun ahead, so that it is begun again when it is its turn."""
        self._next = None

    def step(self, data, begin, between):
        """`(outputs, values)` of a batch: what `begin(data)` gave, now or in the step before, and
        what is made of it on the host.

        Args:
            begin: takes a batch, and sees what its last call has changed.
            between: a model's method of that name, which is given NumPy arrays and no `turn`; None
                where nothing is made on the host, which then waits for nothing.
        """
        ready, self._next = self._next, None
        outputs = ready[1] if ready is not None and ready[0] is data else begin(data)
        following = None if self._is_last else self._batches.peek()
        if between is None:
            if following is not None:
                self._next = following, begin(following)
            return outputs, ()
        on_host = keras.tree.map_structure(
            processes.to_host_array, (data, outputs), none_is_leaf=False
        )
        future, thread = in_thread(functools.partial(between, None, *on_host, True))
        try:
            thread.start()  # in here, so that an interrupt waits for its end from now on
            if following is not None:
                self._next = following, begin(following)
            _, values = future.result()
        finally:
            if thread.ident is not None:
                thread.join()
        return outputs, values


def overlap_of(model, training):
    """The `Overlap` of the model's running `fit`; None without one, and in evaluation."""
    fit = model.running_fit if training else None
    return None if fit is None else fit.overlap
