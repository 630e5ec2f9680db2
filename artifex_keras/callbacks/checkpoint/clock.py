"""Minutes between checkpoints, the same in all processes."""

import time

from artifex_keras.backend import processes

__all__ = ["Clock"]


class Clock:
    """Says when so many minutes have passed: in several processes by the first one's clock.

    That takes a message, so it is sent when half of the time left should be over, again and again.
    """

    def __init__(self, minutes):
        self.minutes = minutes
        self.restart()

    def restart(self):
        self._began = time.monotonic()
        self._steps = self._next = 0

    def due(self):
        """Whether they have; to be called once a step."""
        if self.minutes is None:
            return False
        if processes.count() == 1:
            return self._left() <= 0
        self._steps += 1
        if self._steps < self._next:
            return False
        wait = processes.on_first_process(self._steps_to_wait)
        self._next = self._steps + wait
        return wait == 0

    def _left(self):
        return 60 * self.minutes - (time.monotonic() - self._began)

    def _steps_to_wait(self):
        """Steps for half of the seconds left, at the pace so far; 0 when none is left."""
        left = self._left()
        pace = self._steps / max(60 * self.minutes - left, 1e-9)
        return max(1, int(pace * left / 2)) if left > 0 else 0
