"""One writer for a folder: who holds it is written in it, and a second one is refused."""

import contextlib
import datetime
import errno
import json
import os
import socket
import stat
import sys
import threading
from pathlib import Path

from artifex_keras.atomic import user_path

try:
    import fcntl
except ImportError:  # Windows: only runs of this process are kept apart
    fcntl = None

__all__ = ["FolderInUse", "FolderLock", "give_way", "in_use", "owner_in", "this_process"]

NAME = ".lock"
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
LONGEST_NAME = 100  # characters of a program
LONGEST_LOCK = 4096  # bytes
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # some network file systems

_held = {}  # locks of this process by the real path of their folder
_guard = threading.RLock()


class FolderInUse(ValueError):
    """Another run writes into the folder."""


class FolderLock:
    """The right of one run to write into a folder, until `release` or the end of its process.

    The system holds the lock, so it ends with the process, however that ends: nothing has to be
    cleaned up after a kill. Children that a process forks don't hold it. Reading needs no lock.

    The file `.lock` in the folder says who holds it: process, host, start and program. On file
    systems without locks, runs of several processes are not kept apart.

    Args:
        folder: the folder; `acquire` creates it.
        is_running: a function without arguments; False once the holder has broken off without a
            `release`, after which another run of this process may have the lock.

    Example:

        ```python
        from artifex_keras.folder_lock import FolderInUse, FolderLock

        with FolderLock("run"):
            try:
                FolderLock("run").acquire()
            except FolderInUse as error:
                print(error)  # The folder 'run' is in use by this process, since ...
        ```
    """

    def __init__(self, folder, is_running=lambda: True):
        self.folder = user_path(folder)
        self.is_running = is_running
        self.owner = None
        self._descriptor = self._key = None
        self._made = False

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *error):
        self.release()

    def acquire(self):
        """Takes the lock, unless it has it. Returns itself.

        Raises:
            FolderInUse: if another run has it, with who and what to do.
            OSError: if the folder can't be written.
        """
        with _guard:
            if self._key is not None:
                return self
            key = os.path.realpath(self.folder)
            give_way(_held.get(key), self.folder)
            self._made = not os.path.exists(key)
            self._descriptor = self._lock(key)
            self.owner = this_process()
            _write(self._descriptor, self.owner)
            self._key = key
            _held[key] = self
        return self

    def release(self):
        """Gives the lock back; does nothing without one. An empty folder that it made goes too."""
        with _guard:
            if self._key is None:
                return
            del _held[self._key]
            folder, descriptor = self._key, self._descriptor
            self._key = self._descriptor = None
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, NAME))
            os.close(descriptor)
            if self._made:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def _lock(self, folder):
        """The descriptor of the locked file, which lies in the folder and not in one deleted."""
        path = os.path.join(folder, NAME)
        while True:
            try:
                os.makedirs(folder, exist_ok=True)
            except FileExistsError:
                if _is_other(folder):
                    raise
                continue  # its maker has just left and deleted it
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
            except FileNotFoundError:  # deleted since
                continue
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                raise FolderInUse(
                    f"{path!r} is a link, and a lock never is one: to write the owner there would "
                    "destroy another file. If the folder is yours, delete the link."
                ) from None
            try:
                _flock(descriptor)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                        return descriptor
            except BlockingIOError:
                owner = _read(descriptor)
                os.close(descriptor)
                raise in_use(self.folder, owner) from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its holder has just released and deleted it


def give_way(holder, folder):
    """Releases the lock of another run of this process, None for none, that has broken off.

    Raises:
        FolderInUse: if it still runs.
    """
    if holder is not None:
        if holder.is_running():
            raise in_use(folder, holder.owner)
        holder.release()


def in_use(folder, owner):
    """The error for a folder that another run has.

    Args:
        folder: the folder.
        owner: who has it, as `this_process` and `owner_in` give it; None if nobody knows.
    """
    if owner is None:
        who, way_out = "another process", "Wait for its end"
    elif owner["host"] == socket.gethostname() and owner["pid"] == os.getpid():
        who, way_out = f"this process, since {owner['started']}", "Wait for the end of that run"
    else:
        who = (
            f"process {owner['pid']} on {owner['host']}, started {owner['started']} as "
            f"`{owner['program']}`"
        )
        way_out = f"Wait for its end, end it (`kill {owner['pid']}` on {owner['host']})"
    return FolderInUse(
        f"The folder {str(folder)!r} is in use by {who}. {way_out}, or choose another folder."
    )


def _is_other(path):
    """Whether something lies there that is no folder."""
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _flock(descriptor):
    """Locks an open file; raises BlockingIOError where somebody else has it."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise


def this_process():
    """Who holds a lock, a dict: process, host, start and program."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        "program": _program(),
    }


def _program():
    """Python and the script by their names. Their arguments may hold secrets, and the file stays
    after a kill."""
    words = [Path(word).name for word in (sys.orig_argv[0], *sys.argv[:1]) if word]
    return " ".join(dict.fromkeys(words))[:LONGEST_NAME]


def _write(descriptor, owner):
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _read(descriptor):
    """The owner of a locked file, None where it isn't written yet or can't be read."""
    try:
        return owner_in(os.pread(descriptor, LONGEST_LOCK, 0))
    except OSError:
        return None


def owner_in(content):
    """The owner that the bytes of a lock name, a dict as of `this_process`; None for others."""
    try:
        owner = json.loads(content)
        return {key: owner[key] for key in ("pid", "host", "started", "program")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _forget():
    """In a forked child: closes its copies of the locks, which would outlive this process."""
    global _guard
    _guard = threading.RLock()
    for lock in _held.values():
        with contextlib.suppress(OSError):
            os.close(lock._descriptor)
        lock._descriptor = lock._key = None
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
