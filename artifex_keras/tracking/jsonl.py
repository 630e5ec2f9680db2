"""The tracker of a file of JSON lines."""

from artifex_keras.tracking.files import Rows
from artifex_keras.tracking.params import table_of

__all__ = ["JSONLines"]


class JSONLines(Rows):
    """A file with a JSON object in each line: first `params`, last `summary`.

    Metrics are an object with `step` and their names; a picture is one with `step`, `picture` and
    `path`; texts are one with `step`, `text` and `rows`.

    Args:
        path: the file, ending in .jsonl; a relative path starts in the run's folder.

    Raises:
        ValueError: for another suffix.

    Example:

        ```python
        from artifex_keras.tracking.jsonl import JSONLines

        tracker = JSONLines(path="run.jsonl")
        tracker.begin(".", {})
        tracker.open({"seed": 0}, step=0)
        tracker.text("samples", ["first", "second"], step=1)
        tracker.close("finished")
        assert open("run.jsonl").readlines()[0] == '{"params": {"seed": 0}}\\n'
        ```
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
        columns, data = table_of(rows)
        rows = [dict(zip(columns, row, strict=False)) for row in data]
        self.file.write({"step": step, "text": name, "rows": rows})

    def artifact(self, name, path):
        self.file.write({"step": self._last, "artifact": name, "path": str(path)})

    def summary(self, values):
        self.file.write({"step": self._last, "summary": values})
