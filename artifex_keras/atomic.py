"""Files that are there complete, or not at all, whenever the process or the machine stops."""

import contextlib
import itertools
import os
import re
import shutil
import socket
from pathlib import Path

from artifex_keras.remote import local_path

__all__ = ["atomic_file", "user_path", "write_text"]

MARK = ".unfinished-"
LONGEST_SUFFIX = 32  # of a temporary file: names have at most 255 bytes
_numbers = itertools.count()


def user_path(path):
    """`path` as a `pathlib.Path` in which a leading `~` is the user's home.

    Raises:
        ValueError: for an address such as "gs://bucket/run".

    Example:

        ```python
        from artifex_keras.atomic import user_path

        assert "~" not in str(user_path("~/runs"))
        ```
    """
    return local_path(path).expanduser()


@contextlib.contextmanager
def atomic_file(path):
    """A context with the path of a temporary file, which takes the place of `path` at the end.

    The temporary file lies in the same folder and has the same ending. At the end of the block it
    is flushed to the disk and renamed. So `path` has all of the new content or all of the old,
    whatever happens: an exception, a kill, a full disk, a power cut. An existing file keeps its
    permissions. A symbolic link stays one, and the file that it points at is replaced.

    Missing folders are created. What killed processes of this host left is deleted.

    Raises:
        OSError: with the name `path` where the file can't be written.

    Example:

        ```python
        import numpy as np
        from artifex_keras.atomic import atomic_file

        with atomic_file("samples.npy") as temporary:
            np.save(temporary, np.zeros(3))
        assert np.load("samples.npy").shape == (3,)
        ```
    """
    target = Path(os.path.realpath(user_path(path)))
    if target.exists() and not target.is_file():  # /dev/null, a pipe: nothing to replace
        yield target
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    temporary = _temporary(target)
    try:
        yield temporary
        _flush(temporary)
        if target.exists():
            with contextlib.suppress(OSError):  # some mounted drives know no permissions
                shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        if error.filename is not None and os.fspath(error.filename) == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some file systems have no such call for folders
        _flush(target.parent)


def write_text(path, text):
    """Writes a text file in UTF-8, by `atomic_file`, with the line ends that `text` has.

    Example:

        ```python
        from artifex_keras.atomic import write_text

        write_text("notes.txt", "one\\n")
        assert open("notes.txt").read() == "one\\n"
        ```
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _temporary(target):
    suffix = "".join(target.suffixes[-2:])  # as of `model.weights.h5`
    suffix = suffix if len(suffix) <= LONGEST_SUFFIX else target.suffix[:LONGEST_SUFFIX]
    return target.parent / f"{MARK}{_host()}-{os.getpid()}-{next(_numbers)}{suffix}"


def _host():
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:64]


def _sweep(folder):
    """Deletes the temporary files of processes of this host that are no longer there."""
    for path in folder.glob(f"{MARK}{_host()}-*"):
        process = path.name.removeprefix(f"{MARK}{_host()}-").split("-")[0]
        if process.isdigit() and not _is_running(int(process)):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_running(process):
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _flush(path):
    """Writes what the system holds of a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
