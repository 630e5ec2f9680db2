"""Small things that every layer of the package needs and Keras does not offer."""

import contextlib
import importlib
import sys
import threading
import warnings

__all__ = ["ThreadFlag", "optional", "warn"]


class ThreadFlag(threading.local):
    """Whether this thread is inside some block: ``with flag.raised():``, then `flag.up`."""

    up = False

    @contextlib.contextmanager
    def raised(self):
        """Inside, the flag of this thread is up."""
        before, self.up = self.up, True
        try:
            yield
        finally:
            self.up = before


def optional(module, extra):
    """The optional module called `module`, imported now.

    Raises:
        ImportError: names the extra of this package that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f"`{package}` is needed here and not installed: pip install 'artifex-keras[{extra}]'"
        ) from error


def warn(message):
    """Warns of something in the user's own line: the first one outside this package and Keras."""
    level, frame = 2, sys._getframe(1)
    while frame is not None and _is_inside(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _is_inside(module):
    return module.partition(".")[0] in ("artifex_keras", "keras")
