"""One run at a time writes into a folder, whatever ends the run before."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import artifex_keras as ak
from artifex_keras import folder_lock
from artifex_keras.folder_lock import FolderInUse, FolderLock

PACKAGE = Path(folder_lock.__file__).parent
ROOT = PACKAGE.parent
# The package without what its `__init__` imports, Keras above all.
LIGHT = f"""
import os, signal, sys, time, types
package = sys.modules["artifex_keras"] = types.ModuleType("artifex_keras")
package.__path__ = [{str(PACKAGE)!r}]
from artifex_keras.folder_lock import FolderInUse, FolderLock
"""
HOLD = "lock = FolderLock(sys.argv[1]).acquire(); print('held', flush=True); time.sleep(60)"
HOLD_WITH_A_CHILD = """
lock = FolderLock(sys.argv[1]).acquire()
child = os.fork()
if child == 0:
    time.sleep(60)
print('held', child, flush=True)
time.sleep(60)
"""
TAKE_TURNS = """
for _ in range(25):
    while True:
        try:
            with FolderLock(sys.argv[1]):
                with open(sys.argv[2], "a") as file:
                    print(os.getpid(), "begins", file=file, flush=True)
                    print(os.getpid(), "ends", file=file)
            break
        except FolderInUse:
            pass
"""


def started(script, *arguments):
    command = [sys.executable, "-S", "-c", LIGHT + script, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, **pipes, text=True)


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path / "run"`."""
    with started(HOLD, tmp_path / "run") as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_with_who_holds_it(tmp_path, holder):
    with pytest.raises(FolderInUse) as raised:
        FolderLock(tmp_path / "run").acquire()
    said = str(raised.value)
    assert f"is in use by process {holder.pid} on {os.uname().nodename}, started 20" in said
    assert Path(sys.executable).name in said and f"`kill {holder.pid}`" in said
    assert repr(str(tmp_path / "run")) in said and "choose another folder" in said
    assert len(said) < 700  # the command is a long one


def test_what_a_killed_process_held_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / folder_lock.NAME).exists()
    with FolderLock(tmp_path / "run") as lock:
        assert lock.owner["pid"] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


def test_so_it_is_where_its_children_live_on(tmp_path):
    with started(HOLD_WITH_A_CHILD, tmp_path) as process:
        child = int(process.stdout.readline().split()[1])
        try:
            with pytest.raises(FolderInUse, match=f"process {process.pid} "):
                FolderLock(tmp_path).acquire()
            process.kill()
            process.wait()
            os.kill(child, 0)  # it is there
            FolderLock(tmp_path).acquire().release()
        finally:
            os.kill(child, signal.SIGKILL)


def test_processes_take_turns(tmp_path):
    turns = tmp_path / "turns"
    several = [started(TAKE_TURNS, tmp_path / "run", turns) for _ in range(4)]
    for process in several:
        assert process.wait(60) == 0
        process.stdout.close()
    lines = turns.read_text().splitlines()
    assert len(lines) == 2 * 25 * 4
    for begin, end in zip(lines[::2], lines[1::2], strict=True):
        assert begin.replace("begins", "ends") == end


def test_a_file_deleted_between_opening_and_locking_locks_nothing(tmp_path, monkeypatch):
    """As a holder deletes it that leaves just then."""
    lock_it = folder_lock._flock

    def late(descriptor):
        monkeypatch.setattr(folder_lock, "_flock", lock_it)
        (tmp_path / folder_lock.NAME).unlink()
        lock_it(descriptor)

    monkeypatch.setattr(folder_lock, "_flock", late)
    with FolderLock(tmp_path), started(HOLD, tmp_path) as other:
        assert other.stdout.readline() == "" and other.wait() != 0


def test_a_folder_deleted_as_it_is_made_is_made_again(tmp_path, monkeypatch):
    """`makedirs` finds it and then doesn't: a holder has left in between."""
    make, folder = os.makedirs, tmp_path / "run"

    def late(path, exist_ok):
        monkeypatch.setattr(os, "makedirs", make)
        raise FileExistsError(path)

    monkeypatch.setattr(os, "makedirs", late)
    with FolderLock(folder):
        assert (folder / folder_lock.NAME).is_file()
    folder.write_text("a file")
    with pytest.raises(FileExistsError):
        FolderLock(folder).acquire()


def test_one_process_has_it_once(tmp_path):
    (tmp_path / "alias").symlink_to(tmp_path / "run")
    with FolderLock(tmp_path / "run") as lock:
        assert lock.acquire() is lock
        for name in ("run", "alias", "alias/../run"):
            with pytest.raises(FolderInUse, match="by this process, since 20.* another folder"):
                FolderLock(tmp_path / name).acquire()
        FolderLock(tmp_path).acquire().release()  # a folder around it is another
    assert not (tmp_path / "run").exists()  # it made it, and nothing came
    FolderLock(tmp_path / "alias").acquire().release()


def test_one_that_has_broken_off_gives_way(tmp_path):
    running = [True]
    first = FolderLock(tmp_path, is_running=lambda: running[0]).acquire()
    with pytest.raises(FolderInUse):
        FolderLock(tmp_path).acquire()
    running[0] = False
    second = FolderLock(tmp_path).acquire()
    first.release()  # has nothing
    with pytest.raises(FolderInUse):
        FolderLock(tmp_path).acquire()
    second.release()


@pytest.mark.parametrize("content", ["", "no json", "[1]", json.dumps({"pid": 1})])
def test_a_holder_without_a_readable_name_is_another_process(tmp_path, holder, content):
    (tmp_path / "run" / folder_lock.NAME).write_text(content)
    with pytest.raises(FolderInUse, match="in use by another process. Wait for its end"):
        FolderLock(tmp_path / "run").acquire()


# Checkpoints


def model():
    made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="dense")])
    made.compile("sgd", "mse")
    return made


X = np.zeros((8, 2), "float32")


def fit(folder, *more, made=None, **options):
    options = {"resume": "auto", "verbose": False, "asynchronous": False, **options}
    keeper = ak.callbacks.CheckpointCallback(folder, **options)
    made = made or model()
    targets = None if isinstance(made, ak.VAE) else X[:, :1]
    made.fit(X, targets, batch_size=4, verbose=0, callbacks=[keeper, *more])
    return keeper


def test_a_fit_into_the_folder_of_another_process_is_refused(tmp_path, holder):
    with pytest.raises(FolderInUse, match=f"process {holder.pid} "):
        fit(tmp_path / "run")
    with pytest.raises(ValueError, match=f"process {holder.pid} "):
        fit(tmp_path / "run", resume="never")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [folder_lock.NAME]
    holder.kill()
    holder.wait()
    assert fit(tmp_path / "run").store.steps() == [2]


def test_two_models_of_one_process_do_not_mix(tmp_path):
    seen = {}

    class Another(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            with pytest.raises(FolderInUse, match="by this process"):
                fit(tmp_path)
            seen["elsewhere"] = fit(tmp_path / "elsewhere").store.steps()

        def on_train_end(self, logs=None):
            restored = model()
            ak.callbacks.export_checkpoint(tmp_path, tmp_path / "a.keras")  # reading is free
            seen["read"] = ak.callbacks.restore_checkpoint(restored, tmp_path)

    assert fit(tmp_path, Another()).store.steps() == [2]
    assert seen == {"elsewhere": [2], "read": 2}
    assert fit(tmp_path).store.steps() == [2]  # there is nothing left to train
    assert not (tmp_path / folder_lock.NAME).exists()


class Fail(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise ConnectionError


@pytest.mark.parametrize("kind", ["keras", "ours"])
def test_a_fit_that_failed_holds_nothing(tmp_path, kind):
    def make():
        if kind == "keras":
            return model()
        encoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="code")])
        decoder = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="back")])
        made = ak.VAE(encoder, decoder, seed=0)
        made.compile("sgd")
        return made

    kept = []  # as a notebook keeps it, with its traceback
    with pytest.raises(ConnectionError) as raised:
        fit(tmp_path, Fail(), made=make())
    kept.append(raised)
    held_on = (tmp_path / folder_lock.NAME).exists()
    assert held_on == (kind == "keras")  # ours leaves it to other processes too
    assert fit(tmp_path, made=make()).store.steps() == [2]


def test_a_folder_that_is_never_filled_does_not_stay(tmp_path):
    fit(tmp_path / "run", made=Stopped())
    assert not (tmp_path / "run").exists()


class Stopped(keras.Sequential):
    """Its `fit` has nothing to train."""

    def __init__(self):
        super().__init__([keras.Input((2,)), keras.layers.Dense(1)])
        self.compile("sgd", "mse")

    def fit(self, *arguments, **options):
        return super().fit(*arguments, **options, epochs=0)


# Folders of runs

RESERVE = """
import os, sys
os.environ["KERAS_BACKEND"] = "jax"
from artifex_keras.shell import folder as folders

def child(gate, answers):
    gate.wait()
    with folders.lock_new_folder("vae") as first, folders.lock_new_folder("vae", "mine") as second:
        with folders.unused_stem(folders.Path("samples")) as stem:
            stem.with_suffix(".npy").touch()
        found = folders.numbered_folder("gan"), first.folder, second.folder, stem
        answers.put(tuple(map(str, found)))
        gate.wait()  # nobody goes before all are there

import multiprocessing
context = multiprocessing.get_context("fork")
gate, answers = context.Barrier(6), context.Queue()
children = [context.Process(target=child, args=(gate, answers), daemon=True) for _ in range(6)]
for each in children:
    each.start()
for _ in children:
    print(*answers.get(timeout=60))
for each in children:
    each.join()
"""


@pytest.mark.backends("jax")
def test_processes_that_start_together_get_folders_of_their_own(tmp_path):
    (tmp_path / "mine").mkdir()  # empty: one may have it
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RESERVE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = [set(row) for row in zip(*map(str.split, done.stdout.splitlines()), strict=True)]
    numbers = range(1, 7)
    assert found[0] == {f"runs/gan-{n}" for n in numbers}
    assert found[1] == {f"runs/vae-{n}" for n in numbers}
    assert found[2] == {"mine", *(f"mine-{n}" for n in numbers if n > 1)}
    assert found[3] == {f"samples-{n}" for n in numbers}
    assert not list(tmp_path.glob(".*"))


SECRET = "sk-proj-abcdef0123456789"
WAYS = {
    "a script": ["train.py", "--api-key", SECRET, f"https://u:{SECRET}@host"],
    "a command": ["-c", f"key={SECRET!r}; from train import *"],
    "a module": ["-m", "train", f"--token={SECRET}"],
    "options of Python": ["-X", f"key={SECRET}", "-W", "ignore", "train.py", SECRET],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_owner_is_a_program_without_its_arguments(tmp_path, way):
    """Which may hold secrets; a kill would leave them in the file."""
    lines = "from artifex_keras.folder_lock import FolderLock; FolderLock('run').acquire()"
    (tmp_path / "train.py").write_text(f"{LIGHT}\n{lines}; print(open('run/.lock').read())")
    command = [sys.executable, "-S", *WAYS[way]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    owner = json.loads(done.stdout)
    assert owner.keys() == {"pid", "host", "started", "program"} and SECRET not in done.stdout
    assert owner["program"].startswith(Path(sys.executable).name)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]", owner["started"])


@pytest.mark.parametrize("target", ["precious", "missing", "a folder"])
def test_a_lock_is_never_written_through_a_link(tmp_path, target):
    (tmp_path / "precious").write_text("keys")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / folder_lock.NAME).symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match="run/.lock' is a link, and a lock never is one"):
        FolderLock(tmp_path / "run").acquire()
    assert (tmp_path / "precious").read_text() == "keys" and not (tmp_path / "missing").exists()
