"""Everything as JSON lines."""

from artifex_keras.tracking.files import Rows
from artifex_keras.tracking.params import table_of

__all__ = ["JSONLines"]


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
        columns, data = table_of(rows)
        rows = [dict(zip(columns, row, strict=False)) for row in data]
        self.file.write({"step": step, "text": name, "rows": rows})

    def artifact(self, name, path):
        self.file.write({"step": self._last, "artifact": name, "path": str(path)})

    def summary(self, values):
        self.file.write({"step": self._last, "summary": values})
