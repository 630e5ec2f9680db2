"""Checkpoints in Google Cloud Storage, by gcsfs and a server here that speaks its protocol."""

import importlib.util
import json
import re
import signal

import pytest
from gcs_server import gcs_server
from remote_runs import digest, fit, started, straight_run
from resumed import assert_same_run

from artifex_keras import remote_lock
from artifex_keras.callbacks.checkpoint.remote_store import store_in
from artifex_keras.folder_lock import FolderInUse
from artifex_keras.remote import RemoteError, RemotePath, path

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gcsfs") is None, reason="no gcsfs")

ADDRESS = "gs://bucket/runs/one"


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch, gcs_server() as (host, bucket):
        patch.setenv("STORAGE_EMULATOR_HOST", host)
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks the cloud of buckets
        path._file_system.cache_clear()
        yield bucket
        path._file_system.cache_clear()


@pytest.fixture
def bucket(server):
    server.objects.clear()
    server.requests.clear()
    server.reached.clear()
    server.stalled = None
    return server


@pytest.fixture(scope="module")
def straight():
    return straight_run()


def test_objects_are_written_in_parts_and_read_in_ranges(bucket, monkeypatch):
    monkeypatch.setattr(path, "BLOCK", 2**18)
    file, content = RemotePath(ADDRESS) / "a b/ü", bytes(range(256)) * 4096
    with file.writing() as append:
        append(content[: 2**19 + 7])
        assert not file.exists()
        append(content[2**19 + 7 :])
    assert bucket.objects["runs/one/a b/ü"] == content and file.stat().st_size == len(content)
    with file.open() as opened:
        opened.seek(2**19)
        assert opened.read(10) == content[2**19 : 2**19 + 10]
    file.copy(RemotePath(ADDRESS) / "b")
    assert (
        RemotePath(ADDRESS).files() == ["a b/ü", "b"] and RemotePath("gs://bucket/x").files() == []
    )
    file.unlink()
    file.unlink(missing_ok=True)
    assert list(bucket.objects) == ["runs/one/b"]


def test_the_service_decides_who_creates_an_object(bucket):
    file = RemotePath(ADDRESS) / "x"
    file.create(b"1")
    with pytest.raises(FileExistsError):
        file.create(b"2")
    assert file.read_bytes() == b"1"
    file.write_bytes(b"3")
    assert bucket.objects == {"runs/one/x": b"3"}


def test_a_bucket_that_is_not_there_is_said_before_the_run(bucket):
    with pytest.raises(RemoteError, match="gs://other/run/.lock' can't be written: there is no"):
        fit("gs://other/run")


def test_a_run_goes_on_to_the_bit_in_another_process(bucket, straight):
    fit(ADDRESS, epochs=2, save_every_n_steps=4)
    with started(ADDRESS) as process:
        assert process.stdout.read().splitlines()[-1] == digest(straight)
    assert store_in(ADDRESS).steps() == [15, 12, 10, 8, 5]
    assert "runs/one/.lock" not in bucket.objects


@pytest.mark.quick(1)
@pytest.mark.parametrize("at", ["8/meta/metadata", "8/process-0/arrays"])
def test_a_run_that_is_killed_within_a_save_goes_on_from_the_one_before(bucket, at, straight):
    bucket.stalled = at
    with started(ADDRESS) as process:
        assert bucket.reached.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    bucket.stalled = None
    assert store_in(ADDRESS).steps() == [5, 4] and "runs/one/.lock" in bucket.objects
    assert_same_run(fit(ADDRESS), straight)
    assert store_in(ADDRESS).steps() == [15, 10, 5, 4]


def test_a_damaged_object_is_found_and_the_checkpoint_before_is_taken(bucket, straight):
    fit(ADDRESS, epochs=2)
    name = "runs/one/step-00000010/process-0/arrays"
    bucket.objects[name] = bucket.objects[name][:-1] + b"?"
    with pytest.warns(UserWarning, match="step-00000010.*is not what was written.*Trying the one"):
        run = fit(ADDRESS)
    assert_same_run(run, straight)


def test_whole_checkpoints_are_pruned(bucket):
    fit(ADDRESS, max_to_keep=1)
    assert {name.split("/")[2] for name in bucket.objects} == {"step-00000015"}
    assert len(bucket.objects) == 3


def test_a_run_elsewhere_is_refused_while_it_renews_its_lock(bucket, monkeypatch):
    monkeypatch.setattr(remote_lock, "RENEWED", 0.05)
    monkeypatch.setattr(remote_lock, "PATIENCE", 2.0)
    name = "runs/one/.lock"
    with remote_lock.RemoteLock(RemotePath(ADDRESS)):
        said = json.loads(bucket.objects[name])
        monkeypatch.setattr(remote_lock, "_held", {})
        monkeypatch.setattr(remote_lock, "_machine", lambda: "another")
        with pytest.raises(FolderInUse, match=f"since {re.escape(said['started'])}"):
            remote_lock.RemoteLock(RemotePath(ADDRESS)).acquire()
    assert name not in bucket.objects
