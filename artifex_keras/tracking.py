"""A run told to wandb, MLflow, TensorBoard and files, none of which can end it or slow it down.

`tracking={"wandb": {"project": "digits"}, "jsonl": {}}` of a trainer or of a `LoggingCallback`
names trackers, rows of `TRACKERS`, with their options. While `fit` runs, `active(model)` gives the
open ones to whoever has a picture or a text for them.
"""

import atexit
import csv
import importlib.metadata
import importlib.util
import inspect
import io
import json
import logging
import math
import os
import platform
import queue
import re
import socket
import threading
import time
import uuid
import weakref
from pathlib import Path

import keras
import numpy as np

from artifex_keras.backend import processes
from artifex_keras.utils import lookup, optional, unknown_name

__all__ = ["TRACKERS", "Guarded", "RowFile", "Trackers", "active", "description"]

logger = logging.getLogger("artifex_keras")

BACKLOG = 10_000  # calls that may wait for a slow tracker before some are dropped
PATIENCE = 60.0  # seconds that the end of a run waits for one


def active(model):
    """The trackers that are open for a model in `fit`: a list, empty if there are none.

    Each has `log(metrics, step)`, `picture(name, path, step)`, `text(name, rows, step)` and
    `artifact(name, path)`. They return at once and never raise.
    """
    return list(_open.get(model, ()))


_open = weakref.WeakKeyDictionary()


# Secrets: what is called so is taken from the environment alone, and never written


SECRET = re.compile(
    r"(^|[_.-])(api_?key|password|passwd|secret|credentials|"
    r"(access|api|auth|bearer|session)_?token)$|^token$",
    re.IGNORECASE,
)
SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)
LOGIN = re.compile(r"://[^/@\s]+:[^/@\s]+@")  # user:password@ in an address
WAY_OUT = {
    "wandb": "WANDB_API_KEY, or run `wandb login`",
    "mlflow": "MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_URI",
}


def scrubbed(text):
    """`text` without the secrets of the environment and the passwords of addresses."""
    for name, value in os.environ.items():
        if len(value) >= 8 and SECRET_VARIABLE.search(name):
            text = text.replace(value, "***")
    return LOGIN.sub("://***@", text)


def _refuse_secrets(tracker, option, value):
    if SECRET.search(option) or (isinstance(value, str) and LOGIN.search(value)):
        raise ValueError(
            f"`{option}` of the tracker {tracker!r} holds a secret, which belongs into the "
            f"environment: set {WAY_OUT.get(tracker, 'a variable')}."
        )
    for name, inner in value.items() if isinstance(value, dict) else ():
        _refuse_secrets(tracker, str(name), inner)


# What a run is told by


def description(model, config=None):
    """What a tracker keeps of a run besides its numbers: a flat dict of plain values.

    The family with its options, the number of weights, the `config` (a dict) and the versions.
    """
    values = {
        "model": {
            "class": type(model).__name__,
            **{name: getattr(model, name) for name in getattr(model, "options", ())},
        },
        "parameters": model.count_params() if model.built else None,
        "config": config,
        "backend": keras.config.backend(),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("artifex-keras", "keras", keras.config.backend())},
        },
    }
    if config is None and getattr(model, "optimizer", None) is not None:
        values["optimizer"] = {
            "class": type(model.optimizer).__name__,
            **_arguments(model.optimizer),
        }
    return dict(_flat(values))


def _arguments(optimizer):
    try:
        return optimizer.get_config()
    except Exception:  # an optimizer that can't be written down
        return {}


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _flat(values, prefix=""):
    for name, value in values.items():
        key = f"{prefix}{name}"
        if SECRET.search(str(name)):
            yield key, "***"
        elif isinstance(value, dict) and value:
            yield from _flat(value, f"{key}.")
        elif value is None or isinstance(value, bool | int | float):
            yield key, value
        else:
            yield key, scrubbed(str(_plain(value)))


def _plain(value):
    """`value` in the types of JSON. What JSON has no number for is "nan", "inf" or "-inf"."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _table(rows):
    """`(columns, data)` of texts, or of dicts or tuples that hold some."""
    rows = [rows] if isinstance(rows, str) else list(rows)
    if rows and isinstance(rows[0], dict):
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return columns, [[_plain(row.get(name)) for name in columns] for row in rows]
    rows = [[_plain(v) for v in row] if isinstance(row, list | tuple) else [row] for row in rows]
    width = max(map(len, rows), default=1)
    return ["text"] if width == 1 else [f"text {i + 1}" for i in range(width)], rows


# Files of rows


def _read_csv(text):
    rows = list(csv.DictReader(io.StringIO(text)))
    return [row for row in rows if None not in row and None not in row.values()]


def _read_jsonl(text):
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict)]


class _CSV:
    """Rows as CSV: a column per name, empty where a row has no such value."""

    def __init__(self):
        self.columns = {}  # in order

    def text(self, rows, head=False):
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        if head and self.columns:
            writer.writerow(self.columns)
        for row in rows:
            writer.writerow([row.get(name, "") for name in self.columns])
        return out.getvalue()

    def fits(self, row):
        if row.keys() <= self.columns.keys():
            return True
        self.columns |= dict.fromkeys(row)
        return False

    read = staticmethod(_read_csv)


class _JSONL:
    """Rows as JSON, one object per line."""

    def text(self, rows, head=False):
        return "".join(f"{json.dumps(_plain(row), allow_nan=False)}\n" for row in rows)

    def fits(self, row):
        return True

    read = staticmethod(_read_jsonl)


FORMATS = {".csv": _CSV, ".jsonl": _JSONL}


class RowFile:
    """A file of rows with a `step`, CSV or JSON lines by its ending, complete after each row.

    Numbers are written so that they are read back to the bit. NaN and infinite ones are nan, inf
    and -inf, in JSON as strings. A CSV gets a new column when a row brings a new name.

    Args:
        path: ends in .csv or .jsonl.

    Raises:
        ValueError: for another ending.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._format = lookup(FORMATS, self.path.suffix.lower(), "ending of a log file")()
        self._file = None

    def open(self, step=0):
        """Keeps of the file what was written up to `step`: nothing, for a run from the start."""
        kept = self._rows() if step else []
        kept = [row for row in kept if float(row.get("step") or 0) <= step]
        kept = [row for row in kept if "summary" not in row]  # of a run that was stopped gently
        for row in kept:
            self._format.fits(row)
        self._replace(kept)

    def write(self, row):
        if self._file is None:
            self.open(row.get("step", 0))
        if self._format.fits(row):
            self._file.write(self._format.text([row]))
            self._file.flush()
        else:
            self._replace([*self._rows(), row])

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rows(self):
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return self._format.read(text[: text.rfind("\n") + 1])  # without half a line

    def _replace(self, rows):
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        unfinished.write_text(self._format.text(rows, head=True), encoding="utf-8")
        os.replace(unfinished, self.path)
        self._file = open(self.path, "a", encoding="utf-8")


# Trackers. Their methods may raise and take their time: `Guarded` sees to that


class Rows:
    """A file of the metrics, a row per call. The base of all trackers.

    Args:
        path: of the file, ending in .csv or .jsonl.
    """

    name = "file"
    package = None  # what must be installed, and the extra of the same name
    slow = False  # whether its calls may wait for a network or a lock
    keeps_model = False

    def __init__(self, path):
        self._given = path
        RowFile(path)

    def begin(self, folder, state):
        """Prepares a run that writes to `folder`, or goes on from `state`; may do nothing else."""
        self.path = Path(folder, self._given).absolute()

    def state(self):
        """What a checkpoint keeps."""
        return {}

    def open(self, params, step):
        self.file = RowFile(self.path)
        self.file.open(step)

    def log(self, metrics, step):
        self.file.write({"step": step, **metrics})

    def picture(self, name, path, step):
        pass

    def text(self, name, rows, step):
        pass

    def artifact(self, name, path):
        pass

    def summary(self, values):
        pass

    def close(self, status):
        self.file.close()


class JSONLines(Rows):
    """All that is told, a JSON object per line: first `params`, last `summary`.

    A row of metrics has `step` and their names as keys; a picture `step`, `picture` and `path`; a
    text `step`, `text` and `rows`.

    Args:
        path: of the file, ending in .jsonl; a relative one is taken from the run's folder.
    """

    name = "jsonl"

    def __init__(self, *, path="metrics.jsonl"):
        super().__init__(path)

    def open(self, params, step):
        super().open(params, step)
        self._last = step
        if not step:
            self.file.write({"params": params})

    def log(self, metrics, step):
        super().log(metrics, step)
        self._last = step

    def picture(self, name, path, step):
        self.file.write({"step": step, "picture": name, "path": str(path)})

    def text(self, name, rows, step):
        columns, data = _table(rows)
        rows = [dict(zip(columns, row, strict=False)) for row in data]
        self.file.write({"step": step, "text": name, "rows": rows})

    def artifact(self, name, path):
        self.file.write({"step": self._last, "artifact": name, "path": str(path)})

    def summary(self, values):
        self.file.write({"step": self._last, "summary": values})


class TensorBoard(Rows):
    """Event files for TensorBoard: scalars, images (GIFs move), texts. TensorFlow isn't needed.

    What an earlier part of the run wrote after the checkpoint is taken back: TensorBoard hides it.

    Args:
        folder: where the event files are; a relative one is taken from the run's folder.
    """

    name = "tensorboard"
    package = "tensorboard"

    def __init__(self, *, folder="tensorboard"):
        self._given = folder

    def open(self, params, step):
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.path.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self.path / name, "wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        earlier = any(path.name != name for path in self.path.glob("events.out.tfevents.*"))
        if earlier:  # "started at this step" makes readers drop what other files have from there on
            self._write(step=step + 1 if step else 0, session_log={"status": "START"})
        if not step:
            self.text("params", [{"name": k, "value": v} for k, v in params.items()], 0)

    def _write(self, **event):
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
        self._records.flush()

    def log(self, metrics, step):
        values = [{"tag": name, "simple_value": value} for name, value in metrics.items()]
        self._write(step=step, summary={"value": values})

    def picture(self, name, path, step):
        from PIL import Image

        with Image.open(path) as image:
            width, height = image.size
        encoded = Path(path).read_bytes()
        image = {"width": width, "height": height, "colorspace": 4, "encoded_image_string": encoded}
        self._write(step=step, summary={"value": [{"tag": name, "image": image}]})

    def text(self, name, rows, step):
        columns, data = _table(rows)
        lines = [columns, ["---"] * len(columns), *data]
        cells = [[str(cell).replace("|", "\\|").replace("\n", "<br>") for cell in x] for x in lines]
        table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
        value = {
            "tag": name,
            "metadata": {"plugin_data": {"plugin_name": "text"}},
            "tensor": {"dtype": "DT_STRING", "string_val": [table.encode()], "tensor_shape": {}},
        }
        self._write(step=step, summary={"value": [value]})

    def close(self, status):
        self._records.close()


class Wandb(Rows):
    """A run of Weights & Biases, under the same id after a resume.

    Rows have `global_step` as their axis. The mode is that of WANDB_MODE unless given; offline runs
    are sent later by `wandb sync`. A run that is open already, by a `wandb.init` before training,
    is used and left open.

    Args:
        project, entity, name, group, tags, notes, mode, id: as in `wandb.init`.
        folder: where its folder `wandb` is; by default WANDB_DIR or the run's folder.
        model: whether the trained model is kept there, as an artifact.
    """

    name = "wandb"
    package = "wandb"
    slow = True

    def __init__(
        self,
        *,
        project=None,
        entity=None,
        name=None,
        group=None,
        tags=None,
        notes=None,
        mode=None,
        id=None,
        folder=None,
        model=True,
    ):
        self.keeps_model = model
        self._id, self._folder = id, folder
        given = {"project": project, "entity": entity, "name": name, "group": group}
        given |= {"tags": tags, "notes": notes, "mode": mode}
        self._given = {option: value for option, value in given.items() if value is not None}

    def begin(self, folder, state):
        self.id = state.get("id") or self._id or uuid.uuid4().hex[:8]
        self.path = Path(self._folder or os.environ.get("WANDB_DIR") or folder).absolute()

    def state(self):
        return {"id": self.id}

    def open(self, params, step):
        wandb = optional("wandb", "wandb")
        self._ours = wandb.run is None
        if self._ours:
            mode = self._given.get("mode") or os.environ.get("WANDB_MODE")
            mode = mode or wandb.setup().settings.mode
            if mode == "online" and not wandb.login(prompt=False):
                raise RuntimeError(
                    "no key: run `wandb login`, set WANDB_API_KEY, or work with WANDB_MODE=offline"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            self.run = wandb.init(
                id=self.id, resume="allow", dir=str(self.path), **{**self._given, "mode": mode}
            )
        else:
            self.run, self.id = wandb.run, wandb.run.id
        self.run.config.update(params, allow_val_change=True)
        self.run.define_metric("global_step")
        self.run.define_metric("*", step_metric="global_step")

    def log(self, metrics, step):
        self.run.log({**metrics, "global_step": step})

    def picture(self, name, path, step):
        import wandb

        moving = Path(path).suffix.lower() in (".gif", ".mp4", ".webm")
        picture = wandb.Video(str(path)) if moving else wandb.Image(str(path))
        self.run.log({name: picture, "global_step": step})

    def text(self, name, rows, step):
        import wandb

        columns, data = _table(rows)
        self.run.log({name: wandb.Table(columns=columns, data=data), "global_step": step})

    def artifact(self, name, path):
        import wandb

        kept = wandb.Artifact(f"{Path(name).stem}-{self.id}", type="model")
        kept.add_file(str(path), name=name)
        self.run.log_artifact(kept)

    def summary(self, values):
        self.run.summary.update(values)

    def close(self, status):
        if self._ours:
            self.run.finish(exit_code=0 if status == "finished" else 1)


class MLflow(Rows):
    """A run of MLflow, the same one after a resume.

    It is kept where MLFLOW_TRACKING_URI or `mlflow.set_tracking_uri` says, else in `mlflow.db`, an
    SQLite file in the working folder, where `mlflow ui` looks for it.

    Args:
        experiment: its name; made if it isn't there.
        run_name: a name for people.
        tracking_uri: another store; one with a password goes into MLFLOW_TRACKING_URI instead.
        tags: a dict.
        model: whether the trained model is kept there, as an artifact.
    """

    name = "mlflow"
    package = "mlflow"
    slow = True
    STATUS = {"finished": "FINISHED", "failed": "FAILED"}
    MARK = "artifex_keras.run"  # the tag by which a resumed run finds itself
    LONGEST = 6000  # characters of a parameter
    AT_ONCE = 100  # parameters in a call

    def __init__(
        self, *, experiment="Default", run_name=None, tracking_uri=None, tags=None, model=True
    ):
        self.keeps_model = model
        self._experiment, self._run_name = experiment, run_name
        self._uri, self._tags = tracking_uri, dict(tags or {})

    def begin(self, folder, state):
        self.id = state.get("id") or uuid.uuid4().hex
        self._resumed = "id" in state
        self._default = f"sqlite:///{Path('mlflow.db').absolute()}"

    def state(self):
        return {"id": self.id}

    def open(self, params, step):
        mlflow = optional("mlflow", "mlflow")
        known = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else self._default
        self.client = mlflow.MlflowClient(self._uri or known)
        experiment = self.client.get_experiment_by_name(self._experiment)
        place = experiment.experiment_id if experiment else None
        place = place or self.client.create_experiment(self._experiment)
        found = self._found(place) if self._resumed else None
        if found is None:
            tags = {self.MARK: self.id, **self._tags}
            self.run_id = self.client.create_run(
                place, run_name=self._run_name, tags=tags
            ).info.run_id
            self._log_params(params)
        else:
            self.run_id = found.info.run_id
            self.client.update_run(self.run_id, status="RUNNING")

    def _found(self, place):
        runs = self.client.search_runs([place], f"tags.`{self.MARK}` = '{self.id}'")
        return runs[0] if runs else None

    def _log_params(self, params):
        from mlflow.entities import Param

        params = [Param(_name(key), _cut(str(v), self.LONGEST)) for key, v in params.items()]
        for start in range(0, len(params), self.AT_ONCE):
            self.client.log_batch(self.run_id, params=params[start : start + self.AT_ONCE])

    def log(self, metrics, step):
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(_name(key), float(value), now, step) for key, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=rows)

    def picture(self, name, path, step):
        if Path(path).suffix.lower() == ".png":
            from PIL import Image

            with Image.open(path) as image:
                self.client.log_image(self.run_id, image.convert("RGB"), key=name, step=step)
        else:
            self.client.log_artifact(self.run_id, str(path), "pictures")

    def text(self, name, rows, step):
        columns, data = _table(rows)
        table = {"step": [step] * len(data)}
        table |= {column: [row[i] for row in data] for i, column in enumerate(columns)}
        self.client.log_table(self.run_id, table, f"{_name(name).replace('/', '-')}.json")

    def artifact(self, name, path):
        self.client.log_artifact(self.run_id, str(path))

    def summary(self, values):
        self.client.log_dict(self.run_id, _plain(values), "summary.json")

    def close(self, status):
        self.client.set_terminated(self.run_id, self.STATUS[status])


def _name(key):
    """A name of the characters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", str(key))[:250]


def _cut(text, longest):
    if len(text) <= longest:
        return text
    note = f"... (cut from {len(text)} characters)"
    return text[: longest - len(note)] + note


TRACKERS = {"jsonl": JSONLines, "mlflow": MLflow, "tensorboard": TensorBoard, "wandb": Wandb}


# What makes them harmless


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
        _refuse_secrets(name, str(option), value)
        if option not in taken:
            raise ValueError(unknown_name(option, taken, f"option of the tracker {name!r}"))
    if kind.package is not None and importlib.util.find_spec(kind.package) is None:
        optional(kind.package, kind.package)  # raises, and says what to install
    return kind(**options)
