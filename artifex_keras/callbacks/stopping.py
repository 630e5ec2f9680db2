"""Ending a run when the system asks for it: once gently, the second time at once."""

import signal
import threading

__all__ = ["Signals"]

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
