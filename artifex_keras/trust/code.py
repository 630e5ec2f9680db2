"""Code in files: it runs if a person names it, not because another file does."""

import contextlib
import contextvars
import importlib.util
import sys
import traceback
from pathlib import Path

from artifex_keras.trust.reading import FileError

__all__ = ["command_line", "run_file"]

# The files that the running command may run; True for any, None where Python calls us itself and
# every name is the caller's own.
_named = contextvars.ContextVar("named", default=None)


@contextlib.contextmanager
def command_line(words, trust=False):
    """Inside, only those Python files run that the command line names.

    Args:
        words: all its words and the values in them; `file.py:function` is of `file.py`.
        trust: whether `--trust` is among them, by which any file runs.
    """
    token = _named.set(True if trust else frozenset(filter(None, map(_python_file, words))))
    try:
        yield
    finally:
        _named.reset(token)


def _python_file(word):
    """The whole path of the Python file that a word names, or None."""
    path, python, _ = str(word).partition(".py")
    return Path(f"{path}{python}").expanduser().resolve() if python else None


def run_file(path, name, say):
    """What a Python file defines: a module called `name`. It may import what lies beside it.

    Args:
        path: of the file.
        name: of the module.
        say: is called with a line that names the file, before it runs.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: where the command line doesn't name the file, and where running it fails.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    named = _named.get()
    if named is not None:
        if named is not True and path.resolve() not in named:
            raise FileError(
                f"{str(path.resolve())!r} holds code, and only a file asks for it to run. If you "
                "trust it, name it on the command line too, or add --trust."
            )
        say(f"Running the code in {path.resolve()}")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    try:
        with _beside(path):
            spec.loader.exec_module(module)
    except Exception as error:
        raise FileError(f"{path.name!r} can't be run: {_describe_error(error, path)}.") from error
    return module


@contextlib.contextmanager
def _beside(path):
    """Inside, a file imports what lies beside it, as if it were run by itself."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _describe_error(error, path):
    lines = [step.lineno for step in traceback.extract_tb(error.__traceback__)
             if Path(step.filename) == path]  # fmt: skip
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"
