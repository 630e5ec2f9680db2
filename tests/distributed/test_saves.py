"""Two processes with four virtual devices each save one model, each what it holds of it."""

import os
import shutil
from pathlib import Path

import jax
import keras
import numpy as np
import pytest
from distributed.groups import Watch, run_group
from distributed.saver import X, digests, model, spread

from artifex_keras.callbacks import CheckpointCallback, restore_checkpoint
from artifex_keras.callbacks.checkpoint.remote_store import store_in
from artifex_keras.callbacks.checkpoint.store import Store
from artifex_keras.distributed import processes

pytestmark = pytest.mark.backends("jax")

TESTS = Path(__file__).parents[1]
BATCH = 4096  # bytes of a batch, whose checksum is saved, and of messages between processes
SMALL = 8192  # bytes of biases, random states and their like, and of the folder's own files


def saved(folder, **options):
    """What the group found that saved into `folder`, and its lines."""
    watch = Watch()
    code = run_group([str(TESTS / "distributed/saver.py"), str(folder)], watch, **options)
    assert code == 0, "\n".join(watch.lines)
    return watch.results(), watch


@pytest.fixture(autouse=True, scope="module")
def environment(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        places = (Path(processes.__file__).parents[2], TESTS)
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group") / "run"
    return {**saved(folder, max_restarts=0)[0], "folder": folder}


def test_each_process_holds_and_writes_its_half(group):
    whole = group[0]["whole"]
    assert whole > 50 * SMALL
    store = Store(group["folder"])
    assert store.steps() == [8, 6]
    for index in (0, 1):
        assert group[index]["held"] <= 0.55 * whole
        file = store.path(8) / f"process-{index}" / "arrays"
        assert file.stat().st_size <= 0.55 * whole + SMALL
        assert group[index]["gathered"] <= BATCH  # no variable: a kernel is far larger
    assert group[0]["held"] + group[1]["held"] == pytest.approx(whole, abs=SMALL)


@pytest.mark.parametrize("shape", [None, (2, 2), (4, 2), (1, 8)], ids=str)
def test_it_is_restored_to_the_bit_on_other_devices(group, shape):
    made = restored(group["folder"], shape)
    assert digests(made) == group[0]["digests"] == group[1]["digests"]
    if shape:
        assert len(made.trainable_variables[0].value.sharding.device_set) == np.prod(shape)


def test_without_a_folder_that_all_see_the_first_one_writes(group):
    folder = group["folder"].with_name("run-0")
    assert Store(folder).meta(4)["format"] == 2
    assert not list(group["folder"].with_name("run-1").glob("step-*"))
    assert digests(restored(folder)) == group[0]["apart"]


def restored(folder, shape=None):
    if shape is None:
        made = model()
        restore_checkpoint(made, folder)
        return made
    names = [f"cpu:{device.id}" for device in jax.devices()[: np.prod(shape)]]
    with spread(shape, names).scope():
        made = model()
        restore_checkpoint(made, folder)
    return made


def flipped(group, folder, process):
    """A copy of the checkpoints, with another byte in a file of the newest one."""
    shutil.copytree(group["folder"], folder)
    file = Store(folder).path(8) / f"process-{process}" / "arrays"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return folder


@pytest.mark.parametrize("process", [0, 1])
def test_a_flipped_byte_is_an_error_and_the_one_before_is_taken(group, tmp_path, process):
    folder = flipped(group, tmp_path / "run", process)
    with pytest.raises(ValueError, match=f"8/process-{process} is damaged: .* is not what was"):
        restored(folder)
    keeper = CheckpointCallback(folder, resume="auto", verbose=False)
    with pytest.warns(UserWarning, match=f"process-{process} .* Trying the one before"):
        history = model().fit(X, batch_size=8, epochs=2, verbose=0, callbacks=[keeper])
    assert len(history.history["loss"]) == 2


def test_a_part_that_is_missing_is_an_error(group, tmp_path):
    shutil.copytree(group["folder"], tmp_path / "run")
    shutil.rmtree(Store(tmp_path / "run").path(8) / "process-1")
    with pytest.raises(ValueError, match="process-1/meta/metadata can't be read"):
        restored(tmp_path / "run")


def test_a_part_of_another_save_is_an_error(group, tmp_path):
    shutil.copytree(group["folder"], tmp_path / "run")
    store = Store(tmp_path / "run")
    shutil.rmtree(store.path(8) / "process-1")
    shutil.copytree(store.path(6) / "process-1", store.path(8) / "process-1")
    with pytest.raises(ValueError, match="process-1 is damaged: it isn't of this checkpoint"):
        restored(tmp_path / "run")


SLOW = [pytest.param(place, marks=pytest.mark.slow) for place in ("written", "joined")]


@pytest.mark.parametrize("place", ["writing", *SLOW])
def test_a_kill_inside_a_save_leaves_the_one_before(group, tmp_path, place):
    """A process dies in the second save; the group is started again, and ends as if none had."""
    (tmp_path / "kill").write_text(place)
    found, watch = saved(tmp_path / "run", max_restarts=1)
    assert "; the group was ended" in watch.at("died of SIG")
    for index in (0, 1):
        assert found[index]["at start"] == ["step-00000002"]
        assert found[index]["digests"] == group[0]["digests"]
        assert found[index]["losses"] == group[0]["losses"]
        assert found[index]["gathered"] <= BATCH  # at the resume neither
    left = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    assert left == ["step-00000006", "step-00000008"]


@pytest.mark.slow
def test_a_full_disk_of_one_process_is_a_warning(group, tmp_path):
    (tmp_path / "kill").write_text("full")
    found, watch = saved(tmp_path / "run", max_restarts=0)
    said = [line for line in watch.lines if "of step 4" in line and "could not be written" in line]
    assert len(said) == 2
    assert any("[0]" in line and "process 1 has not written its part" in line for line in said)
    assert any("[1]" in line and "No space left on device" in line for line in said)
    assert found[0]["digests"] == group[0]["digests"]
    assert Store(tmp_path / "run").steps() == [8, 6]


# At an address, where nothing is renamed


@pytest.mark.slow
def test_each_process_writes_its_half_to_an_address(group, tmp_path):
    address = f"standin://{tmp_path}/run"
    found, _ = saved(address, max_restarts=0)
    store = store_in(address)
    assert store.steps() == [8, 6] and ".lock" not in store.folder.files()
    sizes = [(store.path(8) / f"process-{n}/arrays").stat().st_size for n in (0, 1)]
    assert max(sizes) <= 0.55 * group[0]["whole"] + SMALL
    for index in (0, 1):
        assert found[index]["digests"] == group[index]["digests"]
        assert found[index]["losses"] == group[index]["losses"]
        assert found[index]["gathered"] <= BATCH
    assert digests(restored(address)) == group[0]["digests"]
    if len(keras.distribution.list_devices()) == 8:
        assert digests(restored(address, (4, 2))) == group[0]["digests"]
    assert digests(restored(f"{address}-0")) == group[0]["apart"]
    assert store_in(f"{address}-1").steps() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "begin"), [("writing", [2]), ("written", [2]), ("joined", [2, 4])]
)
def test_a_kill_inside_a_save_to_an_address_leaves_the_one_before(group, tmp_path, place, begin):
    """What is joined is a checkpoint there, and nothing else of that save is."""
    (tmp_path / "kill").write_text(place)
    address = f"standin://{tmp_path}/run"
    found, watch = saved(address, max_restarts=1)
    assert "; the group was ended" in watch.at("died of SIG")
    for index in (0, 1):
        assert found[index]["at start"] == [f"step-{step:08d}" for step in begin]
        assert found[index]["digests"] == group[0]["digests"]
        assert found[index]["losses"] == group[0]["losses"]
    assert store_in(address).steps() == [8, 6]
    assert {name.partition("/")[0] for name in store_in(address).folder.files()} == {
        "step-00000006",
        "step-00000008",
    }


@pytest.mark.slow
def test_a_service_that_fails_one_process_is_a_warning(group, tmp_path):
    (tmp_path / "kill").write_text("full")
    address = f"standin://{tmp_path}/run"
    found, watch = saved(address, max_restarts=0)
    said = [line for line in watch.lines if "of step 4" in line and "could not be written" in line]
    assert len(said) == 2
    assert found[0]["digests"] == group[0]["digests"]
    assert store_in(address).steps() == [8, 6]
