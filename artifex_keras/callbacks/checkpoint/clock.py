"""The time between checkpoints, by one clock for all processes."""

import time

from artifex_keras.backend import processes

__all__ = ["Clock"]


class Clock:
    """A timer of so many minutes, which several processes read from the first one's clock.

    Reading it takes a message, so the processes ask again only when half of the remaining time
    should have passed.

    Args:
        minutes: the time, None for never.
    """

    def __init__(self, minutes):
        self.minutes = minutes
        self.restart()

    def restart(self):
        self._began = time.monotonic()
        self._steps = self._next = 0

    def due(self):
        """Whether the time has passed; call it once a step in each process."""
        if self.minutes is None:
            return False
        if processes.count() == 1:
            return self._seconds_left() <= 0
        self._steps += 1
        if self._steps < self._next:
            return False
        wait = processes.on_first_process(self._steps_to_wait)
        self._next = self._steps + wait
        return wait == 0

    def _seconds_left(self):
        return 60 * self.minutes - (time.monotonic() - self._began)

    def _steps_to_wait(self):
        """Steps in half of the remaining time, at the speed so far; 0 when it has passed."""
        left = self._seconds_left()
        steps_per_second = self._steps / max(60 * self.minutes - left, 1e-9)
        return max(1, int(steps_per_second * left / 2)) if left > 0 else 0
