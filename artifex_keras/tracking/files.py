"""Files of rows, as CSV or JSON lines, complete after each row."""

import contextlib
import csv
import io
import json
import os
from pathlib import Path

from artifex_keras.arguments import lookup
from artifex_keras.atomic import user_path, write_text
from artifex_keras.tracking.params import json_value
from artifex_keras.tracking.tracker import Tracker

__all__ = ["RowFile", "Rows", "still_there"]


def _read_csv(text):
    rows = list(csv.DictReader(io.StringIO(text)))
    return [row for row in rows if None not in row and None not in row.values()]


def _read_jsonl(text):
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [row for row in rows if isinstance(row, dict)]


class _CSV:
    """Rows as CSV: a column for each name, empty in rows without it."""

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
        """Whether the header has all names of the row; adds those that it lacks."""
        if row.keys() <= self.columns.keys():
            return True
        self.columns |= dict.fromkeys(row)
        return False

    read = staticmethod(_read_csv)


class _JSONL:
    """Rows as JSON, one object per line."""

    def text(self, rows, head=False):
        return "".join(f"{json.dumps(json_value(row), allow_nan=False)}\n" for row in rows)

    def fits(self, row):
        return True

    read = staticmethod(_read_jsonl)


FORMATS = {".csv": _CSV, ".jsonl": _JSONL}


def still_there(file, path):
    """`file`, open for appending and reading at `path`; where somebody has deleted it, another one
    there with all that it held."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            return file
    file.seek(0)
    content = file.read()
    file.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {} if isinstance(content, bytes) else {"encoding": "utf-8", "newline": ""}
    file = open(path, file.mode.replace("w", "a"), **options)
    file.write(content)
    return file


class RowFile:
    """A file of rows, CSV or JSON lines by its suffix, complete after each row.

    Numbers are read back to the bit. NaN and infinity are nan, inf and -inf, in JSON as strings. A
    row with a new name adds a column to a CSV file.

    Args:
        path: a path that ends in .csv or .jsonl.

    Raises:
        ValueError: for another suffix.

    Example:

        ```python
        from artifex_keras.tracking import RowFile

        file = RowFile("metrics.csv")
        file.write({"step": 1, "loss": 0.5})
        file.write({"step": 2, "loss": 0.25, "accuracy": 0.75})
        file.close()
        assert open("metrics.csv").read() == "step,loss,accuracy\\n1,0.5,\\n2,0.25,0.75\\n"
        ```
    """

    def __init__(self, path):
        self.path = user_path(path)
        self._format = lookup(FORMATS, self.path.suffix.lower(), "ending of a log file")()
        self._file = None

    def open(self, step=0):
        """Opens the file and keeps its rows up to `step`: none at the start of a run."""
        kept = self._rows() if step else []
        kept = [row for row in kept if float(row.get("step") or 0) <= step]
        kept = [row for row in kept if "summary" not in row]  # of a run that a signal stopped
        for row in kept:
            self._format.fits(row)
        self._replace(kept)

    def write(self, row):
        """Appends a dict, with the number of steps under "step"."""
        if self._file is None:
            self.open(row.get("step", 0))
        if self._format.fits(row):
            self._file = still_there(self._file, self.path)
            self._file.write(self._format.text([row]))
            self._file.flush()
        else:
            self._replace([*self._rows(), row])

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rows(self):
        if self._file is not None:
            self._file = still_there(self._file, self.path)
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return self._format.read(text[: text.rfind("\n") + 1])  # without an incomplete line

    def _replace(self, rows):
        self.close()
        write_text(self.path, self._format.text(rows, head=True))
        self._file = open(self.path, "a+", encoding="utf-8", newline="")


class Rows(Tracker):
    """A file of the metrics, a row for each call.

    Args:
        path: the file, ending in .csv or .jsonl; a relative path starts in the run's folder.

    Example:

        ```python
        from artifex_keras.tracking import Guarded, Rows

        tracker = Guarded(Rows("losses.csv"))
        tracker.begin(".", {})
        tracker.open({}, step=0)
        tracker.log({"loss": 0.5}, step=1)
        tracker.close("finished")
        assert open("losses.csv").read() == "step,loss\\n1,0.5\\n"
        ```
    """

    name = "file"

    def __init__(self, path):
        self._given = path
        RowFile(path)

    def begin(self, folder, state):
        self.path = Path(folder, user_path(self._given)).absolute()

    def open(self, params, step):
        self.file = RowFile(self.path)
        self.file.open(step)

    def log(self, metrics, step):
        self.file.write({"step": step, **metrics})

    def close(self, status):
        self.file.close()
