"""Files that the package writes are there complete, or as they were."""

import ast
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import artifex_keras as ak
from artifex_keras import atomic, pictures
from artifex_keras.atomic import atomic_file, user_path, write_text

PACKAGE = Path(atomic.__file__).parent
SIZE = 3_000_000
# Writes letters, each time another one, without importing Keras.
WRITER = f"""
import importlib.util, sys, types
package = sys.modules["artifex_keras"] = types.ModuleType("artifex_keras")  # without Keras
package.__path__ = [{str(Path(atomic.__file__).parent)!r}]
spec = importlib.util.spec_from_file_location("atomic", {atomic.__file__!r})
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
print("ready", flush=True)
while True:
    for letter in "abc":
        atomic.write_text(sys.argv[1], letter * {SIZE})
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_killed_process_leaves_a_complete_file(tmp_path):
    path, chance, left = tmp_path / "letters.txt", random.Random(0), 0
    write_text(path, "x" * SIZE)
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-S", "-c", WRITER, str(path)], stdout=subprocess.PIPE
        ) as writer:
            writer.stdout.readline()
            time.sleep(chance.uniform(0.005, 0.05))
            writer.send_signal(signal.SIGKILL)
        text = path.read_text()
        assert len(text) == SIZE and len(set(text)) == 1
        left += len(names(tmp_path)) - 1
    assert left > 0  # a kill came within a write
    write_text(path, "new")
    assert names(tmp_path) == ["letters.txt"] and path.read_text() == "new"


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(ZeroDivisionError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == ["a.npy"] and np.load(path).shape == (3,)


def test_a_file_that_is_too_large_for_the_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "run.yaml"
    write_text(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as raised:
            write_text(path, "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert raised.value.errno == errno.EFBIG
    assert names(tmp_path) == ["run.yaml"] and path.read_text() == "old"


def test_files_of_running_and_of_unknown_processes_stay(tmp_path):
    host = atomic._host()
    running = tmp_path / f"{atomic.MARK}{host}-{os.getppid()}-0.txt"
    elsewhere = tmp_path / f"{atomic.MARK}another-1-0.txt"
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        pass
    dead = tmp_path / f"{atomic.MARK}{host}-{process.pid}-0.txt"
    for path in (running, elsewhere, dead):
        path.write_text("")
    write_text(tmp_path / "new.txt", "")
    assert names(tmp_path) == sorted([running.name, elsewhere.name, "new.txt"])


def test_permissions_and_links_stay(tmp_path):
    secret = tmp_path / "secret.yaml"
    secret.write_text("old")
    secret.chmod(0o600)
    link = tmp_path / "link.yaml"
    link.symlink_to(secret)
    write_text(link, "new")
    assert link.is_symlink() and secret.read_text() == "new"
    assert secret.stat().st_mode & 0o777 == 0o600


def test_what_is_no_file_is_written_to(tmp_path):
    write_text(os.devnull, "nothing")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("name", ["a" * 250, "a" * 100 + "." + "b" * 150, "model.weights.h5", ".x"])
def test_every_name_that_a_file_may_have(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert names(tmp_path) == [name]


def test_an_error_names_the_file_asked_for(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "below.txt", "")
    with pytest.raises(FileNotFoundError, match="never.txt"), atomic_file(tmp_path / "never.txt"):
        pass  # nothing was written


def write_png(path):
    pictures.scatter(np.zeros((2, 2)), path)


def write_gif(path):
    frame = path.with_name("frame.png")
    pictures.scatter(np.zeros((2, 2)), frame)
    pictures.animation([frame], path)


def write_export(path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    folder, x = path.with_name("kept"), np.zeros((4, 2))
    model.fit(x, x[:, :1], verbose=0, callbacks=[ak.callbacks.CheckpointCallback(folder)])
    ak.callbacks.export_checkpoint(folder, path)


WRITERS = {
    "a.png": write_png,
    "a.gif": write_gif,
    "a.txt": lambda path: pictures.texts(["one"], path),
    "a.yaml": lambda path: ak.TrainingConfig().to_yaml(path),
    "a.keras": write_export,
    "a.csv": lambda path: ak.tracking.RowFile(path).write({"step": 1}),
}


@pytest.mark.parametrize("name", sorted(WRITERS.keys() - {"a.csv"}))  # rows are appended
def test_a_kill_before_the_end_leaves_no_part_under_the_name(tmp_path, name, monkeypatch):
    """`os.replace` is the last thing that happens, and until then the name has what it had."""
    path = tmp_path / name
    path.write_text("old")
    replace, seen = os.replace, []

    def look(source, target):
        if Path(target) == path:
            assert path.read_text() == "old" and Path(source).stat().st_size > 0
            seen.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    WRITERS[name](path)
    assert len(seen) == 1 and path.read_bytes() != b"old"


@pytest.mark.parametrize("name", ["a.txt", "a.yaml", "a.csv", "a.png"])
def test_a_home_is_found(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    WRITERS[name](Path("~") / name)
    assert names(tmp_path) == ["home"] and (tmp_path / "home" / name).stat().st_size > 0


def test_so_it_is_for_checkpoints_pictures_and_trackers(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ak.callbacks.CheckpointCallback("~/x").store.folder == tmp_path / "x"
    assert ak.callbacks.ProfilingCallback("~/x").log_dir == tmp_path / "x"
    assert ak.TrainingConfig(checkpoint_dir="~/x").checkpoint_dir == tmp_path / "x"
    assert user_path("a/~b") == Path("a/~b")


# Every file goes through `atomic_file`

APPENDS = {  # streams of records, whose readers tolerate a last one that is incomplete
    "tracking/files.py": "open",
    "tracking/tensorboard.py": "open",
}
IN_A_TEMPORARY_FOLDER = {
    "backend/jax/lowering.py",
    "backend/lowering/process.py",
    "callbacks/checkpoint/remote_store.py",
    "callbacks/logging/callback.py",
}
WRITES = {"write_text", "write_bytes", "savefig", "save", "savez", "savez_compressed", "savetxt"}


def writes_of(tree):
    """Calls that write a file by its name, outside of `with atomic_file`."""

    def visit(node, inside):
        if isinstance(node, ast.With):
            inside |= any("atomic_file" in ast.unparse(item) for item in node.items)
        if isinstance(node, ast.Call) and not inside:
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            own = name == "write_text" and isinstance(node.func, ast.Name)
            mode = [a.value for a in node.args if isinstance(a, ast.Constant)][-1:]
            opens = name == "open" and mode and str(mode[0])[:1] in {"w", "a", "x"}
            if (name in WRITES and not own) or opens:
                yield node.lineno, name
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return list(visit(tree, False))


def test_no_file_is_written_in_place():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if file in IN_A_TEMPORARY_FOLDER | {"atomic.py"}:
            continue
        for line, name in writes_of(ast.parse(path.read_text(encoding="utf-8"))):
            if APPENDS.get(file) != name:
                found.append(f"{file}:{line} {name}")
    allowed = {"callbacks/checkpoint/orbax_files.py", "callbacks/checkpoint/callback.py"}  # Orbax's
    # Objects behind an address, of which a service makes all or nothing.
    allowed |= {"callbacks/checkpoint/parts.py", "remote/path.py", "remote_lock.py"}
    assert [each for each in found if each.split(":")[0] not in allowed] == []


def test_a_write_in_place_is_found():
    source = "np.save(p, x)\nopen(p, 'w')\nwith atomic_file(p) as q:\n    np.save(q, x)\nopen(p)"
    assert [line for line, _ in writes_of(ast.parse(source))] == [1, 2]
