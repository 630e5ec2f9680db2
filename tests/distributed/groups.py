"""Groups of two processes for tests, and what they print."""

import json
import os
import re
import signal
import threading
import time

from artifex_keras.distributed.launcher import launch

PATIENCE = 240.0  # seconds after which a group that hangs is killed


class Watch:
    """Lines that a group prints; `on` maps a pattern to what is done when it is seen first."""

    def __init__(self, on=()):
        self.lines, self.on, self.times = [], dict(on), {}

    def __call__(self, line):
        self.lines.append(line)
        for pattern in list(self.on):
            if match := re.search(pattern, line):
                self.times[pattern] = time.monotonic()
                self.on.pop(pattern)(match)

    def results(self):
        """What the members found, by their numbers."""
        found = [re.fullmatch(r"\[(\d)\] (\{.*\}|\".*\")", line) for line in self.lines]
        return {int(match[1]): json.loads(match[2]) for match in found if match}

    def at(self, text):
        return next(line for line in self.lines if text in line)


def run_group(command, watch, patience=PATIENCE, **options):
    """The exit code of a group of two; one that hangs is killed and fails."""
    alarm = threading.Timer(patience, lambda: [os.kill(os.getpid(), signal.SIGTERM)] * 2)
    alarm.start()
    try:
        return launch(command, 2, devices_per_process=4, grace=20.0, say=watch, **options)
    finally:
        alarm.cancel()
