"""The folder of a run: `config.yaml`, `run.json`, `history.csv`, pictures, `model.keras`; of a
table its `columns.json`."""

import contextlib
import dataclasses
import functools
import itertools
import json
from pathlib import Path

import keras
import numpy as np
from keras import ops

from artifex_keras import backend, datasets, pictures
from artifex_keras.arguments import lookup
from artifex_keras.atomic import atomic_file, user_path, write_text
from artifex_keras.backend import processes
from artifex_keras.config import dump_yaml
from artifex_keras.distributed.launcher import note_run
from artifex_keras.folder_lock import NAME, FolderInUse, FolderLock
from artifex_keras.shell.about import ABOUT
from artifex_keras.shell.data import is_table, load_data
from artifex_keras.shell.recipes import FAMILIES, draw_samples
from artifex_keras.shell.settings import read_config, sections_of
from artifex_keras.trust import load_model, read_json, reading

__all__ = [
    "Run",
    "free_folder",
    "lock_new_folder",
    "numbered_folder",
    "save_atomically",
    "unused_stem",
]

CONFIG = "config.yaml"
COLUMNS = "columns.json"  # of a table: names, means and deviations


@dataclasses.dataclass
class Run:
    """A folder with `config.yaml`, `history.csv`, pictures and `model.keras`."""

    folder: Path
    config: dict

    @classmethod
    def at(cls, folder):
        """The run that fills `folder`. Raises a ValueError if there is none."""
        return cls(Path(folder), read_config(folder))

    @property
    def recipe(self):
        """The row of `FAMILIES`."""
        return lookup(FAMILIES, self.config.get("family"), "family")

    def dataset(self, source=None):
        """The data of the run, or another source prepared in the same way."""
        known = {}
        if self.columns and is_table(self.sections["data"]["source"] if source is None else source):
            known["columns"] = self.columns
        if source is None:
            return load_data(self.recipe, self.sections, **known)
        if Path(str(source)).is_dir() and (own := self.dataset()).kind == "images":
            known = {"image_size": own.shape[:2], "channels": own.shape[2]}
        if {"tokens", "rows"} & set(self.recipe.kinds) and (own := self.dataset()).tokenizer:
            # Another text is read with the ids that the model has learned.
            known = {"tokenizer": own.tokenizer}
            if own.kind == "tokens":
                known["length"] = own.shape[0]
        kept = {key: v for key, v in self.sections["data"].items() if key.endswith("_key")}
        return load_data(self.recipe, {**self.sections, "data": kept}, source, **known)

    @functools.cached_property
    def columns(self):
        """The `Columns` of the table that the run learns, with their scaling; None for other
        data."""
        path = self.folder / COLUMNS
        if not path.is_file():
            return None
        with reading(path, "the columns of a table"):
            return datasets.Columns.from_dict(read_json(path))

    def write_columns(self, dataset):
        """Keeps the scaling of a table, by which samples come back in its units."""
        if dataset.columns is not None:
            text = json.dumps(dataset.columns.to_dict(), indent=1)
            processes.on_first_process(lambda: write_text(self.folder / COLUMNS, text))

    def look(self):
        """The data that samples are drawn beside: of a table whose file is gone, its columns."""
        try:
            return self.dataset()
        except FileNotFoundError:
            if self.columns is None:
                raise
            none = np.zeros((0, len(self.columns.names)), "float32")
            return datasets.Dataset(self.folder.name, "vectors", none, columns=self.columns)

    @property
    def sections(self):
        """The config by section, with all of them there."""
        return sections_of(self.config)

    def model(self):
        """The trained model, as it was saved."""
        path = self.folder / "model.keras"
        if not path.is_file():
            raise ValueError(f"There is no model.keras in {str(self.folder)!r}: was it trained?")
        return load_model(path)

    def write_config(self):
        """Writes `config.yaml`, from which the run can be repeated.

        Of several processes the first one does.
        """
        processes.on_first_process(self._write_config)

    def _write_config(self):
        head = f"# made with keras {keras.__version__} on {backend.name()}\n"
        write_text(self.folder / CONFIG, head + dump_yaml(self.config))
        note_run(self.folder)

    def discard(self):
        """Removes the folder of a run that never began; what others put there stays."""
        for name in (CONFIG, COLUMNS, ABOUT, NAME):
            (self.folder / name).unlink(missing_ok=True)
        for folder in (self.folder / "checkpoints", self.folder):
            with contextlib.suppress(OSError):  # there is something in it
                folder.rmdir()

    def draw(self, model, dataset):
        """Draws the loss, samples, and the recipe's own pictures. Gives the paths."""
        history, seed = self.folder / "history.csv", self.config["training"]["seed"]
        name, paths = f"{self.recipe.model.__name__} trained on {dataset.name}", []
        if history.stat().st_size:
            options = {"units": self.recipe.units, "first": self.recipe.trainer.watched}
            options["quiet"] = getattr(model, "quiet_metrics", ())
            path = self.folder / "loss.png"
            paths.append(pictures.loss_curves(history, path, title=name, **options))
        if dataset.kind != "rows":  # the recipe shows more of them
            count = {"images": 64, "tokens": 8}.get(dataset.kind, 1000)
            samples = ops.convert_to_numpy(self.recipe.sample(model, dataset, count, seed))
            path = self.folder / "samples.png"
            paths.append(draw_samples(samples, dataset, path, title=f"Samples: {name}"))
        paths += self.recipe.draw(model, dataset, self.folder)
        return [path for path in paths if path is not None]


def lock_new_folder(name, output=None):
    """The lock of an empty folder for a new run: `output` or a free name like it, or a number.

    Nobody else gets the same folder, however many ask at once.
    """
    while True:
        lock = FolderLock(free_folder(output) if output else numbered_folder(name))
        try:
            lock.acquire()
        except FolderInUse:
            continue
        if [path.name for path in lock.folder.iterdir()] == [NAME]:
            return lock
        lock.release()  # somebody has filled it since


@contextlib.contextmanager
def unused_stem(path):
    """A context with `path-1`, or the next number that no file has, with any ending.

    Nobody else gets the same until its end.
    """
    for number in itertools.count(1):
        stem = path.with_name(f"{path.name}-{number}")
        lock = FolderLock(path.with_name(f".{stem.name}.claim"))
        try:
            lock.acquire()
        except FolderInUse:
            continue
        try:
            if not any(path.parent.glob(f"{stem.name}.*")):
                yield stem
                return
        finally:
            lock.release()
            with contextlib.suppress(OSError):  # another process may be in it, and deletes it
                lock.folder.rmdir()


def free_folder(wanted):
    """`wanted`, or if there is something in it `wanted-2`, `wanted-3`, ..."""
    wanted = user_path(wanted)
    folder, number = wanted, 1
    while not _is_free(folder):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _is_free(path):
    """Whether there is nothing, or an empty folder."""
    try:
        return not any(path.iterdir())
    except FileNotFoundError:  # or another run has just given it back
        return True
    except NotADirectoryError:
        return False


def numbered_folder(name):
    """A new folder: `runs/vae-1` for the name "vae", or the number after the highest there is."""
    numbers = [path.name.removeprefix(f"{name}-") for path in Path("runs").glob(f"{name}-*")]
    number = 1 + max((int(n) for n in numbers if n.isdecimal()), default=0)
    while True:
        folder = Path("runs") / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:  # somebody has just made it
            number += 1


def save_atomically(model, path):
    """Saves `model` so that `path` holds all of it, or what it held before."""
    with atomic_file(path) as temporary:
        model.save(temporary)
