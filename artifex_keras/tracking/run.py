"""The trackers of a run."""

import atexit
import importlib.util
import inspect
import weakref

from artifex_keras.arguments import lookup, unknown_name
from artifex_keras.backend import processes
from artifex_keras.tracking.guarded import Guarded
from artifex_keras.tracking.jsonl import JSONLines
from artifex_keras.tracking.mlflow import MLflow
from artifex_keras.tracking.secrets import forbid_secrets
from artifex_keras.tracking.tensorboard import TensorBoard
from artifex_keras.tracking.wandb import Wandb
from artifex_keras.utils import optional

__all__ = ["TRACKERS", "Trackers", "active"]

TRACKERS = {kind.name: kind for kind in (JSONLines, MLflow, TensorBoard, Wandb)}


def active(model):
    """The trackers that are open for a model in `fit`: a list, empty if there are none.

    Each has `log(metrics, step)`, `picture(name, path, step)`, `text(name, rows, step)` and
    `artifact(name, path)`. They return at once and never raise.
    """
    return list(_open.get(model, ()))


_open = weakref.WeakKeyDictionary()


class Trackers:
    """The trackers of a run.

    Args:
        options: `{name: {option: value}}`, or None; names are rows of `TRACKERS`.

    Raises:
        ValueError: for an unknown tracker or option, with the nearest ones; for a secret among the
            options.
        ImportError: for one whose package isn't installed, with the extra that brings it.
    """

    def __init__(self, options=None):
        self._all = [Guarded(_made(name, values)) for name, values in _checked(options).items()]
        self._open = []
        self._waiting = {}

    def __bool__(self):
        return bool(self._all)

    @property
    def keep_model(self):
        """Whether an open one wants the trained model."""
        return any(guarded.tracker.keeps_model for guarded in self._open)

    def state(self):
        """What a checkpoint keeps, by name."""
        return {guarded.name: guarded.tracker.state() for guarded in self._open}

    def open(self, model, params, *, step=0, state=None, folder="."):
        """Opens them for a run of `model`, at its start or after `step` steps with its `state`.

        In a run of several processes the first one alone has open trackers. One that another
        callback of the model has open is not opened again.
        """
        if processes.index():
            return
        there = {guarded.name for guarded in active(model)}
        self._open = [guarded for guarded in self._all if guarded.name not in there]
        for guarded in self._open:
            guarded.tracker.begin(folder, (state or {}).get(guarded.name) or {})
            guarded.open(params, step)
        _open.setdefault(model, []).extend(self._open)
        if self._open:
            _unfinished.add(self)

    def log(self, metrics, step):
        for guarded in self._open:
            guarded.log(metrics, step)

    def finish(self, model, *, status="finished", summary=None, artifacts=None):
        """Closes them, with a summary and files to keep, `{name: path}`."""
        _unfinished.discard(self)
        if model in _open:
            _open[model] = [guarded for guarded in _open[model] if guarded not in self._open]
        for guarded in self._open:
            if summary:
                guarded.summary(summary)
            if guarded.tracker.keeps_model:
                for name, path in (artifacts or {}).items():
                    guarded.artifact(name, path)
        for guarded in self._open:
            guarded.close(status)
        self._open = []


_unfinished = set()


@atexit.register
def _close_unfinished():
    """Ends what a run that broke off has left open."""
    for trackers in list(_unfinished):
        trackers.finish(None, status="failed")


def _checked(options):
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise ValueError(
            "`tracking` must be a dict such as {'wandb': {'project': 'digits'}}. "
            f"Received: a {type(options).__name__}."
        )
    return options


def _made(name, options):
    """A tracker with its options."""
    kind = lookup(TRACKERS, name, "tracker")
    options = {} if options is None or options is True else options
    if not isinstance(options, dict):
        raise ValueError(
            f"The options of the tracker {name!r} must be a dict. "
            f"Received: a {type(options).__name__}."
        )
    taken = inspect.signature(kind).parameters
    for option, value in options.items():
        forbid_secrets(kind, str(option), value)
        if option not in taken:
            raise ValueError(unknown_name(option, taken, f"option of the tracker {name!r}"))
    if kind.package is not None and importlib.util.find_spec(kind.package) is None:
        optional(kind.package, kind.package)  # raises, and says what to install
    return kind(**options)
