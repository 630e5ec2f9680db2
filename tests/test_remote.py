"""Addresses: where only a local path will do, and what lies behind them."""

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import standin

import artifex_keras as ak
from artifex_keras import callbacks, cli
from artifex_keras.arguments import folder_path
from artifex_keras.atomic import user_path, write_text
from artifex_keras.config import TrainingConfig
from artifex_keras.remote import RemoteError, RemotePath, is_address, local_path
from artifex_keras.trust import FileError, read_json, read_ranges

GS = "gs://bucket/run"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder of its own, in which nothing is made."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(":")]


@pytest.fixture
def place(tmp_path_factory):
    return RemotePath(f"standin://{tmp_path_factory.mktemp('bucket')}")


LOCAL_ONLY = {
    "write_text": lambda: write_text(GS, "x"),
    "user_path": lambda: user_path(Path(GS)),
    "save_dir": lambda: callbacks.VisualizationCallback(save_dir=GS),
    "file": lambda: callbacks.LoggingCallback(file=f"{GS}/log.csv"),
    "folder": lambda: callbacks.LoggingCallback(folder=Path(GS)),
    "log_dir": lambda: callbacks.ProfilingCallback(log_dir=GS),
    "path": lambda: callbacks.export_checkpoint("kept", f"{GS}/model.keras"),
    "data": lambda: ak.datasets.load(f"{GS}/x.npz"),
    "data list": lambda: ak.datasets.load([f"{GS}/x.npz"]),
    "image folder": lambda: ak.datasets.from_image_folder(GS),
    "tokenizer": lambda: ak.datasets.load_tokenizer(GS),
    "config": lambda: TrainingConfig.from_yaml(f"{GS}/config.yaml"),
    "json": lambda: read_json(f"{GS}/x.json"),
}


@pytest.mark.parametrize("name", LOCAL_ONLY)
def test_where_only_a_local_path_will_do_an_address_is_refused(name):
    with pytest.raises(ValueError, match="must be a local path") as raised:
        LOCAL_ONLY[name]()
    said = str(raised.value)
    assert GS in said or "gs:/bucket/run" in said
    assert "`gcloud storage cp`" in said and "`checkpoint_dir`" in said


@pytest.mark.parametrize("option", ["--output", "--config", "--resume"])
def test_the_shell_refuses_addresses(option, capsys):
    family = [] if option == "--resume" else ["vae"]
    assert cli.main(["train", *family, option, GS]) != 0
    assert "must be a local path" in capsys.readouterr().err


def test_the_shell_says_what_can_not_be_reached(place, monkeypatch, capsys):
    def fail(operation, path):
        raise OSError("Anonymous caller does not have access")

    monkeypatch.setattr(standin.StandIn, "broken", fail)
    folder = f"training.checkpoint_dir={place}"
    assert cli.main(["train", "vae", "--data", "digits", "--set", folder]) != 0
    said = capsys.readouterr().err.splitlines()[-1]
    why = "Anonymous caller does not have access"
    assert said == f"artifex-keras: error: '{place}' can't be reached: {why}"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (GS, True),
        ("S3://b", True),
        ("standin:///tmp/x", True),
        ("runs/vae-1", False),
        ("C:\\runs", False),
        ("C:/runs", False),
        ("a:/b", False),
        ("~/x", False),
    ],
)
def test_addresses_are_known_by_their_scheme(path, found):
    assert is_address(path) is found
    if not found:
        assert local_path(path) == Path(path)


def test_a_local_file_with_such_a_name_stays_one():
    os.makedirs("gs:/bucket")
    assert local_path("gs:/bucket") == Path("gs:/bucket")
    os.removedirs("gs:/bucket")


def test_what_pathlib_makes_of_an_address_is_no_folder():
    with pytest.raises(ValueError, match="`save_dir` must be a local path, or a whole address"):
        callbacks.CheckpointCallback(Path(GS))
    with pytest.raises(ValueError, match="`checkpoint_dir`.*give it as a text"):
        TrainingConfig(checkpoint_dir=Path(GS))


def test_a_missing_package_is_named(monkeypatch):
    from artifex_keras.remote import path

    for package in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, package, None)  # whose import fails
    path._file_system.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'artifex-keras\[gcs\]'"):
        callbacks.CheckpointCallback(GS)
    with pytest.raises(ImportError, match="'s3://' need the package s3fs: pip install s3fs"):
        folder_path("save_dir", "s3://bucket/run")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("gss://bucket/run", "`save_dir` can't be 'gss://bucket/run'. Nothing is known"),
        ("file:///tmp/run", "Give a local path without 'file://'"),
    ],
)
def test_an_unknown_scheme_is_refused(address, said):
    with pytest.raises(ValueError, match=said):
        callbacks.CheckpointCallback(address)


def test_a_config_keeps_an_address_as_it_is(tmp_path):
    config = TrainingConfig(checkpoint_dir=GS)
    config.to_yaml("config.yaml")
    assert TrainingConfig.from_yaml("config.yaml").checkpoint_dir == config.checkpoint_dir == GS


# What lies behind an address


def test_an_object_is_written_read_and_deleted(place):
    file = place / "a/b"
    content = np.arange(1000, dtype="uint16").tobytes()
    assert not file.exists()
    with file.writing() as append:
        append(content[:700])
        append(np.frombuffer(content[700:], "uint8"))
        assert not file.exists()
    assert file.read_bytes() == content and file.stat().st_size == 2000
    assert [bytes(part) for part in read_ranges(file, [(4, 6), (1990, 10)])] == [
        content[4:10],
        content[1990:],
    ]
    with file.open() as opened:
        assert opened.read() == content
    (place / "a/c").write_bytes(b"{}")
    assert read_json(place / "a/c") == {}
    (place / "a/c").copy(place / "d")
    assert place.files() == ["a/b", "a/c", "d"] and (place / "a").files() == ["b", "c"]
    file.unlink()
    file.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        file.unlink()
    assert place.files() == ["a/c", "d"] and (place / "x").files() == []


def test_small_ranges_are_read_together(place, monkeypatch):
    """Each request to a service takes tens of milliseconds."""
    from artifex_keras.remote.path import _Reader

    content = np.arange(4000, dtype="uint8")
    (place / "a").write_bytes(content.tobytes())
    asked, read = [], _Reader.read
    monkeypatch.setattr(
        _Reader, "read", lambda self, size=-1: asked.append(size) or read(self, size)
    )
    ranges = [(begin, 40) for begin in range(0, 4000, 40)]
    np.testing.assert_array_equal(np.concatenate(list(read_ranges(place / "a", ranges))), content)
    assert len(asked) <= 2


def test_a_part_beyond_the_end_and_a_missing_object_are_said(place):
    (place / "a").write_bytes(b"1234")
    with pytest.raises(FileError, match="it ends at byte 4"):
        list(read_ranges(place / "a", [(2, 3)]))
    with pytest.raises(FileNotFoundError, match=f"no file '{place}/b'"):
        list(read_ranges(place / "b", [(0, 1)]))


def test_of_many_that_create_one_does(place):
    created = []

    def create(number):
        try:
            (place / "x").create(str(number).encode())
        except FileExistsError:
            return
        created.append(str(number).encode())

    threads = [threading.Thread(target=create, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert created == [(place / "x").read_bytes()]


def test_what_fails_in_the_network_is_no_damage(place, monkeypatch):
    (place / "a").write_bytes(b"1234")

    def fail(operation, path):
        if operation == "read":
            raise OSError("Forbidden: no access\nmore")

    monkeypatch.setattr(standin.StandIn, "broken", fail)
    with pytest.raises(RemoteError, match="a' can't be reached: Forbidden: no access$"):
        read_json(place / "a")
