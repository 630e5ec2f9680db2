"""What a run's folder says beside its settings: `run.json` with the command, versions and times,
and `evaluation.json` with what `artifex-keras evaluate` found."""

import contextlib
import datetime
import json
import math
import platform
import shlex
import sys
import time
from pathlib import Path

import keras

from artifex_keras import __version__, backend
from artifex_keras.atomic import write_text
from artifex_keras.backend import processes
from artifex_keras.callbacks.checkpoint.states import versions
from artifex_keras.tracking.params import json_value
from artifex_keras.tracking.secrets import scrubbed
from artifex_keras.trust import FileError, read_json
from artifex_keras.utils import warn

__all__ = ["ABOUT", "keep_evaluation", "session"]

PROGRAM = "artifex-keras"
ABOUT = "run.json"
EVALUATION = "evaluation.json"


@contextlib.contextmanager
def session(run, trainer, dataset):
    """Inside, a run is trained: `run.json` says when that began, and at the end how it ended.

    Gives a function that says how: "finished", or the name of a signal.
    """
    earlier = _earlier(run.folder / ABOUT)
    now = {"command": _command(), "began": _now(), "ended": None}
    about = {**_facts(run, trainer, dataset), "sessions": [*earlier, now]}
    begin = time.monotonic()

    def end(how):
        now.update(ended=how, seconds=round(time.monotonic() - begin, 1))
        about.update(_facts(run, trainer, dataset))  # an unbuilt model has its weights by now
        _write(run.folder / ABOUT, about)

    _write(run.folder / ABOUT, about)
    try:
        yield end
    except BaseException as error:
        end("SIGINT" if isinstance(error, KeyboardInterrupt) else type(error).__name__)
        raise


def keep_evaluation(folder, found):
    """Writes what `evaluate` found into the folder of a run; a folder that can't be written to gets
    a warning."""
    try:
        _write(folder / EVALUATION, found)
    except OSError as error:
        warn(f"{EVALUATION} could not be written: {error}.")


def _facts(run, trainer, dataset):
    """What the settings don't say."""
    model = trainer.model
    return {
        "model": type(model).__name__,
        "data": str(dataset).removeprefix("Dataset(").removesuffix(")"),
        "weights": sum(math.prod(w.shape) for w in model.trainable_weights)
        if model.built
        else None,
        "watched": trainer.watched,
        "modes": {"loss": "min", **getattr(model, "metric_modes", {})},
        "units": run.recipe.units,
        "quiet": list(getattr(model, "quiet_metrics", ())),
        "backend": backend.name(),
        "device": _device(),
        "versions": {"python": platform.python_version(), "artifex-keras": __version__}
        | {name: v for name, v in versions().items() if name != "backend"}
        | {backend.name(): _backend_version()},
    }


def _backend_version():
    return getattr(sys.modules.get(backend.name()), "__version__", None)


def _device():
    try:
        devices = keras.distribution.list_devices()
    except AttributeError:  # Keras lists none of torch
        return "cpu" if backend.device_memory() is None else "gpu"
    kind = devices[0].partition(":")[0] if devices else "cpu"
    return f"{len(devices)} {kind}" if len(devices) > 1 else kind


def _command():
    """The command line of this process without secrets; None where Python calls us."""
    if Path(sys.argv[0]).name not in (PROGRAM, f"{PROGRAM}.exe", "__main__.py"):
        return None
    return scrubbed(shlex.join([PROGRAM, *sys.argv[1:]]))


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _earlier(path):
    """The sessions of a run that is resumed."""
    try:
        found = read_json(path).get("sessions")
        return [each for each in found if isinstance(each, dict)]
    except (FileError, FileNotFoundError, AttributeError, TypeError):
        return []


def _write(path, values):
    text = json.dumps(json_value(values), indent=1, ensure_ascii=False, allow_nan=False)
    processes.on_first_process(lambda: write_text(path, text + "\n"))
