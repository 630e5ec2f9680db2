"""The trackers of a run."""

import atexit
import importlib.util
import inspect
import weakref

from artifex_keras.arguments import checked, lookup, unknown_name
from artifex_keras.atomic import user_path
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
    """The trackers that are open while `model` trains: a list of `Guarded`.

    Each has `log(metrics, step)`, `picture(name, path, step)`, `text(name, rows, step)` and
    `artifact(name, path)`, which return at once and never raise.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak
        from artifex_keras import tracking

        class LogSteps(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                for tracker in tracking.active(self.model):
                    tracker.log({"twice_the_loss": 2 * logs["loss"]}, step=epoch + 1)

        x = np.ones((8, 4))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        log = ak.callbacks.LoggingCallback(tracking={"jsonl": {}}, console=False)
        model.fit(x, x[:, :1], verbose=0, callbacks=[log, LogSteps()])
        assert "twice_the_loss" in open("metrics.jsonl").read()
        ```
    """
    return list(_open.get(model, ()))


_open = weakref.WeakKeyDictionary()


@checked()
class Trackers:
    """The trackers of a run.

    Args:
        options: a dict of options by the name of a tracker in `TRACKERS`; None for no tracker.

    Raises:
        ValueError: for an unknown tracker or option, with the nearest name; for a secret among the
            options.
        ImportError: for a tracker whose package isn't installed, with the extra to install.
    """

    def __init__(self, options=None):
        self._all = [
            Guarded(_build_tracker(name, values))
            for name, values in _options_by_name(options).items()
        ]
        self._open = []
        self._model = None  # whose run it is, as a weak reference

    def __bool__(self):
        return bool(self._all)

    @property
    def keep_model(self):
        """Whether an open tracker keeps the trained model."""
        return any(guarded.tracker.keeps_model for guarded in self._open)

    def state(self):
        """The states that a checkpoint keeps, a dict by name."""
        return {guarded.name: guarded.state() for guarded in self._open}

    def open(self, model, params, *, step=0, state=None, folder="."):
        """Opens the trackers for a run of `model`.

        In a run of several processes only the first has open trackers. A tracker that another
        callback of the model has open is not opened again.

        Args:
            model: the model.
            params: the `description` of the run.
            step: the steps before a resume.
            state: the `state()` of the run that resumes.
            folder: the folder of the trackers' files.
        """
        if processes.index():
            return
        there = {guarded.name for guarded in active(model)}
        self._open = [guarded for guarded in self._all if guarded.name not in there]
        for guarded in self._open:
            guarded.begin(user_path(folder), (state or {}).get(guarded.name) or {})
            guarded.open(params, step)
        _open.setdefault(model, []).extend(self._open)
        self._model = weakref.ref(model)
        if self._open:
            _unfinished.add(self)

    def log(self, metrics, step):
        """Sends metrics, a dict of numbers, to all open trackers."""
        for guarded in self._open:
            guarded.log(metrics, step)

    def finish(self, model, *, status="finished", summary=None, artifacts=None):
        """Closes the trackers, with a summary and files to keep, a dict of paths by name."""
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


def close_broken_off(model):
    """Closes what a `fit` of `model` that broke off has left open."""
    for trackers in list(_unfinished):
        if trackers._model() is model:
            trackers.finish(model, status="failed")


@atexit.register
def _close_unfinished():
    """Closes what an interrupted run has left open."""
    for trackers in list(_unfinished):
        trackers.finish(None, status="failed")


def _options_by_name(options):
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise ValueError(
            "`tracking` must be a dict such as {'wandb': {'project': 'digits'}}. "
            f"Received: a {type(options).__name__}."
        )
    return options


def _build_tracker(name, options):
    """The tracker of that name with its options, which are checked."""
    kind = lookup(TRACKERS, name, "tracker")
    options = {} if options is None or options is True else options
    if not isinstance(options, dict):
        raise ValueError(
            f"The options of the tracker {name!r} must be a dict. "
            f"Received: a {type(options).__name__}."
        )
    accepted = inspect.signature(kind).parameters
    for option, value in options.items():
        forbid_secrets({option: value}, f"the tracker {name!r}", kind.credentials)
        if option not in accepted:
            raise ValueError(unknown_name(option, accepted, f"option of the tracker {name!r}"))
    if kind.package is not None and importlib.util.find_spec(kind.package) is None:
        optional(kind.package, kind.package)  # raises, and says what to install
    return kind(**options)
