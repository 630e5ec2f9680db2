"""Small things that every layer of the package needs and Keras does not offer."""

import concurrent.futures
import contextlib
import contextvars
import importlib
import sys
import threading
import warnings

__all__ = ["ThreadFlag", "attribute_of", "in_thread", "optional", "warn"]


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


def attribute_of(owner, name):
    """A property that is the attribute `name` of what `self` has as `owner`, read and set there."""

    def read(self):
        return getattr(getattr(self, owner), name)

    def write(self, value):
        setattr(getattr(self, owner), name, value)

    return property(read, write)


def in_thread(call):
    """`(future, thread)` of `call()`, for which `thread.start()` is still to be called: a thread of
    its own with this one's context. What it raises, an interrupt too, is raised where the future's
    result is asked for."""
    future, context = concurrent.futures.Future(), contextvars.copy_context()

    def work():
        try:
            future.set_result(context.run(call))
        except BaseException as error:
            future.set_exception(error)

    return future, threading.Thread(target=work, daemon=True)


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
