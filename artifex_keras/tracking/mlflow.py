"""The tracker of MLflow."""

import re
import time
import uuid
from pathlib import Path

from artifex_keras.tracking.params import json_value, table_of
from artifex_keras.tracking.tracker import Tracker
from artifex_keras.trust import open_image
from artifex_keras.utils import optional

__all__ = ["MLflow"]


class MLflow(Tracker):
    """A run of MLflow, which stays the same run when training resumes.

    The store is that of MLFLOW_TRACKING_URI or `mlflow.set_tracking_uri`, else `mlflow.db`, an
    SQLite file in the working folder, where `mlflow ui` finds it.

    Args:
        experiment: the name of the experiment, which is created if it doesn't exist.
        run_name: the displayed name of the run.
        tracking_uri: another store. Put an address with a password in MLFLOW_TRACKING_URI instead.
        tags: a dict of tags.
        model: whether to keep the trained model as an artifact.

    Example:

        ```python
        from artifex_keras.tracking.mlflow import MLflow

        tracker = MLflow(experiment="digits")  # or tracking={"mlflow": {"experiment": "digits"}}
        tracker.begin("run", {})
        assert list(tracker.state()) == ["id"]
        ```
    """

    name = "mlflow"
    package = "mlflow"
    credentials = "MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_URI"
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
        found = self._find_run(place) if self._resumed else None
        if found is None:
            tags = {self.MARK: self.id, **self._tags}
            self.run_id = self.client.create_run(
                place, run_name=self._run_name, tags=tags
            ).info.run_id
            self._log_params(params)
        else:
            self.run_id = found.info.run_id
            self.client.update_run(self.run_id, status="RUNNING")

    def _find_run(self, place):
        runs = self.client.search_runs([place], f"tags.`{self.MARK}` = '{self.id}'")
        return runs[0] if runs else None

    def _log_params(self, params):
        from mlflow.entities import Param

        params = [
            Param(allowed_name(key), shortened(str(v), self.LONGEST)) for key, v in params.items()
        ]
        for start in range(0, len(params), self.AT_ONCE):
            self.client.log_batch(self.run_id, params=params[start : start + self.AT_ONCE])

    def log(self, metrics, step):
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [
            Metric(allowed_name(key), float(value), now, step) for key, value in metrics.items()
        ]
        self.client.log_batch(self.run_id, metrics=rows)

    def picture(self, name, path, step):
        if Path(path).suffix.lower() == ".png":
            with open_image(path) as image:
                self.client.log_image(self.run_id, image.convert("RGB"), key=name, step=step)
        else:
            self.client.log_artifact(self.run_id, str(path), "pictures")

    def text(self, name, rows, step):
        columns, data = table_of(rows)
        table = {"step": [step] * len(data)}
        table |= {column: [row[i] for row in data] for i, column in enumerate(columns)}
        self.client.log_table(self.run_id, table, f"{allowed_name(name).replace('/', '-')}.json")

    def artifact(self, name, path):
        self.client.log_artifact(self.run_id, str(path))

    def summary(self, values):
        self.client.log_dict(self.run_id, json_value(values), "summary.json")

    def close(self, status):
        self.client.set_terminated(self.run_id, self.STATUS[status])


def allowed_name(key):
    """`key` in the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", str(key))[:250]


def shortened(text, longest):
    """`text`, or its first part and a note of how long it was."""
    if len(text) <= longest:
        return text
    note = f"... (cut from {len(text)} characters)"
    return text[: longest - len(note)] + note
