"""One writer for a remote folder: an object says who has it, and its owner renews it.

No system holds a lock there, and none ends with its process. So a lock that isn't renewed any more
is free, and its owner, should it still live, finds that out before it completes a checkpoint.
"""

import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path

from artifex_keras.folder_lock import LONGEST_LOCK, NAME, give_way, in_use, owner_in, this_process
from artifex_keras.remote import RemoteError

__all__ = ["RemoteLock"]

RENEWED = 15.0  # seconds from one renewal to the next
PATIENCE = 60.0  # seconds without a renewal, after which the owner counts as dead
LOOKS = 20  # in that time

_held = {}  # locks of this process by their folder
_guard = threading.RLock()


class RemoteLock:
    """The right of one run to write into a remote folder, until `release`.

    The object `.lock` in the folder says who has it, and is created only where there is none: of
    several runs that ask at once one gets it. A thread renews it every 15 seconds. What a killed
    run has left is free at once on the same machine; elsewhere after a minute without a renewal.

    Args:
        folder: a `RemotePath`.
        is_running: as for `FolderLock`.

    Example:

        ```python
        from artifex_keras.folder_lock import FolderInUse
        from artifex_keras.remote import RemotePath
        from artifex_keras.remote_lock import RemoteLock

        folder = RemotePath("memory://bucket/run")  # of this process alone
        with RemoteLock(folder):
            try:
                RemoteLock(folder).acquire()
            except FolderInUse as error:
                print(error)  # The folder 'memory://bucket/run' is in use by this process, ...
        ```
    """

    def __init__(self, folder, is_running=lambda: True):
        self.folder = folder
        self.is_running = is_running
        self.owner = None
        self._path = folder / NAME
        self._token = self._ended = None
        self._number = 0  # of the renewal
        self._renewing = threading.Lock()  # not `_guard`, which is held while another is waited for

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *error):
        self.release()

    def acquire(self):
        """Takes the lock, unless it has it. Returns itself.

        Raises:
            FolderInUse: if another run has it, with who and what to do.
            RemoteError: if the folder can't be reached.
        """
        with _guard:
            if self._token is not None:
                return self
            give_way(_held.get(self.folder), self.folder)
            self.owner, token = this_process(), secrets.token_hex(8)
            while not self._create(token):
                self._wait_for_a_dead_one()
            self._token, self._ended = token, threading.Event()
            _held[self.folder] = self
            threading.Thread(target=self._renew, name="lock", daemon=True).start()
        return self

    def release(self):
        """Gives the lock back; does nothing without one."""
        with _guard:
            if self._token is None:
                return
            token, self._token = self._token, None
            self._ended.set()
            _held.pop(self.folder, None)
            try:
                with self._renewing:
                    if _token_in(self._content()) == token:
                        self._path.unlink(missing_ok=True)
            except RemoteError:  # it is free when nobody has renewed it for a while
                pass

    def check(self):
        """Raises if another run has the folder, which took this one for dead.

        Raises:
            FolderInUse: with who has it.
            RemoteError: if the folder can't be reached.
        """
        content = self._content()
        if content is None and self._token is not None:  # somebody has deleted it
            self._create(self._token)
            content = self._content()
        if self._token is None or _token_in(content) != self._token:
            raise in_use(self.folder, owner_in(content or b""))

    def _create(self, token):
        """Whether there was no lock, and this one is there now."""
        try:
            self._path.create(self._text(token))
        except FileExistsError:
            return False
        return _token_in(self._content()) == token

    def _text(self, token):
        said = {"token": token, "machine": _machine(), "born": _born(os.getpid())}
        said["renewal"] = self._number
        return json.dumps({**self.owner, **said}).encode()

    def _content(self):
        try:
            return self._path.read_bytes()[:LONGEST_LOCK]
        except FileNotFoundError:
            return None

    def _renew(self):
        """Until the release, shows that this process lives."""
        token, ended = self._token, self._ended
        while not ended.wait(RENEWED):
            try:
                with self._renewing:
                    if ended.is_set():
                        return
                    if _token_in(self._content()) != token:
                        continue  # deleted or another's: `check` finds it out
                    self._number += 1
                    self._path.write_bytes(self._text(token))
            except RemoteError:  # the network may come back
                continue

    def _wait_for_a_dead_one(self):
        """Deletes the lock of a process that is no more, and returns when there is none.

        Raises:
            FolderInUse: for one that lives.
        """
        seen = self._content()
        if seen is None:
            return
        owner = owner_in(seen)
        if _field(seen, "machine") != _machine() or owner is None:
            self._watch(seen, owner)
        elif _is_running(owner["pid"], _field(seen, "born")):
            raise in_use(self.folder, owner)
        if self._content() == seen:
            self._path.unlink(missing_ok=True)

    def _watch(self, seen, owner):
        """Returns if the lock isn't renewed for a while; raises FolderInUse if it is."""
        who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
        print(
            f"The folder {str(self.folder)!r} was last in use by {who}. "
            f"Waiting up to {PATIENCE:.0f} s to see if that still runs.",
            flush=True,
        )
        for _ in range(LOOKS):
            time.sleep(PATIENCE / LOOKS)
            content = self._content()
            if content is None:
                return
            if content != seen:
                raise in_use(self.folder, owner_in(content))


def _field(content, name):
    try:
        return json.loads(content)[name]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _token_in(content):
    return None if content is None else _field(content, "token")


def _machine():
    """What processes have in common that see each other's numbers: they run on one system, since
    its start, and in one container."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {started} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # nobody can say: all others count as elsewhere
        return f"{socket.gethostname()} {secrets.token_hex(8)}"


def _born(process):
    """When a process of this machine began, in the system's own count; None if none runs."""
    try:
        said = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if said[0] in "ZX" else int(said[19])  # these have ended
    except (OSError, ValueError, IndexError):
        return None


def _is_running(process, born):
    """Whether a process is there, and no later one of the same number."""
    return _born(process) is not None and _born(process) == born


def _forget():
    """In a forked child, which has neither the locks nor the threads of its parent."""
    global _guard
    _guard = threading.RLock()
    for lock in _held.values():
        lock._token = None
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
