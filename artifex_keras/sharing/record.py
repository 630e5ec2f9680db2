"""What the folder of a run says of it, in plain values; each part may be missing."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np

from artifex_keras.arguments import checked, file_path
from artifex_keras.pictures.curves import read_history
from artifex_keras.sharing.places import CONFIG, find_run, own_files
from artifex_keras.trust import (
    FileError,
    open_image,
    read_json,
    read_json_lines,
    read_text,
    read_yaml,
    reading,
)
from artifex_keras.trust.reading import read_bytes

__all__ = ["Picture", "RunRecord", "read_run"]

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp")
CURVES = "loss.png"  # the same curves as `history.csv`
LARGEST_PICTURE = 2**23  # bytes
LARGEST_TEXT = 2**20
LARGEST_LOG = 2**27
MOST_PICTURES = 24
HEAD = re.compile(r"# made with keras (\S{1,40}) on (\w{1,40})")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that the run wrote: the name of its file, its bytes and their type."""

    name: str
    type: str
    content: bytes
    size: tuple


@dataclasses.dataclass
class RunRecord:
    """A run as its folder describes it.

    Attributes:
        folder: the folder.
        config: the settings by section.
        about: what `run.json` says: command, versions, times; {} of an older run.
        epochs: the numbers of the epochs, from 1.
        curves: {metric: its value in each epoch}.
        pictures: a list of `Picture`.
        texts: {name: text} that the run wrote.
        evaluation: what `artifex-keras evaluate` found; {} without.
        missing: sentences about parts that aren't there.
    """

    folder: Path
    config: dict
    about: dict
    epochs: np.ndarray
    curves: dict
    pictures: list
    texts: dict
    evaluation: dict
    missing: list

    @property
    def name(self):
        return self.folder.resolve().name

    @property
    def family(self):
        return str(self.config.get("family"))

    @property
    def data(self):
        """What the run has learned, in a word: the name of its data, or of their file."""
        source = mapping(self.config.get("data")).get("source")
        first = source[0] if isinstance(source, list) and source else source
        return re.split(r"[/\\]", str(first).rstrip("/\\"))[-1]

    @property
    def sessions(self):
        """A dict for each time that the run was begun or resumed."""
        found = self.about.get("sessions")
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    @property
    def command(self):
        """The command that began the run, a text; None where it isn't known."""
        found = self.sessions[0].get("command") if self.sessions else None
        return found if isinstance(found, str) else None

    @property
    def seconds(self):
        """How long all sessions took together; None where that isn't known."""
        known = [number(each.get("seconds")) for each in self.sessions]
        return sum(known) if known and None not in known else None

    @property
    def quiet(self):
        """The names of metrics that say little as curves."""
        found = self.about.get("quiet")
        return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []

    def metrics(self):
        """The names of the metrics of training, the watched one first."""
        names = [name for name in self.curves if not name.startswith("val_")]
        watched = self.about.get("watched", "loss")
        return sorted(names, key=lambda name: (name != watched, name != "loss"))

    def last(self, name):
        """The last value of a metric that is a number, or None."""
        values = self.curves.get(name, np.zeros(0))
        known = values[np.isfinite(values)]
        return float(known[-1]) if len(known) else None

    def best(self, name):
        """`(value, epoch)` of the best value of a metric; None where better means nothing."""
        plain = name.removeprefix("val_")
        mode = mapping(self.about.get("modes")).get(plain, "min" if plain == "loss" else None)
        values = self.curves.get(name)
        if mode not in ("min", "max") or values is None or not np.isfinite(values).any():
            return None
        ordered = np.where(np.isfinite(values), values if mode == "min" else -values, np.inf)
        place = int(ordered.argmin())
        return float(values[place]), int(self.epochs[place])


@checked(folder=file_path)
def read_run(folder):
    """What the folder of a run says of it, a `RunRecord`; no model is loaded.

    Args:
        folder: the folder, as `artifex-keras train` has filled it.

    Raises:
        ValueError: where there is no run, with the nearest name.
        FileError: for a config that can't be read, and a link out of the folder.

    Example:

        ```python
        from pathlib import Path
        import artifex_keras as ak

        Path("run").mkdir()
        Path("run/config.yaml").write_text("family: vae\\ndata: {source: digits}\\n")
        Path("run/history.csv").write_text("epoch,loss\\n0,2.5\\n1,1.5\\n")
        run = ak.sharing.read_run("run")
        assert run.family == "vae" and run.last("loss") == 1.5
        ```
    """
    folder = find_run(folder)
    files = {path.relative_to(folder).as_posix(): path for path in own_files(folder)}
    missing = []
    config = read_yaml(folder / CONFIG, "a config")
    epochs, curves = _history(files, missing)
    about = mapping(_json(files, "run.json", missing)) or _from_head(folder, missing)
    run = RunRecord(
        folder=folder,
        config=config,
        about=about,
        epochs=epochs,
        curves=curves,
        pictures=_pictures(files, missing),
        texts=_texts(files, missing),
        evaluation=mapping(_json(files, "evaluation.json", missing)),
        missing=missing,
    )
    missing[:0] = _unfinished(run, files)
    return run


def mapping(value):
    """`value` if it is a dict, else {}."""
    return value if isinstance(value, dict) else {}


def number(value):
    """`value` as a finite float, or None."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and abs(value) < 1e300 and math.isfinite(value) else None


def _unfinished(run, files):
    """Sentences about a run that did not come to its end."""
    ended = run.sessions[-1].get("ended") if run.sessions else None
    planned = number(mapping(run.config.get("training")).get("num_epochs"))
    of = f" of {planned:g}" if planned else ""
    if run.sessions and ended is None:
        yield (
            f"The run has not ended: it is still training, or was killed. {len(run.epochs)}{of} "
            "epochs are here."
        )
    elif run.sessions and ended != "finished":
        yield f"The run ended early, by {ended}, after {len(run.epochs)}{of} epochs."
    elif not run.sessions and planned and len(run.epochs) < planned:
        yield f"The run has {len(run.epochs)}{of} epochs: it stopped early, or was killed."
    if "model.keras" not in files:
        yield "There is no model.keras: no model was saved at the end."


def _history(files, missing):
    """The epochs and the curves, empty where there is no history."""
    nothing = np.zeros(0, "int64"), {}
    if "history.csv" not in files:
        missing.append("There is no history.csv: no epoch was finished, so there are no curves.")
        return nothing
    found = _said(missing, read_history, files["history.csv"])
    if found is None or not len(found[0]):
        return nothing
    if not any(name.startswith("val_") for name in found[1]):
        missing.append("There are no curves of validation: the run had no validation data.")
    return found


def _json(files, name, missing):
    return _said(missing, read_json, files[name]) if name in files else None


def _from_head(folder, missing):
    """What the config of an older run says of versions, in its first line."""
    missing.append("The run has no run.json: its command and its time are not known.")
    head = HEAD.match(read_text(folder / CONFIG, "a config", LARGEST_TEXT))
    return {"backend": head[2], "versions": {"keras": head[1]}} if head else {}


def _said(missing, read, path):
    """What `read` finds in a file; None where it can't be read, which `missing` then says."""
    try:
        return read(path)
    except (FileError, FileNotFoundError) as error:
        missing.append(f"{path.name} was left out. {error}".replace(f"{path.parent}/", ""))
        return None


def _pictures(files, missing):
    """The pictures in the folder, samples first, without that of the curves."""
    paths = [path for name, path in files.items() if path.suffix.lower() in ENDINGS
             and name != CURVES]  # fmt: skip
    paths.sort(key=lambda path: (not path.name.startswith("samples."), _natural(path)))
    if not paths:
        missing.append("The run wrote no pictures.")
    if len(paths) > MOST_PICTURES:
        missing.append(f"{len(paths) - MOST_PICTURES} more pictures are in the folder.")
    found = [_said(missing, _picture, path) for path in paths[:MOST_PICTURES]]
    return [picture for picture in found if picture is not None]


def _natural(path):
    """The parts of a name, by which epoch-10 comes after epoch-9."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _picture(path):
    with open_image(path) as image:
        kind, size = FORMATS.get(image.format), image.size
        image.load()
    if kind is None:
        raise FileError(f"{str(path)!r} is no PNG, JPEG, GIF or WebP.")
    return Picture(path.name, kind, read_bytes(path, "a picture", LARGEST_PICTURE), size)


def _texts(files, missing):
    """The texts that the run wrote: files, and the last ones of the tracker of JSON lines."""
    found = {}
    for name, path in files.items():
        if path.suffix == ".txt":
            text = _said(missing, lambda path: read_text(path, limit=LARGEST_TEXT), path)
            found |= {} if text is None else {name: text}
        elif path.suffix == ".jsonl" and path.stat().st_size < LARGEST_LOG:
            found |= _tracked(path)
    return found


def _tracked(path):
    """The last texts of each name in the file of a tracker."""
    found = {}
    try:
        with reading(path, "a .jsonl file"):
            for _, row in read_json_lines(path):
                name, rows = mapping(row).get("text"), mapping(row).get("rows")
                if isinstance(name, str) and isinstance(rows, list):
                    found[f"{name}, step {mapping(row).get('step')}"] = rows
                    for other in [each for each in found if each.startswith(f"{name}, step")][:-1]:
                        del found[other]
    except FileError:
        pass  # a run that was killed has half a line at the end
    return {name: "\n\n".join(map(_row_text, rows)) for name, rows in found.items()}


def _row_text(row):
    if not isinstance(row, dict):
        return str(row)
    if list(row) == ["text"]:
        return str(row["text"])
    return "\n".join(f"{name}: {value}" for name, value in row.items())
