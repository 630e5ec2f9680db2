"""A tracker that can neither end a run nor slow it down."""

import logging
import queue
import threading
from pathlib import Path

from artifex_keras.tracking.secrets import scrubbed

__all__ = ["Guarded"]

logger = logging.getLogger("artifex_keras")

BACKLOG = 10_000  # calls that may wait for a slow tracker before some are dropped
PATIENCE = 60.0  # seconds that the end of a run waits for one


class Guarded:
    """A tracker that never raises, and keeps nobody waiting: the first failure is a warning.

    The calls of a slow one are made by a thread. One that can't be opened is left alone.
    """

    def __init__(self, tracker):
        self.tracker, self.name = tracker, tracker.name
        self._warned = self._broken = False
        self._jobs = self._thread = None

    def open(self, params, step):
        self._warned = self._broken = False
        if self.tracker.slow:
            self._jobs = queue.Queue(BACKLOG)
            self._thread = threading.Thread(target=self._work, daemon=True, name=self.name)
            self._thread.start()
        self._call("open", params, step)

    def log(self, metrics, step):
        """Tells the values of metrics, a dict of numbers, after `step` steps of the run."""
        self._call("log", dict(metrics), int(step))

    def picture(self, name, path, step):
        """Tells a picture in a file."""
        self._call("picture", name, Path(path), int(step))

    def text(self, name, rows, step):
        """Tells texts: a list of strings, or of dicts or tuples that are rows of a table."""
        self._call("text", name, rows, int(step))

    def artifact(self, name, path):
        """Tells a file that is to be kept, such as the model."""
        self._call("artifact", name, Path(path))

    def summary(self, values):
        """Tells what came out in the end."""
        self._call("summary", dict(values))

    def close(self, status):
        """Ends it; `status` is "finished" or "failed". Waits for what is under way, not forever."""
        self._call("close", status)
        if self._thread is not None:
            self._call(None)
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                self._warn(f"not done after {PATIENCE:g} s, and left to itself")
        self._jobs = self._thread = None

    def _call(self, *job):
        if self._jobs is None:
            self._run(*job)
            return
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._warn(f"more than {BACKLOG} calls behind; some are dropped")

    def _work(self):
        jobs = self._jobs
        while (job := jobs.get())[0] is not None:
            self._run(*job)

    def _run(self, method, *arguments):
        if self._broken:
            return
        try:
            getattr(self.tracker, method)(*arguments)
        except Exception as error:
            self._broken = method == "open"
            self._warn(f"{type(error).__name__}: {error}")

    def _warn(self, what):
        if not self._warned:
            self._warned = True
            logger.warning("%s fails, the run goes on without it: %s", self.name, scrubbed(what))
