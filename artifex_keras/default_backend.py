"""Which backend Keras takes where nobody has said: JAX, where its own default can't serve.

Keras's default is TensorFlow whether or not it is installed, and the first `import keras` on a
machine writes that into `~/.keras/keras.json` as if somebody had chosen it. So without TensorFlow
the import would fail. The shell command trains on JAX wherever `KERAS_BACKEND` doesn't say.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

__all__ = ["choose_backend", "is_command"]

COMMAND = "artifex-keras"
INSIDE = ("", "__main__", "cli")  # what of this package runs as the command
RUN_AS_MODULE = "-m"  # what sys.argv[0] is while Python looks for `python -m artifex_keras`


def choose_backend():
    """Sets `KERAS_BACKEND` to "jax", unless Keras is imported already, the variable is set, or
    Keras has another backend to fall back on."""
    if "keras" in sys.modules or "KERAS_BACKEND" in os.environ:
        return
    if _runs_as_command() or importlib.util.find_spec(_configured()) is None:
        os.environ["KERAS_BACKEND"] = "jax"


def _runs_as_command():
    return bool(sys.argv) and Path(sys.argv[0]).stem in (COMMAND, RUN_AS_MODULE)


def is_command():
    """Whether this process is the command itself, and Python looks for it: `artifex-keras`,
    `python -m artifex_keras`."""
    if not _runs_as_command() or sys.argv[0] != RUN_AS_MODULE:
        return _runs_as_command()
    package, _, inside = sys.orig_argv[-len(sys.argv)].removeprefix(RUN_AS_MODULE).partition(".")
    return package == __package__ and inside in INSIDE


def _configured():
    """The backend that Keras would take: the one in its file, TensorFlow without one."""
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return json.loads((folder / "keras.json").read_text())["backend"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "tensorflow"
