"""Checkpoints in a folder: whole or not there, checked when they are read, never run as code."""

import json
import math
import re
import shutil
import zlib
from pathlib import Path

import numpy as np

from artifex_keras.backend import processes
from artifex_keras.callbacks.checkpoint.arrays import Leaf

__all__ = ["Damaged", "Store", "orbax"]

FORMAT = 2
SMALL = 2**16  # bytes: each array that Orbax writes costs time, so smaller ones go together
TOGETHER = "small"
NAME = re.compile(r"step-(\d+)")
UNFINISHED = "orbax-checkpoint-tmp"


class Damaged(Exception):
    """A checkpoint that isn't what was written, or not as this version writes."""


def orbax():
    """The module `orbax.checkpoint`, which takes a second to import."""
    import orbax.checkpoint

    return orbax.checkpoint


def _checkpointer():
    """Orbax's, which in a run of several processes waits for none of the others.

    It doesn't compress: floats hardly get smaller, and it took a third of a save's time.
    """
    ocp = orbax()
    alone = ocp.options.MultiprocessingOptions()
    if processes.count() > 1:
        me = processes.index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process-{me}"
        )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        arrays=ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone),
        meta=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


class Store:
    """The checkpoints of one run, each a folder `step-00000120` that Orbax has written.

    Orbax writes into a folder of another name and renames it when all is there. Beside the arrays a
    checkpoint holds `meta`, what else must be kept, as JSON, with a checksum for each array.

    Args:
        folder: where; made with the first checkpoint.
        max_to_keep: how many of the newest stay; None keeps all.
        best_to_keep: how many of the best stay besides.
    """

    def __init__(self, folder, max_to_keep=None, best_to_keep=0):
        self.folder = Path(folder).absolute()
        self.max_to_keep = max_to_keep
        self.best_to_keep = best_to_keep

    def path(self, step):
        """The folder of the checkpoint of that step."""
        return self.folder / f"step-{step:08d}"

    def steps(self):
        """The steps there are, the newest first."""
        if not self.folder.is_dir():
            return []
        found = (NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def save(self, step, leaves, kept, rating=None):
        """Writes a checkpoint, then deletes those that needn't stay.

        Args:
            step: the number it is found by.
            leaves: the arrays.
            kept: what else must stay, as JSON holds it.
            rating: a number that is greater for better models.
        """
        ocp = orbax()
        self.folder.mkdir(parents=True, exist_ok=True)
        meta = {"format": FORMAT, "step": step, "rating": rating, "kept": kept}
        meta["leaves"] = [_described(leaf) for leaf in leaves]
        try:
            with _checkpointer() as checkpointer:
                checkpointer.save(
                    self.path(step),
                    args=ocp.args.Composite(
                        arrays=ocp.args.PyTreeSave(_arranged(leaves, meta["leaves"])),
                        meta=ocp.args.JsonSave({"text": _sealed(meta)}),
                    ),
                    force=True,
                )
        finally:
            self.sweep()
        self.prune()

    def load(self, step):
        """`(leaves, meta)` of a checkpoint.

        Raises:
            Damaged: if it isn't what was written.
        """
        ocp = orbax()
        try:
            with _checkpointer() as checkpointer:
                meta = self.meta(step)
                if meta["format"] != FORMAT:
                    raise Damaged(
                        f"{self.path(step)} is of format {meta['format']}, which this version of "
                        f"artifex_keras doesn't read; it reads format {FORMAT}."
                    )
                places = _places(meta["leaves"])
                keys = {TOGETHER, *(key for key, _ in places)}
                how = {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in sorted(keys)}
                arrays = checkpointer.restore(
                    self.path(step),
                    args=ocp.args.Composite(arrays=ocp.args.PyTreeRestore(restore_args=how)),
                ).arrays
            values = [
                _found(arrays, *place, described)
                for place, described in zip(places, meta["leaves"], strict=True)
            ]
        except Damaged:
            raise
        except Exception as error:  # whatever a damaged file brings about
            raise Damaged(f"{self.path(step)} can't be read: {_first_line(error)}") from error
        leaves = []
        for value, (name, dtype, _, _, checksum) in zip(values, meta["leaves"], strict=True):
            if _checksum(value) != checksum:
                raise Damaged(f"{self.path(step)} is damaged: {name} is not what was written.")
            leaves.append(Leaf(name, dtype, value))
        return leaves, meta

    def meta(self, step):
        """What a checkpoint holds beside its arrays.

        Raises:
            Damaged: if it isn't what was written.
        """
        path = self.path(step) / "meta" / "metadata"
        try:
            return _opened(json.loads(path.read_text(encoding="utf-8"))["text"])
        except Damaged as error:
            raise Damaged(f"{path} is damaged.") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{path} can't be read: {_first_line(error)}") from error

    def best(self):
        """The steps whose metric was watched, the best first."""
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
        """Deletes all but the newest and the best."""
        if self.max_to_keep is None:
            return
        stay = {*self.steps()[: self.max_to_keep]}
        if self.best_to_keep:
            stay.update(self.best()[: self.best_to_keep])
        for step in self.steps():
            if step not in stay:
                self.delete(step)

    def delete(self, step):
        """Deletes a checkpoint: first its name, so that no half of one is ever seen."""
        gone = self.folder / f"{self.path(step).name}.{UNFINISHED}-gone"
        self.path(step).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def sweep(self):
        """Deletes what interrupted writers have left."""
        for path in self.folder.glob(f"*.{UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def set_aside(self):
        """Moves all checkpoints into a folder `earlier-1` within this one. Gives that folder."""
        number = 1
        while (aside := self.folder / f"earlier-{number}").exists():
            number += 1
        aside.mkdir(parents=True)
        for step in self.steps():
            self.path(step).rename(aside / self.path(step).name)
        return aside


def _described(leaf):
    value = leaf.value
    return [leaf.name, leaf.dtype, list(value.shape), value.dtype.name, _checksum(value)]


def _places(described):
    """For each leaf the array that holds it and, of those that lie together, the part of it."""
    places, end = [], 0
    for i, (_, _, shape, stored, _) in enumerate(described):
        size = math.prod(shape) * np.dtype(stored).itemsize
        if size < SMALL:
            begin, end = end, end + size
            places.append((TOGETHER, slice(begin, end)))
        else:
            places.append((f"{i:05d}", None))
    return places


def _arranged(leaves, described):
    """What Orbax writes: the large arrays, and the bytes of all small ones as one."""
    arrays, small = {}, []
    for leaf, (key, part) in zip(leaves, _places(described), strict=True):
        if part is None:
            arrays[key] = leaf.value
        else:
            small.append(_bytes(leaf.value))
    small.append(np.zeros(1, "uint8"))  # Orbax takes no empty array
    return {TOGETHER: np.concatenate(small), **arrays}


def _found(arrays, key, part, described):
    """One leaf's value among `_arranged` arrays."""
    _, _, shape, stored, _ = described
    value = np.asarray(arrays[key])
    return value if part is None else value[part].view(stored).reshape(shape)


def _bytes(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _checksum(array):
    return zlib.crc32(_bytes(array))


def _sealed(meta):
    text = json.dumps(meta)
    return f"{zlib.crc32(text.encode()):08x} {text}"


def _opened(sealed):
    checksum, text = sealed.split(" ", 1)
    if f"{zlib.crc32(text.encode()):08x}" != checksum:
        raise Damaged
    return json.loads(text)


def _first_line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
