"""Ending a run when the system asks for it: once gently, the second time at once."""

import os
import signal
import threading

from artifex_keras.backend import processes

__all__ = ["AgreedSignals", "Signals"]

HEEDED = ("SIGINT", "SIGTERM")


class Signals:
    """Heeds Ctrl-C and SIGTERM while a `fit` runs.

    The first signal is kept in `received`, by its name. With the second, or once the fit is over,
    the signal does what it did before.

    Args:
        running: from the interrupted frame to whether the fit is still running in it.
        say: is told, once, that the run will end.
    """

    def __init__(self, running, say):
        self.running, self.say = running, say
        self.received = None
        self._before = {}

    def asked(self):
        """The name of the signal after which the run is to end, or None."""
        return self.received

    def install(self):
        """Begins to heed them; outside the main thread Python allows no handlers."""
        if threading.current_thread() is threading.main_thread():
            for name in HEEDED:
                self._before[name] = signal.signal(getattr(signal, name), self._handle)

    def remove(self):
        """Puts back what was there, unless somebody else has put another handler."""
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
    """Heeds SIGTERM and Ctrl-C to any of several processes, in all of them at the same step.

    JAX has a handler for SIGTERM since the processes have met, and agrees with the others on the
    step; Ctrl-C is passed on to it.

    Args:
        say: is told, once, that the run will end.
    """

    def __init__(self, say):
        self.say = say
        self.received = None
        self._before = None

    def asked(self):
        """As of `Signals`; to be called equally often in all processes, once a step."""
        if self.received is None and processes.stop_agreed():
            self.received = "SIGTERM"
            self.say(self.received)
        return self.received

    def install(self):
        """Begins to heed Ctrl-C."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._pass_on)

    def remove(self):
        """Puts back what was there."""
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._pass_on:
            signal.signal(signal.SIGINT, self._before)
        self._before = None

    def _pass_on(self, number, frame):
        self.remove()  # a second one ends the process
        os.kill(os.getpid(), signal.SIGTERM)
