"""NumPy's files, without pickles, and no larger than they are."""

import collections
import math
import zipfile
from pathlib import Path

import numpy as np

from artifex_keras.arguments import shown
from artifex_keras.trust.reading import FileError, existing, reading

__all__ = ["check_archive", "is_bomb", "read_arrays", "read_ranges"]

NPY, ZIP = b"\x93NUMPY", b"PK"
LARGE = 2**30  # bytes, above which
RATIO = 200  # so many times the packed size is a bomb: data hardly get that small
WHAT = "a file of plain NumPy arrays"


def read_arrays(path):
    """The arrays of an .npz file by name; that of an .npy file is called "x".

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: for a damaged file, one of Python objects (pickles), one that declares more than
            it holds, and one that unpacks to more than 200 times its size.
    """
    path = existing(path, WHAT)
    with reading(path, WHAT), path.open("rb") as file:
        begin = file.read(len(NPY))
        if begin == NPY:
            file.seek(0)
            return {"x": _array(file, path.stat().st_size, path, path.name)}
        if begin.startswith(ZIP):
            return _unpacked(path)
        raise ValueError("it is neither .npy nor .npz" if begin else "it is empty")


def read_ranges(path, ranges):
    """Ranges of a file's bytes, one after the other: NumPy arrays of uint8.

    Args:
        path: the file.
        ranges: pairs of where each begins and how many bytes it has.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it ends before a range does; no memory is taken for that.
    """
    path = existing(path, WHAT)
    with reading(path, WHAT), path.open("rb") as file:
        held = path.stat().st_size
        for begin, size in ranges:
            if min(begin, size) < 0 or begin + size > held:
                raise FileError(f"{str(path)!r} is damaged: it ends at byte {held:,}.")
            content = np.empty(size, "uint8")
            file.seek(begin)
            if file.readinto(content) != size:
                raise FileError(f"{str(path)!r} is damaged: it ends too early.")
            yield content


def _unpacked(path):
    check_archive(path)
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                with archive.open(entry) as file:
                    name = entry.filename.removesuffix(".npy")
                    arrays[name] = _array(file, entry.file_size, path, name)
    return arrays


def _array(file, size, path, name):
    shape, _, dtype = _header(file)
    if dtype.hasobject:
        raise FileError(
            f"{str(path)!r} holds Python objects in {name!r}, which can run code and are not read. "
            "Save numbers or texts: np.save(path, np.asarray(values, dtype)) with such a dtype."
        )
    declared = math.prod(shape) * max(dtype.itemsize, 1)
    if min(shape, default=0) < 0 or max(shape, default=0) > 2**62 or declared > size:
        raise FileError(
            f"{str(path)!r} is damaged: {name!r} declares {dtype} of shape {shape}, {declared:,} "
            f"bytes, in {size:,}."
        )
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _header(file):
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"it has version {version}, which is none of plain arrays")


def is_bomb(unpacked, packed, harmless=LARGE):
    """Whether so many bytes are too many for a file of so few, and more than `harmless`."""
    return unpacked > max(harmless, RATIO * packed)


def check_archive(path):
    """Raises a FileError for a zip file that unpacks to far more than its own size, and for one
    that holds a name twice, of which readers take one or the other."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        names = collections.Counter(archive.namelist())
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise FileError(f"{str(path)!r} is damaged: it holds {shown(twice[0])} twice.")
    packed = Path(path).stat().st_size
    if is_bomb(unpacked, packed):
        raise FileError(
            f"{str(path)!r} of {packed:,} bytes would unpack to {unpacked:,} bytes, more than "
            f"{RATIO} times its size. If it is your own, save it without compression: np.savez."
        )
