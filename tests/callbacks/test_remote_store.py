"""Runs whose checkpoints lie behind an address, on a stand-in for a service."""

import shutil
import signal
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import standin
from remote_runs import fit, started, straight_run
from resumed import Crash, Crashes, assert_same_run, numbers, outcome, plain

from artifex_keras.callbacks import CheckpointCallback, export_checkpoint, restore_checkpoint
from artifex_keras.callbacks.checkpoint.arrays import NamedArray
from artifex_keras.callbacks.checkpoint.newest import newest
from artifex_keras.callbacks.checkpoint.orbax_files import Damaged
from artifex_keras.callbacks.checkpoint.remote_store import RemoteStore, store_in
from artifex_keras.callbacks.checkpoint.store import Store
from artifex_keras.callbacks.checkpoint.writing import Writing
from artifex_keras.folder_lock import FolderInUse
from artifex_keras.remote import RemoteError, RemotePath

LARGE = np.random.default_rng(0).normal(size=(300, 200)).astype("float32")
ARRAYS = [
    NamedArray("model/large", "float32", LARGE),
    NamedArray("model/small", "bfloat16", LARGE[:3, 0].astype("float16")),
    NamedArray("optimizer/steps", "int32", np.array(3, "int32")),
    NamedArray("kept/none", "float32", np.zeros((0, 2), "float32")),
]


@pytest.fixture
def address(tmp_path):
    return f"standin://{tmp_path}/bucket/run"


@pytest.fixture
def broken(monkeypatch):
    """Sets what the stand-in asks before each operation."""
    return lambda function: monkeypatch.setattr(
        standin.StandIn, "broken", function and staticmethod(function)
    )


def files(address):
    """The local file of an object."""
    return Path(address.removeprefix("standin://"))


@pytest.fixture(scope="module")
def straight():
    return straight_run()


# The store alone


def test_an_address_has_a_store_of_its_own(address, tmp_path):
    assert isinstance(store_in(address), RemoteStore)
    assert type(store_in(tmp_path)) is Store


def test_a_checkpoint_comes_back_to_the_bit_and_its_last_object_is_written_last(address):
    store = store_in(address)
    standin.WRITTEN.clear()
    store.save(7, ARRAYS, {"a": 1}, rating=0.5)
    names = [name.partition("step-00000007/")[2] for name in standin.WRITTEN]
    assert names == ["process-0/arrays", "process-0/meta/metadata", "meta/metadata"]
    found, meta = store.load(7)
    assert meta["kept"] == {"a": 1} and meta["rating"] == 0.5 and store.steps() == [7]
    for array, expected in zip(found, ARRAYS, strict=True):
        assert array.name == expected.name and array.dtype == expected.dtype
        assert array.value.dtype == expected.value.dtype
        np.testing.assert_array_equal(array.value, expected.value)


@pytest.mark.parametrize("at", ["process-0/arrays", "process-0/meta/metadata", "7/meta/metadata"])
def test_a_save_that_fails_leaves_no_checkpoint_and_no_object(address, broken, at):
    store = store_in(address)
    store.save(3, ARRAYS, {})
    before = store.folder.files()

    def fail(operation, path):
        if operation == "write" and path.endswith(at):
            raise OSError("Service Unavailable")

    broken(fail)
    with pytest.raises(RemoteError, match="can't be reached: Service Unavailable"):
        store.save(7, ARRAYS, {})
    broken(None)
    assert store.steps() == [3] and store.folder.files() == before


def test_deleting_begins_with_what_makes_it_a_checkpoint(address, broken):
    """So one that is interrupted leaves no checkpoint without its arrays."""
    store = store_in(address, max_to_keep=1)
    store.save(3, ARRAYS, {})

    def fail(operation, path):
        if operation == "delete" and "process-0" in path:
            raise OSError("Service Unavailable")

    broken(fail)
    with pytest.raises(RemoteError):
        store.save(7, ARRAYS, {})
    assert store.steps() == [7] and (store.path(3) / "process-0/arrays").exists()
    broken(None)
    store.sweep()
    assert {name.partition("/")[0] for name in store.folder.files()} == {"step-00000007"}


def test_whole_checkpoints_are_pruned_and_the_best_stay(address):
    store = store_in(address, max_to_keep=2, best_to_keep=1)
    for step, rating in ((1, 0.1), (2, 0.9), (3, 0.2), (4, 0.3), (5, None)):
        store.save(step, ARRAYS, {}, rating)
    assert store.steps() == [5, 4, 2] and store.best() == [2, 4]
    assert len(store.folder.files()) == 3 * 3
    for step in store.steps():
        store.load(step)


def test_a_checkpoint_is_written_anew_over_what_was_there(address):
    store = store_in(address)
    store.save(7, ARRAYS, {"a": 1})
    (store.path(7) / "process-5/arrays").write_bytes(b"old")
    store.save(7, ARRAYS[:1], {"a": 2})
    found, meta = store.load(7)
    assert [array.name for array in found] == ["model/large"] and meta["kept"] == {"a": 2}
    assert not [name for name in store.folder.files() if "process-5" in name]


@pytest.mark.parametrize("name", ["process-0/arrays", "process-0/meta/metadata", "meta/metadata"])
@pytest.mark.parametrize("damage", ["changed", "short", "gone"])
def test_damage_is_found(address, name, damage):
    store = store_in(address)
    store.save(7, ARRAYS, {})
    file = files(address) / "step-00000007" / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "short":
        file.write_bytes(content[:-5])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    if (name, damage) == ("meta/metadata", "gone"):
        assert store.steps() == []
    with pytest.raises(Damaged, match="step-00000007"):
        store.load(7)


def test_a_checkpoint_of_a_local_folder_is_read_when_it_was_copied(address, tmp_path):
    """Orbax has written it, into files that are fetched before it reads them."""
    local = Store(tmp_path / "local")
    local.save(7, ARRAYS, {"a": 1})
    shutil.copytree(local.folder, files(address))
    found, meta = store_in(address).load(7)
    assert meta["format"] == 2 and meta["kept"] == {"a": 1}
    for array, expected in zip(found, ARRAYS, strict=True):
        np.testing.assert_array_equal(array.value, expected.value)


def test_a_checkpoint_that_is_copied_from_there_is_read_here(address, tmp_path):
    store_in(address).save(7, ARRAYS, {"a": 1})
    shutil.copytree(files(address), tmp_path / "local")
    found, _ = Store(tmp_path / "local").load(7)
    np.testing.assert_array_equal(found[0].value, LARGE)


# Runs


def test_a_crashed_run_goes_on_to_the_bit(address, straight):
    with pytest.raises(Crash):
        fit(address, Crashes(1, 3), save_every_n_steps=2)
    Writing.finish(RemotePath(address))
    assert store_in(address).steps()[0] == 6
    assert_same_run(fit(address), straight)


def test_a_damaged_checkpoint_is_skipped_with_a_warning(address, straight):
    fit(address, epochs=2)
    steps = store_in(address).steps()
    file = files(address) / f"step-{steps[0]:08d}/process-0/arrays"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"step-{steps[0]:08d}.*Trying the one before"):
        run = fit(address)
    assert_same_run(run, straight)


@pytest.mark.parametrize(
    ("operation", "name"),
    [("read", "arrays"), ("read", "meta/metadata"), ("info", "arrays"), ("ls", ""), ("ls", "meta")],
)
def test_a_network_that_fails_is_no_damage(address, broken, operation, name):
    """The run is neither set back to an earlier checkpoint nor begun anew."""
    store = store_in(address)
    store.save(3, ARRAYS, {})
    store.save(7, ARRAYS, {})

    def fail(asked, path):
        if asked == operation and path.endswith(name):
            raise OSError("Service Unavailable")

    broken(fail)
    with pytest.raises(RemoteError, match="Service Unavailable"):
        newest(store)
    with pytest.raises(RemoteError, match="Service Unavailable"):
        fit(address)
    broken(None)
    assert store.steps() == [7, 3]


def test_a_save_that_fails_is_a_warning_and_the_run_goes_on(address, broken, straight):
    def fail(operation, path):
        if operation == "write" and path.endswith("arrays"):
            raise OSError("Quota exceeded")

    broken(fail)
    with pytest.warns(UserWarning, match="step 5 in '.*' could not be written: .*Quota exceeded"):
        run = fit(address)
    assert_same_run(run, straight)


def test_without_rights_a_run_does_not_begin(address, broken):
    def fail(operation, path):
        raise OSError("Anonymous caller does not have access")

    broken(fail)
    with pytest.raises(RemoteError, match="Anonymous caller does not have access"):
        fit(address)


def test_a_second_run_is_refused_and_the_folder_is_free_afterwards(address):
    class Second(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            with pytest.raises(FolderInUse, match="in use by this process"):
                keep = CheckpointCallback(address)
                model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
                model.compile("sgd", "mse")
                model.fit(*numbers(8), verbose=0, callbacks=[keep])
            self.asked = True

    second = Second()
    fit(address, second, epochs=1)
    assert second.asked and ".lock" not in RemotePath(address).files()
    fit(address, epochs=2)


def lose(address):
    """Lets the lock be another run's."""
    lock = files(address) / ".lock"
    lock.write_text(lock.read_text().replace('"token": "', '"token": "not-'))


def test_a_run_that_lost_its_folder_changes_nothing_there(address):
    other = files(address) / "step-00000009/process-0/arrays"  # of the run that has it now

    class Lose(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                lose(address)
                other.parent.mkdir(parents=True)
                other.write_bytes(b"1234")
                standin.WRITTEN.clear()

    with pytest.warns(UserWarning, match="could not be written: The folder .* is in use by"):
        fit(address, Lose(), asynchronous=False)
    assert store_in(address).steps() == [5] and standin.WRITTEN == []
    assert other.read_bytes() == b"1234" and (files(address) / ".lock").exists()


def test_a_run_that_loses_its_folder_within_a_save_completes_none(address, broken):
    def fail(operation, path):
        if operation == "write" and path.endswith("10/process-0/meta/metadata"):
            lose(address)

    broken(fail)
    with pytest.warns(UserWarning, match="could not be written: The folder .* is in use by"):
        fit(address, asynchronous=False)
    assert store_in(address).steps() == [5]


def test_a_failing_service_lets_no_process_wait_for_ever(address, broken):
    """What fails within a meeting of processes, or in the sweep after it, is the save's error."""
    store = store_in(address)

    def fail(operation, path):
        if operation != "info":
            raise OSError("Service Unavailable")

    broken(fail)
    with pytest.raises(RemoteError, match="Service Unavailable"):
        store.save_part(7, ARRAYS, {})
    broken(None)
    store.save_part(7, ARRAYS, {})
    assert store.steps() == [7]


def test_an_earlier_run_is_set_aside(address):
    fit(address, epochs=2)
    standin.WRITTEN.clear()
    fit(address, epochs=1, resume="never")
    moved = [name.partition("earlier-1/")[2] for name in standin.WRITTEN if "earlier-1" in name]
    assert [moved.index(f"step-{n:08d}/meta/metadata") for n in (10, 5)] == [2, 5]
    fit(address, epochs=1, resume="never")
    assert store_in(address).steps() == [5]
    assert store_in(f"{address}/earlier-1").steps() == [10, 5]
    assert store_in(f"{address}/earlier-2").steps() == [5]
    store_in(f"{address}/earlier-1").load(10)


def test_it_is_restored_and_exported_from_there(address, tmp_path):
    run = fit(address)
    model = plain()
    assert restore_checkpoint(model, address) == 15
    for a, b in zip(outcome(model).state, run.state, strict=True):
        np.testing.assert_array_equal(a, b)
    path = export_checkpoint(address, tmp_path / "model.keras")
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    with pytest.raises(ValueError, match=r"no checkpoint 7 in 'standin.*There are: \[15, 10, 5\]"):
        restore_checkpoint(model, address, 7)


@pytest.mark.quick(1)
@pytest.mark.parametrize("at", ["8/meta", "8/process-0/meta", "8/process-0/arrays"])
def test_a_run_that_is_killed_within_a_save_goes_on_from_the_one_before(address, at, straight):
    """In a process of its own, and another one goes on."""
    with started(address, at) as process:
        for line in process.stdout:
            if line.startswith("writing"):
                break
        else:
            raise AssertionError("it ended by itself")
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = [name for name in RemotePath(address).files() if name.startswith("step-00000008")]
    assert len(left) == ["8/process-0/arrays", "8/process-0/meta", "8/meta"].index(at)
    assert ".lock" in RemotePath(address).files()
    assert store_in(address).steps() == [5, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run = fit(address)
    assert_same_run(run, straight)
    assert store_in(address).steps() == [15, 10, 5, 4]
    assert ".lock" not in RemotePath(address).files()
