"""Checkpoints in a folder: written atomically, verified by checksums, free of code."""

import json
import math
import re
import shutil
import zlib

import numpy as np

from artifex_keras.arguments import shown
from artifex_keras.atomic import user_path
from artifex_keras.backend import processes
from artifex_keras.callbacks.checkpoint.arrays import NamedArray
from artifex_keras.callbacks.checkpoint.failures import quiet_orbax
from artifex_keras.trust import read_json

__all__ = ["Damaged", "Store", "first_line", "orbax"]

FORMAT = 2
SMALL = 2**16  # bytes; each array costs Orbax time, so smaller ones are written as one
TOGETHER = "small"
NAME = re.compile(r"step-(\d+)")
UNFINISHED = "orbax-checkpoint-tmp"


class Damaged(Exception):
    """A checkpoint with a wrong checksum, a missing file, or the format of another version."""


def orbax():
    """The module `orbax.checkpoint`, which takes a second to import."""
    import orbax.checkpoint

    return orbax.checkpoint


def _checkpointer():
    """An Orbax checkpointer for this process alone, which waits for no other process.

    It doesn't compress: floats hardly get smaller, and it took a third of a save's time.
    """
    ocp = orbax()
    options = ocp.options.MultiprocessingOptions()
    if processes.count() > 1:
        me = processes.index()
        options = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process-{me}"
        )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=options),
        arrays=ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=options),
        meta=ocp.JsonCheckpointHandler(multiprocessing_options=options),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


class Store:
    """The checkpoints of one run, each a folder `step-00000120` that Orbax has written.

    Orbax writes into a temporary folder and renames it when it is complete. Beside the arrays a
    checkpoint holds `meta`, a JSON text with everything else and a checksum for each array.

    Args:
        folder: the folder of the checkpoints; `save` creates it.
        max_to_keep: how many of the newest to keep; None keeps all.
        best_to_keep: how many of the best to keep besides.
    """

    def __init__(self, folder, max_to_keep=None, best_to_keep=0):
        self.folder = user_path(folder).absolute()
        self.max_to_keep = max_to_keep
        self.best_to_keep = best_to_keep

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
        ocp = orbax()
        self.folder.mkdir(parents=True, exist_ok=True)
        meta = {"format": FORMAT, "step": step, "rating": rating, "kept": kept}
        meta["leaves"] = [_description(array) for array in named_arrays]
        try:
            with quiet_orbax(), _checkpointer() as checkpointer:
                checkpointer.save(
                    self.path(step),
                    args=ocp.args.Composite(
                        arrays=ocp.args.PyTreeSave(_gather_small(named_arrays, meta["leaves"])),
                        meta=ocp.args.JsonSave({"text": _seal(meta)}),
                    ),
                    force=True,
                )
        finally:
            self.sweep()
        self.prune()

    def load(self, step):
        """The arrays and the metadata of a checkpoint, `(named_arrays, meta)`.

        Raises:
            Damaged: if it can't be read, or differs from what was written.
        """
        ocp = orbax()
        try:
            with quiet_orbax(), _checkpointer() as checkpointer:
                meta = self.meta(step)
                if meta["format"] != FORMAT:
                    raise Damaged(
                        f"{self.path(step)} is of format {meta['format']}, which this version of "
                        f"artifex_keras doesn't read; it reads format {FORMAT}."
                    )
                places = _placements(meta["leaves"])
                keys = {TOGETHER, *(key for key, _ in places)}
                how = {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in sorted(keys)}
                arrays = checkpointer.restore(
                    self.path(step),
                    args=ocp.args.Composite(arrays=ocp.args.PyTreeRestore(restore_args=how)),
                ).arrays
            values = [
                _extract(arrays, *place, described)
                for place, described in zip(places, meta["leaves"], strict=True)
            ]
        except Damaged:
            raise
        except Exception as error:  # a damaged file can raise anything
            raise Damaged(f"{self.path(step)} can't be read: {first_line(error)}") from error
        named_arrays = []
        for value, (name, dtype, _, _, checksum) in zip(values, meta["leaves"], strict=True):
            if _checksum(value) != checksum:
                raise Damaged(f"{self.path(step)} is damaged: {name} is not what was written.")
            named_arrays.append(NamedArray(name, dtype, value))
        return named_arrays, meta

    def meta(self, step):
        """The metadata of a checkpoint, a dict: format, step, rating, and what `save` was given.

        Raises:
            Damaged: if it can't be read, or differs from what was written.
        """
        path = self.path(step) / "meta" / "metadata"
        try:
            return _described(_unseal(read_json(path, "metadata")["text"]), step)
        except Damaged as error:
            raise Damaged(f"{path} is damaged.") from error
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise Damaged(f"{path} can't be read: {first_line(error)}") from error

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


def _description(array):
    value = array.value
    return [array.name, array.dtype, list(value.shape), value.dtype.name, _checksum(value)]


def _placements(described):
    """For each array its key in the file and, for a small one, its slice of the shared bytes."""
    places, end = [], 0
    for i, (_, _, shape, stored, _) in enumerate(described):
        size = math.prod(shape) * np.dtype(stored).itemsize
        if size < SMALL:
            begin, end = end, end + size
            places.append((TOGETHER, slice(begin, end)))
        else:
            places.append((f"{i:05d}", None))
    return places


def _gather_small(named_arrays, described):
    """The arrays that Orbax writes: large ones as they are, the bytes of all small ones as one."""
    arrays, small = {}, []
    for array, (key, part) in zip(named_arrays, _placements(described), strict=True):
        if part is None:
            arrays[key] = array.value
        else:
            small.append(_bytes(array.value))
    small.append(np.zeros(1, "uint8"))  # Orbax takes no empty array
    return {TOGETHER: np.concatenate(small), **arrays}


def _extract(arrays, key, part, described):
    """The value of one array from what `_gather_small` gave."""
    _, _, shape, stored, _ = described
    value = np.asarray(arrays[key])
    return value if part is None else value[part].view(stored).reshape(shape)


def _bytes(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _checksum(array):
    return zlib.crc32(_bytes(array))


def _seal(meta):
    text = json.dumps(meta)
    return f"{zlib.crc32(text.encode()):08x} {text}"


def _unseal(sealed):
    checksum, text = sealed.split(" ", 1)
    if f"{zlib.crc32(text.encode()):08x}" != checksum:
        raise Damaged
    return json.loads(text)


def _described(meta, step):
    """The metadata of that step, of the types that `save` gives them."""
    if type(meta.get("step")) is not int or meta["step"] != step:
        raise ValueError(f"it is of step {shown(meta.get('step'))}")
    rating = meta.get("rating")
    if not isinstance(rating, int | float | None):
        raise ValueError(f"the rating is no number: {shown(rating)}")
    return meta


def first_line(error):
    """An error in a line, with its kind."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
