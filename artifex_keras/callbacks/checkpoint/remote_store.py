"""Checkpoints in a remote folder, where nothing can be renamed: the last object makes one whole."""

import contextlib
import functools
import re
import tempfile
from pathlib import Path

from artifex_keras.arguments import folder_path
from artifex_keras.callbacks.checkpoint import parts
from artifex_keras.callbacks.checkpoint.orbax_files import read
from artifex_keras.callbacks.checkpoint.store import IN_PARTS, NAME, UNFINISHED, Store
from artifex_keras.folder_lock import FolderInUse
from artifex_keras.remote import RemoteError, RemotePath
from artifex_keras.remote_lock import RemoteLock

__all__ = ["RemoteStore", "store_in"]

LAST = "meta/metadata"  # is written after all others of a checkpoint, and deleted before them
ASIDE = re.compile(r"earlier-(\d+)/")


def store_in(folder, max_to_keep=None, best_to_keep=0):
    """The `Store` of a local folder, or the `RemoteStore` of an address."""
    folder = folder_path("folder", folder)
    kind = RemoteStore if isinstance(folder, RemotePath) else Store
    return kind(folder, max_to_keep, best_to_keep)


class RemoteStore(Store):
    """The checkpoints of one run behind an address such as "gs://bucket/run".

    Each is written by `parts.py`, also where one process writes all of it. It counts once its
    `meta/metadata` is there, one object with the checksums of the others, which is written last.
    Where one is deleted, that object is the first to go. So half a checkpoint is never read.

    Args:
        folder, max_to_keep, best_to_keep: as for `Store`; the folder is a `RemotePath`.
    """

    _lock = None

    def _folder(self, folder):
        return folder

    def lock(self, is_running):
        """The lock of the folder for one run: without it no checkpoint is completed."""
        self._lock = RemoteLock(self.folder, is_running)
        return self._lock

    def steps(self):
        """The steps of all checkpoints, the newest first: a list."""
        found = {name.partition("/")[0] for name in self.folder.files() if _is_last(name)}
        return sorted((int(NAME.fullmatch(name)[1]) for name in found), reverse=True)

    def save(self, step, named_arrays, kept, rating=None):
        """Writes a checkpoint, then deletes those that are no longer to be kept: as `Store`."""
        try:
            self._clear(step)
            parts.write_part(self.path(step), named_arrays, 0)
            self._complete(step, kept, rating, 1)
        except Exception:
            self._sweep_own()
            raise
        self.prune()

    def save_part(self, step, named_arrays, kept, rating=None):
        """Writes this process's part of a checkpoint: as `Store`."""
        name, failure = self.path(step).name, None
        with parts.meeting(f"{name} is saved", self._sweep_first):
            with parts.meeting(f"{name} is cleared"):
                try:
                    if parts.is_first():
                        self._clear(step)
                except Exception as error:  # the others wait at the next meeting
                    failure = error
            with parts.meeting(f"{name} is written"):
                if failure is not None:
                    raise failure
                parts.write_part(self.path(step), named_arrays)
            if parts.is_first():
                self._complete(step, kept, rating)
                self.prune()

    def _sweep_first(self):
        if parts.is_first():
            self._sweep_own()

    def _sweep_own(self):
        """Sweeps, if that is possible and the folder is still this run's: another one may save."""
        with contextlib.suppress(RemoteError, FolderInUse):
            if self._lock is not None:
                self._lock.check()
            self.sweep()

    def _clear(self, step):
        """Deletes what there is of a checkpoint, if the folder is still this run's."""
        if self._lock is not None:
            self._lock.check()
        self.delete(step)

    def _complete(self, step, kept, rating, count=None):
        meta = {"format": IN_PARTS, "step": step, "rating": rating, "kept": kept}
        if self._lock is not None:
            self._lock.check()
        parts.join(self.path(step), meta, count)

    def _read(self, step, described):
        """The arrays of a checkpoint that was written into a local folder, and copied."""
        place = self.path(step)
        with tempfile.TemporaryDirectory() as folder:
            for name in place.files():
                copy = Path(folder, name)
                if not copy.resolve().is_relative_to(Path(folder).resolve()):
                    continue
                copy.parent.mkdir(parents=True, exist_ok=True)
                with (place / name).open() as file, copy.open("wb") as target:
                    for content in iter(functools.partial(file.read, 2**25), b""):
                        target.write(content)
            return read(Path(folder), described)

    def delete(self, step):
        """Deletes a checkpoint: first the object that makes it one."""
        place = self.path(step)
        (place / LAST).unlink(missing_ok=True)
        for name in place.files():
            (place / name).unlink(missing_ok=True)

    def sweep(self):
        """Deletes what interrupted saves have left."""
        names = self.folder.files()
        complete = {name.partition("/")[0] for name in names if _is_last(name)}
        for name in names:
            first = name.partition("/")[0]
            if UNFINISHED in first or (NAME.fullmatch(first) and first not in complete):
                (self.folder / name).unlink(missing_ok=True)

    def set_aside(self):
        """Moves all checkpoints into the subfolder `earlier-1`, or the next one; returns it."""
        names = self.folder.files()
        numbers = [int(found[1]) for found in map(ASIDE.match, names) if found]
        aside = self.folder / f"earlier-{1 + max(numbers, default=0)}"
        for step in self.steps():
            place = self.path(step)
            inside = sorted(place.files(), key=lambda name: name == LAST)
            for name in inside:
                (place / name).copy(aside / place.name / name)
            self.delete(step)
        return aside


def _is_last(name):
    first, _, rest = name.partition("/")
    return rest == LAST and NAME.fullmatch(first) is not None
