"""The wrapper that keeps a tracker from ending a run or slowing it down."""

import contextlib
import logging
import queue
import threading
from pathlib import Path

from artifex_keras.tracking.secrets import scrubbed

__all__ = ["Guarded"]

logger = logging.getLogger("artifex_keras")

FAILED = object()
BACKLOG = 10_000  # waiting calls of a slow tracker; later ones are dropped
PATIENCE = 60.0  # seconds to wait for a slow tracker at the end of a run


class Guarded:
    """A tracker whose methods return at once and never raise; the first failure is a warning.

    A thread makes the calls of a slow tracker. One that fails to open gets no further calls.

    Args:
        tracker: the `Tracker`.
    """

    def __init__(self, tracker):
        self.tracker, self.name = tracker, tracker.name
        self._warned = self._broken = False
        self._jobs = self._thread = None

    def begin(self, folder, state):
        """Says where the files of a run go, and what `state()` of a run that resumes gave."""
        self._warned = False
        self._broken = self._tried("begin", folder, state) is FAILED

    def state(self):
        """What a checkpoint keeps of the tracker; nothing of one that fails."""
        found = self._tried("state")
        return {} if found is FAILED else found

    def open(self, params, step):
        """Opens the tracker, with the `description` of the run, after `step` steps."""
        if self.tracker.slow:
            self._jobs = queue.Queue(BACKLOG)
            self._thread = threading.Thread(target=self._work, daemon=True, name=self.name)
            self._thread.start()
        self._call("open", params, step)

    def log(self, metrics, step):
        """Sends metrics, a dict of numbers, after `step` steps of the run."""
        self._call("log", dict(metrics), int(step))

    def picture(self, name, path, step):
        """Sends a picture, a file at `path`."""
        self._call("picture", name, Path(path), int(step))

    def text(self, name, rows, step):
        """Sends texts: a list of strings, or of dicts or tuples that are rows of a table."""
        self._call("text", name, rows, int(step))

    def artifact(self, name, path):
        """Sends a file to keep, such as the model."""
        self._call("artifact", name, Path(path))

    def summary(self, values):
        """Sends the final values, a dict."""
        self._call("summary", dict(values))

    def close(self, status):
        """Closes the tracker as "finished" or "failed"; waits for a slow one up to `PATIENCE`."""
        if self._thread is None:
            self._run("close", status)
        else:
            with contextlib.suppress(queue.Full):  # it is then said to be not done
                self._jobs.put(("close", status), timeout=PATIENCE)
                self._jobs.put((None,), timeout=PATIENCE)
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                self._warn(f"not done after {PATIENCE:g} s; not waiting any longer")
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
            self._run(*job, faults=BaseException)  # nobody interrupts this thread

    def _run(self, method, *arguments, faults=(Exception, SystemExit)):
        if not self._broken and self._tried(method, *arguments, faults=faults) is FAILED:
            self._broken = method == "open"

    def _tried(self, method, *arguments, faults=(Exception, SystemExit)):
        """What the tracker's method gives; `FAILED` where it raises, which is a warning."""
        try:
            return getattr(self.tracker, method)(*arguments)
        except faults as error:  # libraries call `sys.exit` too
            self._warn(f"{type(error).__name__}: {error}")
            return FAILED

    def _warn(self, what):
        if not self._warned:
            self._warned = True
            logger.warning("%s fails, the run continues without it: %s", self.name, scrubbed(what))
