"""The window of profiled steps, and how the host spent its time."""

import time

from artifex_keras import backend
from artifex_keras.backend import profile
from artifex_keras.callbacks.profiling.operations import busy

__all__ = ["Window"]


class Window:
    """The steps between two moments at which the device is idle."""

    def __init__(self, model, folder):
        self.model, self.function = model, model.train_function
        self.steps = 0
        self.data_wait = self.dispatch = self.drain = 0.0
        self.pauses, self.paused = [], None
        self.operations = []
        self._reads = backend.name() != "tensorflow"  # whose program reads by itself
        self._returned = None
        self.began = time.perf_counter()
        self._stop = profile.start(folder)
        self._wrapper = self._run
        model.train_function = self._wrapper
        self.started = time.perf_counter()

    def _run(self, *arguments):
        """The training function, timed. Its last argument is an iterator, or a list of batches."""
        if self._stop is None:
            return self.function(*arguments)
        *state, source = arguments
        waited, began = self.data_wait, time.perf_counter()
        if hasattr(source, "__next__") and self._reads:
            source = self._timed(source)
        elif hasattr(source, "__len__"):
            self.steps += len(source)
            if self._returned is not None:  # read in Keras's loop since
                self.data_wait += began - self._returned
                waited = self.data_wait
        else:
            self.steps += self.model.steps_per_execution
        result = self.function(*state, source)
        self._returned = time.perf_counter()
        self.dispatch += self._returned - began - (self.data_wait - waited)
        return result

    def _timed(self, source):
        while True:
            began = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            finally:
                self.data_wait += time.perf_counter() - began
            self.steps += 1
            yield batch

    def pause(self):
        if self.paused is None:
            began = time.perf_counter()
            profile.wait_for(self.model)
            self.paused = time.perf_counter()
            self.drain += self.paused - began
            self._returned = None

    def resume(self):
        if self.paused is not None:
            self.pauses.append((self.paused, time.perf_counter()))
            self.paused = None

    def leave(self):
        """Restores the training function and ends the trace."""
        if self.model.train_function == self._wrapper:
            self.model.train_function = self.function
        stop, self._stop = self._stop, None
        return stop()

    def close(self):
        self.pause()
        self.ended = self.paused
        operations = self.leave()
        # The trace's clock starts at some moment while it is being started.
        outside = [(start - self.started, end - self.started) for start, end in self.pauses]
        self.operations = [
            operation
            for operation in operations
            if not any(start < operation.start < end for start, end in outside)
        ]

    def milliseconds(self):
        """The mean milliseconds of each part of a step, a dict."""
        paused = sum(end - start for start, end in self.pauses)
        step = self.ended - self.started - paused
        reads = self._reads and self.data_wait > 0
        seconds = {
            "step": step,
            "data_wait": self.data_wait if reads else None,
            "dispatch": self.dispatch,
            "drain": self.drain,
            "other": step - self.data_wait - self.dispatch - self.drain,
            "device": busy(self.operations) if self.operations else None,
        }
        steps = max(self.steps, 1)
        return {
            name: None if value is None else 1e3 * value / steps for name, value in seconds.items()
        }
