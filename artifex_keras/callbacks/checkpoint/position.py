"""Where a running `fit` stands in its data, and how another one starts from there."""

import itertools
import sys
import warnings
import zlib

import keras
import numpy as np

from artifex_keras.backend import keras_internals
from artifex_keras.backend.processes import to_host_array
from artifex_keras.callbacks.checkpoint.randomness import randomness, restore_randomness

__all__ = ["RunningFit"]


class RunningFit:
    """The loop of a `fit` seen from one of its callbacks.

    Keras hands a callback neither the iterator over the data nor the other callbacks; both are
    local variables of `fit`, and are taken from there.

    Batches are counted as they are read. What random numbers there were when a pass over the data
    began is noted: by them NumPy, Python and torch shuffle. So `position()` is enough to read on in
    another process from the very next batch, as long as the source gives the same batches again.

    Attributes:
        callbacks: the list of all callbacks, Keras's own among them.
        validates: whether there are validation data.
        complete: whether all batches of the epoch have been read.
        batch: how many batches of the epoch have been trained on.
    """

    def __init__(self, frame):
        local = frame.f_locals
        self.iterator = iterator = local["epoch_iterator"]
        self.callbacks = local["callbacks"].callbacks
        self.validates = local.get("validation_data") is not None
        self.frame = (frame.f_code, id(iterator))
        self.complete = False
        self.batch = 0
        self.rounds = 0  # epochs done since the data were new
        self.passes = 0  # over the data, of which a batch has been read
        self.read = 0  # batches of the running pass
        self.last = None  # the batch read last
        self.began = None  # the random numbers when the running pass began
        self._fresh = True  # whether the next batch is the first of a pass
        self._done = (0, None)  # `read` and `last` without what is read ahead
        self._batches = None
        self._wanted = None  # the position to go on from, until that is done
        self._random = None
        self._open = keras_internals.replace_passes(iterator, self._opened)
        self._enumerate = keras_internals.replace_epochs(iterator, self._enumerated)
        self._catch = iterator.catch_stop_iteration
        iterator.catch_stop_iteration = lambda: _Catching(self)

    @classmethod
    def of_callback(cls):
        """The fit that has called a hook of the callback that asks."""
        frame = sys._getframe(1)
        while frame is not None:
            local = frame.f_locals
            if "epoch_iterator" in local and "callbacks" in local and "initial_epoch" in local:
                iterator = local["epoch_iterator"]
                if not hasattr(iterator, "_artifex_keras_fit"):
                    iterator._artifex_keras_fit = cls(frame)
                return iterator._artifex_keras_fit
            frame = frame.f_back
        raise RuntimeError(
            "A CheckpointCallback works in `fit`, whose place in the data it keeps; a loop of your "
            "own hasn't got that."
        )

    def runs_in(self, frame):
        """Whether this fit is still running, in `frame` or one that called it."""
        while frame is not None:
            if frame.f_code is self.frame[0]:
                return id(frame.f_locals.get("epoch_iterator")) == self.frame[1]
            frame = frame.f_back
        return False

    # Reading

    def _opened(self):
        self._fresh = True
        if keras.config.backend() == "jax":  # opens a pass with its first batch
            self._batches = _Counted(self)
            return self._batches
        self._begin()
        if _on_tensorflow():  # its compiled step takes the iterator itself, which can't be wrapped
            self._start()
            return self._open()
        return _Counted(self, iter(self._open()))

    def _begin(self):
        """Notes the random numbers with which a pass is opened, or sets those of the wanted one."""
        if self._random is not None:
            restore_randomness(self._random)
            self._random = None
        self.began = randomness()
        self.read = 0

    def _start(self):
        """Notes that a pass is read."""
        self.passes += 1
        self._fresh = False

    def _enumerated(self):
        """Keras's enumeration of an epoch's batches, from the middle in the first one resumed."""
        self.complete = False
        wanted = self._wanted or {"batch": 0, "read": 0}
        for item in self._enumerate():
            first, batches = item[0], item[-1]
            if first == 0 and wanted["read"]:
                earlier = wanted["read"] - wanted["batch"]  # of the same pass, in earlier epochs
                self._skip(batches, earlier)
                keras_internals.count_as_seen(self.iterator, earlier)
            if first < wanted["batch"]:
                self._skip(batches, min(self.iterator.steps_per_execution, wanted["batch"] - first))
                continue
            if self._wanted is not None:
                self._check(wanted["print"])
                self._wanted = None
            if _on_tensorflow():
                self.last = None  # only skipped batches can be seen there
            self.batch, self._done = first, (self.read, self.last)
            yield item
            self.trained()
        if self._wanted is not None:
            raise self._too_short()
        self._finish()

    def goes_on(self):
        """Whether the epoch has another batch, where that is not certain."""
        return keras.config.backend() != "jax" or self.batch == 0 or self._batches.another()

    def trained(self):
        """Counts the batch in hand as trained on: before the next, or where the loop is left."""
        first, self.batch = self.batch, self._after(self.batch)
        if _on_tensorflow():
            self.read += self.batch - first
        self._done = (self.read, self.last)

    def _finish(self):
        if self.complete:
            return
        self._done = (self.read, self.last)
        self.complete = True
        self.rounds += 1

    def _after(self, first):
        steps = self.iterator.num_batches
        done = first + self.iterator.steps_per_execution
        return min(done, steps) if steps else done

    def _skip(self, batches, count):
        for _ in range(count):
            try:
                self.last = next(batches)
            except StopIteration:
                raise self._too_short() from None
            self.read += _on_tensorflow()

    def _too_short(self):
        return ValueError(
            f"The checkpoint was written after {self._wanted['batch']} batches of an epoch, and "
            "the data have fewer batches now. Go on with the same data."
        )

    def _check(self, expected):
        if expected is not None and _fingerprint(self.last) != expected:
            warnings.warn(
                "The data come in another order than before the interruption, so the run goes on "
                "but will not equal an uninterrupted one. Give shuffling a seed, or hand `fit` "
                "arrays or a PyDataset.",
                stacklevel=2,
            )

    # Positions

    def position(self, epoch, complete):
        """What `resume` needs. `complete` says that the epoch is over."""
        read, last = self._done
        goes_on = not complete or self.iterator.steps_per_epoch is not None
        opened = not (self._fresh and keras.config.backend() == "jax")
        running = goes_on and opened and self.began is not None
        return {
            "epoch": epoch + 1 if complete else epoch,
            "batch": 0 if complete else self.batch,
            "rounds": self.rounds,
            "passes": self.passes - (running and not self._fresh),
            "running": running,
            "read": read if running else 0,
            "print": _fingerprint(last) if running and read else None,
            "random": self.began if running else randomness(),
            "steps": self.iterator.num_batches,
        }

    def build(self, model):
        """Makes the variables that Keras leaves to the first step on TensorFlow."""
        if model.built and (model.optimizer is None or model.optimizer.built):
            return
        # Of the batches' description: a batch itself would be one read too early.
        keras_internals.build_from_batch(model, self._open().element_spec)

    def resume(self, position):
        """Lets the next epoch begin at a position. The data must be as new.

        Raises:
            ValueError: if another callback has set a position already.
        """
        if self._wanted is not None:
            raise ValueError('Only one callback of a `fit` can have resume="auto".')
        if self.iterator.num_batches is None:  # Keras learns it with the first pass
            keras_internals.set_num_batches(self.iterator, position["steps"])
        if position["steps"] != self.iterator.num_batches:
            warnings.warn(
                f"An epoch had {position['steps']} batches and has {self.iterator.num_batches} "
                "now: the run goes on but will not equal an uninterrupted one.",
                stacklevel=2,
            )
        self._repeat_rounds(position["rounds"])
        self._repeat_passes(position["passes"])
        self.rounds, self.passes = position["rounds"], position["passes"]
        self._wanted = position
        if position["running"]:
            self._random = position["random"]
        else:
            restore_randomness(position["random"])

    def _repeat_rounds(self, rounds):
        """Tells a PyDataset of the epochs that are over: it may shuffle at their ends."""
        source = getattr(self.iterator.data_adapter, "py_dataset", None)
        for _ in range(rounds if source is not None else 0):
            source.on_epoch_begin()
            source.on_epoch_end()

    def _repeat_passes(self, passes):
        """Begins passes that are over once more: each takes the next seeds of a tf.data shuffle."""
        adapter = self.iterator.data_adapter
        source = self._open() if _on_tensorflow() else getattr(adapter, "_dataset", None)
        if source is not None and hasattr(source, "element_spec"):  # a tf.data.Dataset
            for _ in range(passes):
                iter(source)


class _Counted:
    """The batches of one pass, counted as they are read; without `batches` it begins by itself."""

    def __init__(self, fit, batches=None):
        self.fit = fit
        self.batches = batches
        self.started = False
        self.ahead = []

    def __iter__(self):
        return self

    def __next__(self):
        if not self.another():
            raise StopIteration
        self.fit.last = self.ahead.pop()
        self.fit.read += 1
        return self.fit.last

    def another(self):
        """Whether there is another batch; it is read ahead."""
        if self.batches is None:
            self.fit._begin()
            self.batches = iter(self.fit._open())
        if not self.started:
            self.fit._start()
            self.started = True
        if not self.ahead:
            self.ahead.extend(itertools.islice(self.batches, 1))
        return bool(self.ahead)


class _Catching:
    """Keras's catching of the data's end, which is an epoch's end where its length isn't known."""

    def __init__(self, fit):
        self.fit = fit
        self.keras = fit._catch()

    def __enter__(self):
        return self.keras.__enter__()

    def __exit__(self, kind, error, traceback):
        if kind is not None and kind.__name__ in ("StopIteration", "OutOfRangeError"):
            self.fit._finish()
        return self.keras.__exit__(kind, error, traceback)


def _on_tensorflow():
    return keras.config.backend() == "tensorflow"


def _fingerprint(batch):
    """A number that another batch hardly has; None where batches can't be seen."""
    if batch is None:
        return None
    total = 0
    for leaf in keras.tree.flatten(batch):
        if leaf is not None and hasattr(leaf, "shape"):
            array = np.ascontiguousarray(to_host_array(leaf))
            total = zlib.crc32(array.reshape(-1).view(np.uint8), total)
    return total
