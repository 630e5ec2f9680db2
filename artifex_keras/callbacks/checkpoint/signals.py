"""SIGTERM and Ctrl-C: the first one ends the run after its step, a second one at once."""

import os
import signal
import sys
import threading

from artifex_keras.backend import processes

__all__ = ["AgreedSignals", "Signals", "end_process"]

HANDLED = ("SIGINT", "SIGTERM")


def end_process(name):
    """Raises a signal again, so that the process ends as if nobody had handled it before."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    signal.raise_signal(getattr(signal, name))


class Signals:
    """Handlers of Ctrl-C and SIGTERM while a `fit` runs in one process.

    `received` holds the name of the first signal. A second signal, or one after the end of `fit`,
    goes to the handler that was there before.

    Args:
        running: a function from the interrupted frame to whether `fit` is still running in it.
        say: a function called once, with the name of the signal.
    """

    def __init__(self, running, say):
        self.running, self.say = running, say
        self.received = None
        self._before = {}

    def asked(self):
        """The name of the signal that ends the run, or None."""
        return self.received

    def install(self):
        """Installs the handlers; does nothing outside the main thread, where Python allows none."""
        if threading.current_thread() is threading.main_thread():
            for name in HANDLED:
                self._before[name] = signal.signal(getattr(signal, name), self._handle)

    def remove(self):
        """Restores the earlier handlers, except where somebody else has set another one since."""
        for name, handler in self._before.items():
            if signal.getsignal(getattr(signal, name)) == self._handle:
                signal.signal(getattr(signal, name), handler or signal.SIG_DFL)
        self._before = {}

    def _handle(self, number, frame):
        if self.received is None and self.running(frame):
            self.received = signal.Signals(number).name
            try:
                self.say(self.received)
            except RuntimeError:  # in the middle of another print
                pass
            return
        self.remove()
        signal.raise_signal(number)


class AgreedSignals:
    """Ctrl-C and SIGTERM to any of several processes: all of them stop at the same step.

    `jax.distributed` has a handler for SIGTERM, which agrees on the step with the other processes;
    Ctrl-C is turned into a SIGTERM.

    Args:
        say: a function called once, with the name of the signal.
    """

    def __init__(self, say):
        self.say = say
        self.received = None
        self._before = None

    def asked(self):
        """The name of the signal that ends the run, or None; called once a step in each process."""
        if self.received is None and processes.stop_agreed():
            self.received = "SIGTERM"
            self.say(self.received)
        return self.received

    def install(self):
        """Installs the handler of Ctrl-C."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._pass_on)

    def remove(self):
        """Restores the earlier handler."""
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._pass_on:
            signal.signal(signal.SIGINT, self._before)
        self._before = None

    def _pass_on(self, number, frame):
        self.remove()  # so that a second one ends the process
        os.kill(os.getpid(), signal.SIGTERM)
