"""One run at a time writes into a remote folder: who is refused, and what a dead one leaves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import standin

from artifex_keras import remote_lock
from artifex_keras.folder_lock import FolderInUse
from artifex_keras.remote import RemoteError, RemotePath
from artifex_keras.remote_lock import RemoteLock

HOLD = """
import sys, time
sys.path.insert(0, "tests")
import standin
from artifex_keras.remote import RemotePath
from artifex_keras.remote_lock import RemoteLock

RemoteLock(RemotePath(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture
def folder(tmp_path):
    return RemotePath(f"standin://{tmp_path}/run")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(remote_lock, "RENEWED", 0.02)
    monkeypatch.setattr(remote_lock, "PATIENCE", 0.4)


@pytest.fixture
def holder(folder):
    """A process that has the lock."""
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def elsewhere(folder, **changes):
    """Lets the lock look as if a process of another machine had it."""
    path = folder / ".lock"
    said = json.loads(path.read_bytes()) | {"machine": "other", "host": "other-host"} | changes
    path.write_bytes(json.dumps(said).encode())


def test_a_second_run_of_this_process_is_refused(folder):
    with RemoteLock(folder) as lock:
        assert lock.acquire() is lock
        with pytest.raises(FolderInUse, match="in use by this process, since 20"):
            RemoteLock(folder).acquire()
        lock.check()
    assert folder.files() == []
    with RemoteLock(folder):
        assert folder.files() == [".lock"]


def test_one_that_broke_off_gives_way(folder):
    first = RemoteLock(folder, is_running=lambda: False).acquire()
    with RemoteLock(folder) as second:
        second.check()
        with pytest.raises(FolderInUse):
            first.check()


def test_another_process_is_refused_at_once_until_it_is_killed(folder, holder, monkeypatch):
    monkeypatch.setattr(remote_lock, "_watch", None, raising=False)
    monkeypatch.setattr(RemoteLock, "_watch", None)  # nobody waits on one machine
    with pytest.raises(FolderInUse) as raised:
        RemoteLock(folder).acquire()
    said = str(raised.value)
    assert f"process {holder.pid} on {os.uname().nodename}" in said
    assert repr(str(folder)) in said and "choose another folder" in said
    holder.send_signal(signal.SIGKILL)
    while remote_lock._born(holder.pid) is not None:
        time.sleep(0.01)
    with RemoteLock(folder) as lock:
        lock.check()


def test_a_later_process_of_the_same_number_is_another_one(folder):
    with RemoteLock(folder):
        content = (folder / ".lock").read_bytes()
    said = json.loads(content)
    assert said["born"] == remote_lock._born(os.getpid()) > 0
    (folder / ".lock").write_bytes(json.dumps(said | {"born": 1}).encode())
    RemoteLock(folder).acquire().release()


def test_elsewhere_one_that_renews_is_refused_and_a_dead_one_is_not(folder, capsys):
    with RemoteLock(folder) as lock:
        content = json.loads((folder / ".lock").read_bytes())
    elsewhere_lock = {**content, "machine": "other", "host": "other-host"}
    (folder / ".lock").write_bytes(json.dumps(elsewhere_lock).encode())
    ended = threading.Event()

    def renew():
        number = 0
        while not ended.wait(0.02):
            number += 1
            text = json.dumps({**elsewhere_lock, "renewal": number})
            (folder / ".lock").write_bytes(text.encode())

    other = threading.Thread(target=renew)
    other.start()
    try:
        with pytest.raises(FolderInUse, match=f"process {os.getpid()} on other-host"):
            RemoteLock(folder).acquire()
    finally:
        ended.set()
        other.join()
    begun = time.perf_counter()
    lock = RemoteLock(folder).acquire()
    assert time.perf_counter() - begun >= remote_lock.PATIENCE
    assert "Waiting up to 0 s" in capsys.readouterr().out
    lock.check()
    lock.release()
    assert folder.files() == []


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[1]", b"[" * 3000, b'{"token": 1}'])
def test_a_lock_of_nobody_knows_what_is_free_after_a_while(folder, content):
    (folder / ".lock").write_bytes(content)
    RemoteLock(folder).acquire().release()
    assert folder.files() == []


def test_it_is_renewed_and_comes_back_when_somebody_deletes_it(folder):
    with RemoteLock(folder) as lock:
        first = json.loads((folder / ".lock").read_bytes())["renewal"]
        deadline = time.monotonic() + 10
        while json.loads((folder / ".lock").read_bytes())["renewal"] < first + 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with lock._renewing:
            (folder / ".lock").unlink()
        lock.check()
        assert folder.files() == [".lock"]


def test_whoever_lost_it_finds_out_and_leaves_it_to_the_other(folder):
    lock = RemoteLock(folder).acquire()
    elsewhere(folder, token="another")
    with pytest.raises(FolderInUse, match="on other-host"):
        lock.check()
    lock.release()
    assert folder.files() == [".lock"]


def test_of_many_processes_at_once_one_has_it(folder, monkeypatch):
    monkeypatch.setattr(remote_lock, "_held", {})
    got = []

    def ask():
        lock = RemoteLock(folder)
        lock.owner = remote_lock.this_process()
        if lock._create(os.urandom(4).hex()):
            got.append(lock)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_a_folder_that_cannot_be_reached_is_said_at_once(folder, monkeypatch):
    def fail(operation, path):
        raise OSError("Anonymous caller does not have access")

    monkeypatch.setattr(standin.StandIn, "broken", fail)
    with pytest.raises(RemoteError, match="can't be reached: Anonymous caller"):
        RemoteLock(folder).acquire()


@pytest.mark.filterwarnings("ignore:.*os.fork")
def test_a_forked_child_has_no_lock(folder):
    with RemoteLock(folder) as lock:
        child = os.fork()
        if not child:
            os._exit(0 if lock._token is None and not remote_lock._held else 1)
        assert os.waitpid(child, 0)[1] == 0
        lock.check()
