"""The speed of a run."""

import time

__all__ = ["SpeedClock"]


class SpeedClock:
    """The speed from row to row, without the first step, which compiles the program."""

    def __init__(self, base, first, seconds):
        self._first, self._before = first, seconds
        self._began = time.perf_counter()
        self.since = None  # the time of the last row, and its step
        self._counted = base, 0.0  # a step of this epoch, and the examples up to there
        self._paused = self._examples = None
        self._lost = 0.0

    def seconds(self):
        return self._before + time.perf_counter() - self._began

    def start(self, step):
        if step > self._first:
            self.go(step)

    def go(self, step):
        self.since = time.perf_counter(), step

    def pause(self, examples):
        self._paused, self._examples = time.perf_counter(), examples

    def go_on(self):
        if self._paused is not None:
            self._lost += time.perf_counter() - self._paused
            self._paused = None

    def lap(self, now, step, examples, epoch_done):
        """Speed since the last lap and seconds of the run so far, after `examples` of the epoch."""
        examples = examples if self._examples is None else self._examples  # before validation
        speed = {}
        if self.since is not None and step > self.since[1]:
            then, before = self.since
            speed["steps_per_second"] = (step - before) / max(now - then - self._lost, 1e-9)
            steps, count = step - self._counted[0], examples - self._counted[1]
            if steps and count > 0:
                speed["{}_per_second"] = speed["steps_per_second"] * count / steps
        self._counted = (step, 0.0) if epoch_done else (step, examples)
        self._lost, self._examples = 0.0, None
        return {**speed, "seconds": self.seconds()}
