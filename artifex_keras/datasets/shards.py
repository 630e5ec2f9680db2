"""Data in several files: which ones a source names, and their contents as one."""

import glob
import os
from pathlib import Path

import numpy as np

from artifex_keras import endings
from artifex_keras.arguments import broken_rule, file_path
from artifex_keras.remote import local_path
from artifex_keras.trust import FileError

__all__ = ["file_paths", "found_files", "is_hidden", "joined", "name_of"]

WILD = set("*?[")


def file_paths(name, value):
    """`value` as a list of `pathlib.Path`s, if it is a path or a list of them."""
    if not isinstance(value, list | tuple):
        return [file_path(name, value)]
    if not value:
        raise broken_rule(name, value, "a path, or a list of at least one")
    return [file_path(name, each) for each in value]


def found_files(data):
    """The files that `data` names: a list of paths, a glob such as "shards/*.npz", or a folder of
    data files; None for anything else.

    Raises:
        FileNotFoundError: for a glob that matches nothing.
    """
    if isinstance(data, list | tuple):
        paths = all(isinstance(each, (str, os.PathLike)) for each in data) and data
        return [local_path(each, "data").expanduser() for each in data] if paths else None
    if not isinstance(data, (str, os.PathLike)):
        return None
    path = local_path(data, "data").expanduser()
    if path.is_dir():
        return _inside(path)
    if path.exists() or not WILD & set(str(path)):
        return None
    found = sorted(glob.glob(str(path), recursive=True))
    if not found:
        raise FileNotFoundError(f"There are no files like {str(data)!r}.")
    return [Path(each) for each in found]


def _inside(folder):
    """The data files of a folder without images, if all are of one ending."""
    known = {ending for group in endings.FILES.values() for ending in group}
    files = sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in known and p.is_file() and not is_hidden(p, folder)
    )
    if not files or len({path.suffix.lower() for path in files}) > 1:
        return None
    images = (
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in endings.IMAGES and not is_hidden(p, folder)
    )
    return None if next(images, None) else files


def is_hidden(path, folder):
    """Whether `path`, or a folder on the way to it from `folder`, is hidden, as `.DS_Store`,
    `._1.png` and `.ipynb_checkpoints` are."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def name_of(paths):
    """What a data set from these files is called."""
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"


def joined(parts, paths):
    """One dict of arrays or lists: those of `parts`, one dict a file, put together by name.

    Raises:
        FileError: for files with other names or other shapes than the first.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part, path in zip(parts, paths, strict=True):
        for name in [name for name in (*first, *part) if name not in first or name not in part]:
            there, missing = (paths[0], path) if name in first else (path, paths[0])
            raise FileError(
                f"Files of one data set must hold the same names. Received: {name!r} in "
                f"{there.name!r} and not in {missing.name!r}."
            )
        for name in first:
            _check_alike(name, first[name], part[name], paths[0], path)
    return {name: _chained([part[name] for part in parts]) for name in first}


def _check_alike(name, one, other, first, path):
    one, other = (getattr(each, "shape", (0,))[1:] for each in (one, other))
    if one != other:
        raise FileError(
            f"Files of one data set must hold examples of one shape. Received: {name!r} of {one} "
            f"in {first.name!r}, of {other} in {path.name!r}."
        )


def _chained(parts):
    if isinstance(parts[0], list):
        return [value for part in parts for value in part]
    return np.concatenate(parts)
