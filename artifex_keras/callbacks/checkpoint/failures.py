"""What a save that fails says: one line with the cause, in place of Orbax's logs."""

import contextlib
import errno
import logging
import os
import sys
import threading
import traceback
from pathlib import Path

__all__ = ["cause_of", "quiet_orbax"]

SYSTEM_ERRORS = {os.strerror(number) for number in errno.errorcode}
LOGGERS = ("absl", "asyncio")
ORBAX = Path("orbax", "checkpoint").as_posix()
TENSORSTORE = ("tensorstore_spec=", "in OCDBT database")  # stand in what its futures raise
LONGEST = 300  # characters of a cause


def cause_of(error):
    """The cause of a failed save in a few words, such as "No space left on device"."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    if found := {words: text.rfind(words) for words in SYSTEM_ERRORS if words in text}:
        return max(found, key=found.get)  # TensorStore says it last, after the folders
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


@contextlib.contextmanager
def quiet_orbax():
    """Inside, what fails in Orbax's threads isn't printed with tracebacks: it is raised anyway.

    After a failure some of its threads report later, up to the end of the next save that succeeds,
    and a future of TensorStore whenever Python collects it.
    """
    _silence.begin()
    try:
        yield
    except BaseException:
        _silence.end(late=True)
        raise
    _silence.end()


class _Silence(logging.Filter):
    """Drops errors that Orbax logs and that its threads print."""

    def __init__(self):
        super().__init__()
        self._users, self._lock, self._before = 0, threading.Lock(), None
        self._failed = False  # once, in this process
        for name in LOGGERS:
            logging.getLogger(name).addFilter(self)

    def begin(self):
        with self._lock:
            self._users += 1
            if self._before is None:
                self._before, sys.unraisablehook = sys.unraisablehook, self._hook

    def end(self, late=False):
        with self._lock:
            self._users -= 1
            self._failed |= late
            if not (self._users or late) and sys.unraisablehook == self._hook:
                sys.unraisablehook, self._before = self._before, None

    def filter(self, record):
        if record.levelno < logging.ERROR:
            return True
        if self._failed and record.name == "asyncio" and _of_tensorstore(record):
            return False
        from_orbax = record.name == "asyncio" or ORBAX in Path(record.pathname).as_posix()
        return not (self._users and from_orbax)

    def _hook(self, unraisable):
        """Of many arrays the first failure closes Orbax's event loop; the others complain of it."""
        innermost = traceback.extract_tb(unraisable.exc_traceback)[-1:]
        closed = innermost and innermost[0].name == "_check_closed"
        if not (closed and Path(innermost[0].filename).parent.name == "asyncio"):
            self._before(unraisable)


def _of_tensorstore(record):
    """Whether a log record is of an error that a future of TensorStore has kept."""
    said = str(record.exc_info[1]) if record.exc_info else ""
    return any(words in said for words in TENSORSTORE)


_silence = _Silence()
