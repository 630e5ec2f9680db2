"""The position of a running `fit` in its data, and how another `fit` starts from it."""

import contextlib
import functools
import sys

from artifex_keras import backend
from artifex_keras.backend import keras_internals, processes
from artifex_keras.backend.ahead import Ahead
from artifex_keras.callbacks.checkpoint.fingerprints import (
    draws_own_numbers,
    fingerprint,
    first_of_pass,
    is_one_pass,
)
from artifex_keras.callbacks.checkpoint.generators import (
    gathered,
    own_share,
    set_states,
    states_of,
)
from artifex_keras.callbacks.checkpoint.randomness import randomness, restore_randomness
from artifex_keras.callbacks.checkpoint.seeking import seeker
from artifex_keras.utils import warn

__all__ = ["DataPosition"]


class DataPosition:
    """The position of a `fit` in its data, counted by one of its callbacks.

    Keras hands a callback neither the iterator over the data nor the other callbacks. Our models
    know both of their `running_fit`; of any other model they are local variables of Keras's `fit`,
    and are read from its frame.

    It counts the batches as they are read, and keeps the states of the random generators at the
    start of a pass, by which NumPy, Python and torch shuffle. So another process can continue from
    `state()` with the very next batch, if the source gives the same batches again.

    Attributes:
        callbacks: the list of all callbacks, Keras's own among them.
        validates: whether there are validation data.
        complete: whether all batches of the epoch have been read.
        batch: how many batches of the epoch have been trained on.
        runs_in: whether this `fit` is still running, asked by a signal's handler with its frame.
    """

    def __init__(self, iterator, callbacks, validates, runs_in):
        self.iterator = iterator
        self.callbacks = callbacks
        self.validates = validates
        self.runs_in = runs_in
        self.complete = False
        self.batch = 0
        self.epochs_done = 0  # since the data were new
        self.passes = 0  # over the data, of which a batch has been read
        self.read = 0  # batches of the running pass
        self.last = None  # the batch read last
        self.first = None  # the fingerprint of the first batch of the pass
        self.pass_randomness = None  # random states at the start of the pass that is read
        self._opened = None  # those at the start of the pass that is open
        self._fresh = True  # whether the next batch is the first of a pass
        self._trained = (0, None)  # `read` and `last` without what is read ahead
        self._batches = None
        self._target = None  # the position to resume from, until it is reached
        self._random = None
        self._start = 0  # the batch with which the next pass begins
        self._seeker = seeker(iterator.data_adapter, iterator.steps_per_execution)
        if _on_tensorflow() and self._seeker.changes_passes:
            keras_internals.open_dataset_again(iterator)
        self._keras_pass = keras_internals.replace_passes(iterator, self._open_pass)
        self._keras_epoch = keras_internals.replace_epochs(iterator, self._enumerate_batches)
        self._keras_catch = iterator.catch_stop_iteration
        iterator.catch_stop_iteration = lambda: _CatchEndOfData(self)

    @classmethod
    def of_running_fit(cls, model):
        """The position of the `fit` of that model that calls its callbacks."""
        fit = getattr(model, "running_fit", None)
        if fit is None or fit.iterator is None:
            return cls._of_frame()
        return cls._once(
            fit.iterator, fit.callbacks.callbacks, fit.validates, lambda frame: fit.is_running
        )

    @classmethod
    def _once(cls, iterator, *arguments):
        """One position for each `fit`, however many callbacks ask."""
        if not hasattr(iterator, "_artifex_keras_position"):
            iterator._artifex_keras_position = cls(iterator, *arguments)
        return iterator._artifex_keras_position

    @classmethod
    def _of_frame(cls):
        """The position of a model that isn't ours, found in the frame of Keras's `fit`."""
        frame = sys._getframe(1)
        while frame is not None:
            local = frame.f_locals
            if "epoch_iterator" in local and "callbacks" in local and "initial_epoch" in local:
                iterator = local["epoch_iterator"]
                validates = local.get("validation_data") is not None
                runs_in = functools.partial(_runs_in, frame.f_code, id(iterator))
                return cls._once(iterator, local["callbacks"].callbacks, validates, runs_in)
            frame = frame.f_back
        raise RuntimeError(
            "A CheckpointCallback works in `fit` only, whose position in the data it saves. It was "
            "called by another loop."
        )

    # Reading

    def _open_pass(self):
        self._fresh = True
        if backend.name() == "jax":  # opens a pass with its first batch
            self._batches = _CountedBatches(self)
            return self._batches
        self._note_randomness()
        if _on_tensorflow():  # its compiled step takes the iterator itself, which can't be wrapped
            self._count_pass()
            return self._keras_pass()
        return _CountedBatches(self, iter(self._keras_pass()))

    def _note_randomness(self):
        """Keeps the random states at the start of a pass, or sets those of the restored pass."""
        if self._random is not None:
            self._restore_randomness(self._random)
            self._random = None
        self._opened = self._randomness()
        self.read, self._start = self._start, 0

    def _randomness(self):
        """The states of the global random generators, and of those of the source's own."""
        return {**randomness(), "own": states_of(self._seeker.generators())}

    def _restore_randomness(self, states):
        restore_randomness(states)
        set_states(self._seeker.generators(), own_share(states.get("own")))

    def _count_pass(self):
        """Counts a pass of which a batch is read."""
        self.pass_randomness = self._opened
        self.passes += 1
        self._fresh = False

    def _enumerate_batches(self):
        """Keras's enumeration of the batches of an epoch; the first resumed epoch starts within."""
        self.complete = False
        target = self._target or {"batch": 0, "read": 0}
        for item in self._keras_epoch():
            first, batches = item[0], item[-1]
            if first == 0 and target["read"]:
                self._reach(batches, target)
                # Some may be of the same pass and of earlier epochs.
                keras_internals.count_as_seen(self.iterator, target["read"] - target["batch"])
            if first < target["batch"]:
                continue
            if self._target is not None:
                expected = target.get("first") if target["read"] else None
                self._compare((self.first, expected), (fingerprint(self.last), target["print"]))
                self._target = None
            if _on_tensorflow():
                self.last = None  # only skipped batches can be seen there
            self.batch, self._trained = first, (self.read, self.last)
            yield item
            self.count_trained()
        if self._target is not None:
            raise self._too_short()
        self._complete_epoch()

    def has_another_batch(self):
        """Whether the epoch has another batch, as far as the backend can say before reading it."""
        return backend.name() != "jax" or self.batch == 0 or self._batches.has_next()

    def count_trained(self):
        """Counts the current batch as trained on: before the next one, or when the loop ends."""
        first, self.batch = self.batch, self._batches_after(self.batch)
        if _on_tensorflow():
            self.read += self.batch - first
        self._trained = (self.read, self.last)

    def _complete_epoch(self):
        if self.complete:
            return
        self._trained = (self.read, self.last)
        self.complete = True
        self.epochs_done += 1

    def _batches_after(self, first):
        steps = self.iterator.num_batches
        done = first + self.iterator.steps_per_execution
        return min(done, steps) if steps else done

    def _reach(self, batches, target):
        """Reads up to the batch trained on last."""
        start = max(self._start, self.read)
        self._skip(batches, target["read"] - start)
        if not start or not self._seeker.reads_again or _on_tensorflow():
            return
        if any(processes.gather(fingerprint(self.last) != target["print"])):
            self._random = target["random"]
            batches.open_again()
            self._skip(batches, target["read"])

    def _skip(self, batches, count):
        for _ in range(count):
            try:
                self.last = next(batches)
            except StopIteration:
                raise self._too_short() from None
            self.read += _on_tensorflow()

    def _too_short(self):
        return ValueError(
            f"The checkpoint was written after {self._target['batch']} batches of an epoch, and "
            "the data now have fewer. Resume with the same data."
        )

    def _compare(self, *pairs):
        """Warns where fingerprints aren't those of the checkpoint's run, as far as it has them."""
        if any(expected is not None and found != expected for found, expected in pairs):
            warn(
                "The data come in another order than before the interruption, or they are other "
                "data, so the resumed run won't equal an uninterrupted one. Give shuffling a seed, "
                "or pass arrays or a PyDataset to `fit`, whose batches are made of epoch and index."
            )

    # Positions

    def state(self, epoch, complete):
        """The position as a dict for `restore`; `complete` says that the epoch is over."""
        read, last = self._trained
        continues = not complete or self.iterator.steps_per_epoch is not None
        opened = not (self._fresh and backend.name() == "jax")
        running = continues and opened and self._opened is not None
        return {
            "epoch": epoch + 1 if complete else epoch,
            "batch": 0 if complete else self.batch,
            "rounds": self.epochs_done,
            "passes": self.passes - (running and not self._fresh),
            "running": running,
            "read": read if running else 0,
            "print": fingerprint(last) if running and read else None,
            "note": self._seeker.note(read - 1) if running and read else None,
            "first": self.first,
            "pass": None if running else gathered(self.pass_randomness),
            "random": gathered(self._opened if running else self._randomness()),
            "steps": self.iterator.num_batches,
        }

    def build_model(self, model):
        """Creates the variables that Keras creates in the first step on TensorFlow."""
        if model.built and (model.optimizer is None or model.optimizer.built):
            return
        # From the specification of the batches: a batch itself would be read too early.
        keras_internals.build_from_batch(model, self._keras_pass().element_spec)

    def restore(self, state):
        """Starts the next epoch from a state of `state()`. No batch of the data may be read yet.

        Raises:
            ValueError: if another callback has restored a state already.
        """
        if self._target is not None:
            raise ValueError('Only one callback of a `fit` can have resume="auto".')
        if self.iterator.num_batches is None:  # Keras learns it with the first pass
            keras_internals.set_num_batches(self.iterator, state["steps"])
        if state["steps"] != self.iterator.num_batches:
            warn(
                f"An epoch had {state['steps']} batches and has {self.iterator.num_batches} "
                "now: the resumed run won't equal an uninterrupted one."
            )
        # On TensorFlow the first epoch opens a second pass.
        one_each = state["rounds"] == state["passes"] or _on_tensorflow()
        again = int(one_each and state["rounds"] > 0 and not state["running"])
        self._replay_epochs(state["rounds"] - again)
        self._replay_passes(state["passes"] - again)
        if again:
            self._repeat_last_pass(state)
        self.epochs_done, self.passes = state["rounds"], state["passes"]
        self._target = state
        if state["running"]:
            self._random = state["random"]
            self._seek(state)
        else:
            self._restore_randomness(state["random"])

    def _seek(self, state):
        """Lets the pass begin with the batch trained on last, whose checksum is compared."""
        last = state["read"] - 1
        if last > 0 and self._seeker.can_seek(state.get("note")):
            self._seeker.seek(last, state["note"])
            self._start, self.first = last, state["first"]

    def _replay_epochs(self, epochs):
        """Calls the epoch hooks of a PyDataset once for each epoch done: it may shuffle there."""
        if getattr(self.iterator.data_adapter, "py_dataset", None) is None:
            return
        for _ in range(epochs):
            with self._epoch_of_source():
                pass

    @contextlib.contextmanager
    def _epoch_of_source(self):
        source = getattr(self.iterator.data_adapter, "py_dataset", None)
        if source is not None:
            source.on_epoch_begin()
        yield
        if source is not None:
            source.on_epoch_end()

    def _repeat_last_pass(self, state):
        """Begins the last complete pass once more, and warns where its data are other ones."""
        adapter, random = self.iterator.data_adapter, state.get("pass")
        with self._epoch_of_source():
            if random is None or is_one_pass(adapter):
                self._replay_passes(1)
                return
            self._restore_randomness(random)
            if _on_tensorflow() or state["first"] is None:  # its batches can't be seen
                self._replay_passes(1)
            else:
                self._compare((first_of_pass(self._keras_pass), state["first"]))
                if state["rounds"] > 1:
                    return
            # In its first pass a source's own numbers begin anew, here as there.
            if draws_own_numbers(adapter, lambda: self._restore_randomness(random)):
                warn(
                    "The data source draws random numbers of its own: one index gave two batches. "
                    "They aren't in the checkpoint, so the resumed run won't equal an "
                    "uninterrupted one. Make a batch of epoch and index alone, or draw from "
                    "`np.random`, whose state is kept."
                )

    def _replay_passes(self, passes):
        """Starts each pass done once more: it takes the next seed of a tf.data shuffle."""
        adapter = self.iterator.data_adapter
        source = self._keras_pass() if _on_tensorflow() else keras_internals.dataset_of(adapter)
        if source is not None and hasattr(source, "element_spec"):  # a tf.data.Dataset
            for _ in range(passes):
                iter(source)


class _CountedBatches(Ahead):
    """The batches of one pass, counted as they are given; opened at the first one by default."""

    def __init__(self, position, batches=None):
        super().__init__(batches)
        self.position = position
        self.started = False

    def __next__(self):
        self.position.last = super().__next__()
        if self.position.read == 0:
            self.position.first = fingerprint(self.position.last)
        self.position.read += 1
        return self.position.last

    def open_again(self):
        """Opens the pass again, which begins with its first batch."""
        self.batches, self.ahead = None, []
        self.has_next()

    def has_next(self):
        if self.batches is None:
            self.position._note_randomness()
            self.batches = iter(self.position._keras_pass())
        if not self.started:
            self.position._count_pass()
            self.started = True
        return super().has_next()


def _runs_in(code, iterator, frame):
    """Whether that `fit` is still running, in `frame` or a caller of it."""
    while frame is not None:
        if frame.f_code is code:
            return id(frame.f_locals.get("epoch_iterator")) == iterator
        frame = frame.f_back
    return False


class _CatchEndOfData:
    """Keras's handler of the end of the data, which ends an epoch of unknown length."""

    def __init__(self, position):
        self.position = position
        self.keras = position._keras_catch()

    def __enter__(self):
        return self.keras.__enter__()

    def __exit__(self, kind, error, traceback):
        if kind is not None and kind.__name__ in ("StopIteration", "OutOfRangeError"):
            self.position._complete_epoch()
        return self.keras.__exit__(kind, error, traceback)


def _on_tensorflow():
    return backend.name() == "tensorflow"
