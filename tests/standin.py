"""`standin://FOLDER`: objects as a service keeps them, in a local folder, for all its processes.

An object is there when it is complete, and replaces the one before at once. One is created only
where there is none. Nothing is renamed, and there are no folders: only names with slashes in them.
Import it in each process. `slow_at` makes the writing of objects take a while, so that a process
can be killed within.
"""

import os
import time
from pathlib import Path

import fsspec
from fsspec.implementations.memory import MemoryFile

WRITTEN = []  # names in the order in which this process has written them


class StandIn(fsspec.AbstractFileSystem):
    protocol = "standin"
    slow_at = (None, 0.0)  # a part of a name, and seconds within its writing
    broken = None  # a function of the operation and the name that may raise

    def _place(self, path):
        return Path("/" + self._strip_protocol(path).strip("/"))

    @classmethod
    def _strip_protocol(cls, path):
        return str(path).removeprefix("standin://").strip("/")

    def _ask(self, operation, path):
        if StandIn.broken is not None:
            StandIn.broken(operation, self._strip_protocol(path))

    def info(self, path, **options):
        self._ask("info", path)
        return self._about(path)

    def _about(self, path):
        place = self._place(path)
        if not place.exists():
            raise FileNotFoundError(path)
        kind = "directory" if place.is_dir() else "file"
        return {"name": self._strip_protocol(path), "size": place.stat().st_size, "type": kind}

    def ls(self, path, detail=True, **options):
        self._ask("ls", path)
        place = self._place(path)
        if not place.is_dir():
            raise FileNotFoundError(path)
        found = [self._about(str(each)) for each in sorted(place.iterdir()) if "~" not in each.name]
        return found if detail else [each["name"] for each in found]

    def _open(self, path, mode="rb", **options):
        self._ask("read" if mode == "rb" else "write", path)
        if mode == "rb":
            if not self._place(path).is_file():
                raise FileNotFoundError(path)
            return self._place(path).open("rb")
        return _Upload(self, path, exclusive=mode == "xb")

    def pipe_file(self, path, value, mode="overwrite", **options):
        with self._open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)

    def cp_file(self, path1, path2, **options):
        self.pipe_file(path2, self.cat_file(path1))

    def _rm(self, path):
        self._ask("delete", path)
        self._place(path).unlink()

    rm_file = _rm

    def mv(self, *arguments, **options):
        raise NotImplementedError("objects have no renaming")

    rename = move = mv


class _Upload(MemoryFile):
    """What is written of an object, which is there when this is closed."""

    def __init__(self, system, path, exclusive):
        super().__init__(system, path)
        self.exclusive = exclusive

    def __exit__(self, *failure):
        if not failure[0]:
            self.commit()

    def commit(self):
        place = self.fs._place(self.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{place.name}~{os.getpid()}-{time.monotonic_ns()}")
        partial.write_bytes(self.getvalue())
        part, seconds = StandIn.slow_at
        if part is not None and part in str(place):
            print(f"writing {place}", flush=True)
            time.sleep(seconds)
        if self.exclusive:
            try:
                os.link(partial, place)
            except FileExistsError:
                raise FileExistsError(self.path) from None
            finally:
                partial.unlink()
        else:
            os.replace(partial, place)
        WRITTEN.append(str(place))


fsspec.register_implementation("standin", StandIn, clobber=True)
