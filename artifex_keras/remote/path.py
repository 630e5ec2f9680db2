"""A file or folder behind an address, with the methods of `pathlib.Path` that checkpoints need.

What lies there are objects: each is written at once or not at all, and has a name with slashes in
it. There are no folders, and nothing can be renamed. `fsspec` reaches them, as it does for Orbax's
own paths (`etils.epath`). Those aren't used, as they can neither create an object only where there
is none nor look past a listing that they have kept, and import TensorFlow where it is installed.
"""

import contextlib
import functools
import io
import os
import posixpath

from artifex_keras.remote.address import scheme_of

__all__ = ["RemoteError", "RemotePath"]

# By scheme: the package that reaches it, and the extra of ours that installs it.
PACKAGES = {
    "gs": ("gcsfs", "'artifex-keras[gcs]'"),
    "gcs": ("gcsfs", "'artifex-keras[gcs]'"),
    "s3": ("s3fs", "s3fs"),
    "s3a": ("s3fs", "s3fs"),
    "az": ("adlfs", "adlfs"),
    "abfs": ("adlfs", "adlfs"),
    "abfss": ("adlfs", "adlfs"),
}
LOCAL = ("file", "local")
AHEAD = 2**23  # bytes that are read at once, of which small arrays take theirs
LOOKS = 3  # at a listing that others change
BLOCK = 2**25  # bytes of one request that writes: each waits for the one before


class RemoteError(Exception):
    """An address that can't be reached: no network, no rights, no such bucket."""


@contextlib.contextmanager
def _reaching(address, writes=False):
    """Inside, what a file system raises becomes a `RemoteError`, except for objects that are there,
    or aren't."""
    try:
        yield
    except FileNotFoundError as error:
        if not writes:
            raise
        raise RemoteError(f"{str(address)!r} can't be written: there is no such place.") from error
    except (FileExistsError, ImportError, RemoteError):
        raise
    except Exception as error:  # each service has its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RemoteError(f"{str(address)!r} can't be reached: {lines[0][:300]}") from error


@functools.lru_cache(maxsize=16)
def _file_system(scheme, process):
    """The file system of a scheme: one for all threads, as each logs in when it is made."""
    if scheme in LOCAL:
        raise ValueError(f"Give a local path without '{scheme}://'.")
    import fsspec

    try:
        # A listing that it keeps would hide what other processes have written since.
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        package, installs = PACKAGES.get(scheme, (None, None))
        if package is None or getattr(error.__cause__, "name", package) != package:
            raise
        raise ImportError(
            f"Addresses that begin with '{scheme}://' need the package {package}: "
            f"pip install {installs}"
        ) from error
    except ValueError as error:
        known = ", ".join(f"'{each}://'" for each in PACKAGES)
        raise ValueError(
            f"Nothing is known that reaches addresses which begin with '{scheme}://'. Known are "
            f"{known} and all others of fsspec."
        ) from error


def _names_below(system, path):
    """The names of all objects below one. A service lists them at once; where fsspec would walk,
    and look on where a listing fails, this does."""
    import fsspec.asyn

    walks = (fsspec.AbstractFileSystem.find, fsspec.asyn.AsyncFileSystem._find)
    own = type(system)
    if (own._find if issubclass(own, fsspec.asyn.AsyncFileSystem) else own.find) in walks:
        return list(_walk(system, path))
    return system.find(path)


def _walk(system, path):
    for each in system.ls(path, detail=True):
        if each["type"] == "directory":
            yield from _walk(system, each["name"])
        else:
            yield each["name"]


class RemotePath:
    """A path behind an address.

    Args:
        address: such as "gs://bucket/run".

    Raises:
        ImportError: if the package for its scheme isn't installed, with the way to get it.
        ValueError: for a scheme that nobody knows.
    """

    def __init__(self, address):
        address = str(address)
        self._scheme = scheme_of(address)
        rest = address.partition("://")[2]
        self._address = f"{self._scheme}://{posixpath.normpath(rest) if rest else ''}"
        _file_system(self._scheme, os.getpid())  # says now what is missing

    @property
    def _system(self):
        return _file_system(self._scheme, os.getpid())

    def __str__(self):
        return self._address

    def __repr__(self):
        return f"RemotePath({self._address!r})"

    def __eq__(self, other):
        return isinstance(other, RemotePath) and self._address == other._address

    def __hash__(self):
        return hash(self._address)

    def __truediv__(self, name):
        return RemotePath(f"{self._address}/{name}")

    @property
    def name(self):
        return self._address.rpartition("/")[2]

    def exists(self):
        """Whether there is an object of that name."""
        try:  # not by `isfile`, to which any error means that there is none
            with _reaching(self):
                return self._system.info(self._address)["type"] == "file"
        except FileNotFoundError:
            return False

    is_file = exists

    def is_dir(self):
        """Whether that name is the beginning of others."""
        return bool(self.files())

    def files(self):
        """The objects below this name, a sorted list of what follows after it and a slash."""
        from fsspec.core import strip_protocol

        system = self._system
        begin = strip_protocol(self._address).rstrip("/") + "/"
        for look in range(LOOKS):
            try:
                with _reaching(self):
                    found = _names_below(system, self._address)
                break
            except FileNotFoundError as error:
                if not self._leads_on():
                    return []
                if look == LOOKS - 1:
                    raise RemoteError(f"{self._address!r} changes while it is listed.") from error
        return sorted(name.removeprefix(begin) for name in found if name.startswith(begin))

    def _leads_on(self):
        try:
            with _reaching(self):
                return bool(self._system.ls(self._address, detail=False))
        except FileNotFoundError:
            return False

    def stat(self):
        """`st_size`, as that of `pathlib`."""
        with _reaching(self):
            size = self._system.info(self._address)["size"]
        return os.stat_result((0, 0, 0, 0, 0, 0, size, 0, 0, 0))

    def open(self, mode="rb"):
        """A file of bytes, for reading."""
        if mode != "rb":
            raise ValueError(f"A remote file is opened for reading bytes. Received: {mode!r}.")
        with _reaching(self):
            file = self._system.open(self._address, "rb")
        return io.BufferedReader(_Reader(self, file), AHEAD)

    @contextlib.contextmanager
    def writing(self):
        """A context with a function that appends bytes to a new object: it is there at the end."""
        with _reaching(self, writes=True):
            with self._system.open(self._address, "wb", block_size=BLOCK) as file:

                def append(content):
                    content = memoryview(content)
                    for begin in range(0, len(content), BLOCK):
                        file.write(content[begin : begin + BLOCK])

                yield append

    def write_bytes(self, content):
        """Writes an object, in place of one that is there."""
        with _reaching(self, writes=True):
            self._system.pipe_file(self._address, content)

    def create(self, content):
        """Writes an object, if there is none.

        Services decide that themselves, so of two processes one fails.

        Raises:
            FileExistsError: if there is one.
        """
        with _reaching(self, writes=True):
            self._system.pipe_file(self._address, content, mode="create")

    def read_bytes(self):
        """All of an object."""
        with _reaching(self):
            return self._system.cat_file(self._address)

    def unlink(self, missing_ok=False):
        """Deletes an object."""
        try:
            with _reaching(self):
                self._system.rm_file(self._address)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def copy(self, target):
        """Copies an object; a service does it by itself, without us in between."""
        with _reaching(self):
            self._system.cp_file(self._address, str(target))


class _Reader(io.RawIOBase):
    """An open remote file, whose errors are ours."""

    def __init__(self, path, file):
        super().__init__()
        self._path, self._file = path, file

    def readable(self):
        return True

    def seekable(self):
        return True

    def read(self, size=-1):
        with _reaching(self._path):
            return self._file.read(size)

    def readinto(self, buffer):
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def seek(self, offset, whence=0):
        with _reaching(self._path):
            return self._file.seek(offset, whence)

    def close(self):
        if not self.closed:
            self._file.close()
        super().close()
