"""Checkpoints in a folder: written atomically, verified by checksums, free of code."""

import re
import shutil

from artifex_keras.arguments import shown
from artifex_keras.atomic import user_path
from artifex_keras.callbacks.checkpoint import parts
from artifex_keras.callbacks.checkpoint.arrays import NamedArray
from artifex_keras.callbacks.checkpoint.orbax_files import (
    Damaged,
    description,
    first_line,
    read,
    read_meta,
    write,
)
from artifex_keras.folder_lock import FolderLock
from artifex_keras.remote import RemoteError

__all__ = ["FORMAT", "IN_PARTS", "NAME", "UNFINISHED", "Store"]

FORMAT, IN_PARTS = 2, 3  # written by one process, and by several
NAME = re.compile(r"step-(\d+)")
UNFINISHED = "orbax-checkpoint-tmp"


class Store:
    """The checkpoints of one run, each a folder `step-00000120`.

    Orbax writes into a temporary folder and renames it when it is complete. Beside the arrays a
    checkpoint holds `meta`, a JSON text with everything else and a checksum for each array. Where
    several processes write one, by `parts.py`, each has a folder in it, `process-0` and so on.

    Args:
        folder: the folder of the checkpoints; `save` creates it.
        max_to_keep: how many of the newest to keep; None keeps all.
        best_to_keep: how many of the best to keep besides.
    """

    def __init__(self, folder, max_to_keep=None, best_to_keep=0):
        self.folder = self._folder(folder)
        self.max_to_keep = max_to_keep
        self.best_to_keep = best_to_keep

    def _folder(self, folder):
        return user_path(folder).absolute()

    def lock(self, is_running):
        """The lock of the folder for one run, see `FolderLock`."""
        return FolderLock(self.folder, is_running)

    def path(self, step):
        """The folder of the checkpoint of that step."""
        return self.folder / f"step-{step:08d}"

    def steps(self):
        """The steps of all checkpoints, the newest first: a list."""
        if not self.folder.is_dir():
            return []
        found = (NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def save(self, step, named_arrays, kept, rating=None):
        """Writes a checkpoint, then deletes those that are no longer to be kept.

        Args:
            step: the number of the checkpoint.
            named_arrays: a list of `NamedArray`.
            kept: everything else, in the types of JSON.
            rating: a number, greater for a better model; None for no comparison.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        meta = {"format": FORMAT, "step": step, "rating": rating, "kept": kept}
        meta["leaves"] = [description(array) for array in named_arrays]
        try:
            write(self.path(step), named_arrays, meta)
        finally:
            self.sweep()
        self.prune()

    def save_part(self, step, named_arrays, kept, rating=None):
        """Writes this process's part of a checkpoint, then waits until it is one with the others'.

        All processes call it, for the same steps in the same order; a thread may. The first one
        then makes the checkpoint of all parts, with its `kept`, and deletes as `save` does.

        Args:
            step, kept, rating: as for `save`.
            named_arrays: a list of `NamedArray`, as `parts.own_parts` gives it.
        """
        unfinished = self.folder / f"{self.path(step).name}.{UNFINISHED}-parts"
        meta = {"format": IN_PARTS, "step": step, "rating": rating, "kept": kept}
        name = self.path(step).name
        with parts.meeting(f"{name} is saved", self._sweep_first):
            with parts.meeting(f"{name} is written"):
                parts.write_part(unfinished, named_arrays)
            if parts.is_first():
                parts.join(unfinished, meta)
                if self.path(step).exists():
                    self.delete(step)
                unfinished.rename(self.path(step))
                self.prune()

    def _sweep_first(self):
        if parts.is_first():
            self.sweep()

    def load(self, step, needed=None):
        """The arrays and the metadata of a checkpoint, `(named_arrays, meta)`.

        Args:
            step: the number of the checkpoint.
            needed: a function of the name of an array that gives the parts of it which this process
                needs, as `parts.needed_by` gives it; None for whole arrays.

        Raises:
            Damaged: if it can't be read, or differs from what was written.
        """
        meta = self.meta(step)
        try:
            if meta["format"] == IN_PARTS:
                return parts.load(self.path(step), meta, needed), meta
            if meta["format"] != FORMAT:
                raise Damaged(
                    f"{self.path(step)} is of format {meta['format']}, which this version of "
                    f"artifex_keras doesn't read; it reads formats {FORMAT} and {IN_PARTS}."
                )
            described = meta["leaves"]
            values = self._read(step, described)
            pairs = zip(described, values, strict=True)
            return [NamedArray(*each[:2], value) for each, value in pairs], meta
        except (Damaged, RemoteError):
            raise
        except Exception as error:  # a stranger's metadata can raise anything
            raise Damaged(f"{self.path(step)} can't be read: {first_line(error)}") from error

    def _read(self, step, described):
        """The arrays of a checkpoint that Orbax has written."""
        return read(self.path(step), described)

    def is_in_parts(self, step):
        """Whether several processes have written that checkpoint."""
        try:
            return self.meta(step).get("format") == IN_PARTS
        except Damaged:
            return False

    def meta(self, step):
        """The metadata of a checkpoint, a dict: format, step, rating, and what `save` was given.

        Raises:
            Damaged: if it can't be read, or differs from what was written.
        """
        meta = read_meta(self.path(step))
        try:
            return _described(meta, step)
        except (ValueError, TypeError, AttributeError) as error:
            raise Damaged(f"{self.path(step)} can't be read: {first_line(error)}") from error

    def best(self):
        """The steps of all checkpoints with a rating, the best first: a list."""
        rated = []
        for step in self.steps():
            try:
                rating = self.meta(step).get("rating")
            except Damaged:
                continue
            if rating is not None:
                rated.append((-rating, -step))
        return [-step for _, step in sorted(rated)]

    def prune(self):
        """Deletes all checkpoints but the newest and the best."""
        if self.max_to_keep is None:
            return
        stay = {*self.steps()[: self.max_to_keep]}
        if self.best_to_keep:
            stay.update(self.best()[: self.best_to_keep])
        for step in self.steps():
            if step not in stay:
                self.delete(step)

    def delete(self, step):
        """Deletes a checkpoint, after a renaming, so that nobody reads half of one."""
        gone = self.folder / f"{self.path(step).name}.{UNFINISHED}-gone"
        self.path(step).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def sweep(self):
        """Deletes the temporary folders of interrupted saves."""
        for path in self.folder.glob(f"*.{UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def set_aside(self):
        """Moves all checkpoints into the subfolder `earlier-1`, or the next one; returns it."""
        number = 1
        while (aside := self.folder / f"earlier-{number}").exists():
            number += 1
        aside.mkdir(parents=True)
        for step in self.steps():
            self.path(step).rename(aside / self.path(step).name)
        return aside


def _described(meta, step):
    """The metadata of that step, of the types that `save` gives them."""
    if type(meta.get("step")) is not int or meta["step"] != step:
        raise ValueError(f"it is of step {shown(meta.get('step'))}")
    rating = meta.get("rating")
    if not isinstance(rating, int | float | None):
        raise ValueError(f"the rating is no number: {shown(rating)}")
    return meta
