"""Whole models on disk after epochs, of which the newest readable one starts a run again."""

import json
import os
import re
import warnings
import zipfile
from pathlib import Path

import keras

__all__ = ["EpochCheckpoints", "save_atomically"]

NAME = re.compile(r"epoch-(\d+)\.keras")


class EpochCheckpoints(keras.callbacks.Callback):
    """Keeps the model as `epoch-0007.keras`, complete with optimizer, averages and seeds.

    A file appears under its name only when all of it is on the disk, so an interrupted run leaves
    no half of one.

    Args:
        folder: where; made if it isn't there.
        every: epochs from one to the next; the last epoch is kept as well.
        keep: the number of files to keep, the newest; None keeps all.
    """

    def __init__(self, folder, every=1, keep=5):
        super().__init__()
        self.folder = Path(folder)
        self.every = every
        self.keep = keep
        self._done = self._saved = 0

    def paths(self):
        """The files by epoch, the newest first."""
        found = [(NAME.fullmatch(path.name), path) for path in self.folder.glob("*.keras")]
        return dict(sorted(((int(m[1]), p) for m, p in found if m), reverse=True))

    def on_train_begin(self, logs=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        self._done = self._saved = 0

    def on_epoch_end(self, epoch, logs=None):
        self._done = epoch + 1
        if self._done % self.every == 0:
            self._save()

    def on_train_end(self, logs=None):
        if self._done != self._saved:
            self._save()

    def _save(self):
        save_atomically(self.model, self.folder / f"epoch-{self._done:04d}.keras")
        self._saved = self._done
        for path in list(self.paths().values())[self.keep or None :]:
            path.unlink()

    def restore(self, model):
        """Loads the newest readable file into the compiled `model`. Gives the epochs it has done.

        0 if there is none. Unreadable ones are passed over with a warning.

        Raises:
            ValueError: if there are files and none can be read.
        """
        for epoch, path in self.paths().items():
            try:
                _load(model, path)
                return epoch
            except Exception as error:  # whatever a damaged file brings about
                warnings.warn(f"{path} can't be loaded and is passed over: {error}", stacklevel=2)
                last = error
        if self.paths():
            raise ValueError(f"No checkpoint in {self.folder} fits this model.") from last
        return 0


def _load(model, path):
    """Loads weights, optimizer and seeds; a model that isn't built is built like the saved one."""
    if not model.built:
        with zipfile.ZipFile(path) as archive:
            model.build_from_config(json.loads(archive.read("config.json"))["build_config"])
    model.build_optimizer()
    model.load_weights(path)


def save_atomically(model, path):
    """Saves `model` so that `path` holds all of it, or what it held before."""
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.unfinished.keras")
    try:
        model.save(unfinished)
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    if os.name == "posix":  # the new name, too, must be on the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
