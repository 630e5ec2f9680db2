"""Two real processes with four virtual devices each train one model, and one of them may die."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from distributed.groups import PATIENCE, Watch, run_group

from artifex_keras.distributed import processes
from artifex_keras.distributed.launcher import launch

pytestmark = pytest.mark.backends("jax")

MEMBER = Path(__file__).parent / "member.py"


@pytest.fixture(autouse=True, scope="module")
def environment(tmp_path_factory):
    """Members find the package, and compile what others have compiled no second time."""
    with pytest.MonkeyPatch.context() as patch:
        places = (Path(processes.__file__).parents[2], MEMBER.parents[1])
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


def grouped(task, folder, watch, patience=PATIENCE, **options):
    """The exit code of a group of two at a task."""
    return run_group([str(MEMBER), task, str(folder)], watch, patience, **options)


def alone(task, folder, patience=PATIENCE):
    command = [sys.executable, str(MEMBER), task, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    watch = Watch()
    assert grouped("basics", folder, watch, max_restarts=0) == 0, "\n".join(watch.lines)
    return {**watch.results(), "folder": folder}


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return alone("reference", tmp_path_factory.mktemp("single"))


def test_the_processes_know_each_other_and_draw_the_same(group):
    assert group[0]["processes"] == group[1]["processes"] == 2
    assert group[0]["drawn"] == group[1]["drawn"]


@pytest.mark.slow
def test_rollouts_on_a_mesh_of_their_own_equal_one_process(tmp_path):
    """Rows, tokens and weights pass from one process to the other; their sums are those of one."""
    watch = Watch()
    assert grouped("rollouts", tmp_path, watch, max_restarts=0) == 0, "\n".join(watch.lines)
    found, expected = watch.results(), alone("rollouts", tmp_path)
    for one in (found[0], found[1]):
        assert one["reward"] == pytest.approx(expected["reward"], abs=1e-6)
        assert one["entropy"] == pytest.approx(expected["entropy"], abs=1e-5)
        assert one["evaluated"] == pytest.approx(expected["evaluated"], abs=1e-6)


@pytest.mark.slow
def test_groups_of_devices_equal_one_process(tmp_path):
    """Rows lie over the axis for FSDP first, so that a process has some of each part of a batch."""
    watch = Watch()
    assert grouped("groups", tmp_path, watch, max_restarts=0) == 0, "\n".join(watch.lines)
    expected = alone("groups", tmp_path)
    for found in watch.results().values():
        for name, run in expected.items():
            np.testing.assert_allclose(found[name]["losses"], run["losses"], rtol=1e-5)
            for one, other in zip(found[name]["weights"], run["weights"], strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)


SOURCES = ["arrays", "PyDataset", "grain", "tf.data", "generator", "own", "shard"]


@pytest.mark.parametrize("source", SOURCES)
def test_fit_equals_one_process(group, single, source):
    if source == "tf.data" and importlib.util.find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed")
    expected = single[source if source in single else "PyDataset"]
    for index in (0, 1):
        found = group[index][source]
        np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=1e-5)
        for mine, theirs in zip(found["weights"], expected["weights"], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("measured", ["evaluated", "predicted"])
def test_so_does_what_is_read_from_it(group, single, measured):
    for index in (0, 1):
        np.testing.assert_allclose(group[index][measured], single[measured], rtol=1e-5, atol=1e-5)


def test_data_that_end_in_one_process_end_the_epoch_in_all(group):
    assert group[0]["uneven"] == group[1]["uneven"] == 1


def test_own_rows_that_end_in_one_process_end_the_epoch_in_all(group):
    assert group[0]["fewer"] == group[1]["fewer"] == 3


UNEVEN = {
    "counts": "as many batches. Received: [2, 3]",
    "short": "Received: [4, 2] rows, by process, in batch 3",
    "last": "Received: [4, 3] rows, by process, in batch 4",
}


@pytest.mark.parametrize("kind", UNEVEN)
def test_uneven_rows_are_an_error_in_all(group, kind):
    for index in (0, 1):
        assert UNEVEN[kind] in group[index][kind]


def test_a_batch_that_one_process_cannot_make_is_an_error_in_all(group):
    assert group[1]["fails"] == "OSError: no picture 2"
    said = "RuntimeError: Process 1 could not make batch 3: OSError: no picture 2"
    assert group[0]["fails"] == said


CARELESS = {  # what the other process says, and the one that has the odd data
    "fails within": ("Process 1 could not make batch 3: OSError: no picture 2", "no picture 2"),
    "fails within, of common rows": (
        "Process 1 could not make batch 3: OSError: no picture 2",
        "no picture 2",
    ),
    "short within": ("Received: [4, 2] rows, by process, in batch 3",) * 2,
    "no batch": ("as many batches. Received: [2, 0]",) * 2,
    "nothing": ("Process 1 can't read its own rows: ValueError: When passing", "must yield"),
}


@pytest.mark.parametrize("data", CARELESS)
def test_careless_data_of_one_process_are_an_error_in_all(group, data):
    """Within an epoch, too, where the others would wait in the step for ever."""
    for index, said in enumerate(CARELESS[data]):
        assert said in group[index]["careless"][data]


def test_of_arrays_each_process_takes_its_own_rows(group):
    """But for the first batch of a pass, which is compared."""
    whole = [float(row) for row in range(8)]
    for index in (0, 1):
        first, *rest = group[index]["taken"]
        own = [8 * batch + 4 * index + row for batch in range(3) for row in range(4)]
        assert first == whole and sum(rest, []) == own
        assert sum(map(len, group[index]["taken shuffled"])) == 8 + 12
    both = [sum(group[index]["taken shuffled"][1:], []) for index in (0, 1)]
    assert sorted(sum(both, [])) == [float(row) for row in range(24)]


def test_shards_of_grain_go_on_where_they_were(group):
    assert group[0]["resumed"] == group[1]["resumed"] == group[0]["shard"]


def test_data_that_are_others_in_each_process_are_refused(group):
    assert "All processes must have the same batches" in group[0]["other data"]
    assert group[0]["other data"] == group[1]["other data"]


def test_metrics_are_weighted_by_uneven_shards(group, single):
    for index in (0, 1):
        assert group[index]["mean"] == (1 * 1.0 + 3 * 5.0) / 4
        assert group[index]["sum"] == [1, 1, 1] and group[index]["max"] == 5.0
        assert group[index]["empty"] == 2.0
        assert "of the same shapes" in group[index]["shapes"]
    assert single["mean"] == 2.5


def test_an_error_of_the_first_is_one_of_all(group):
    assert group[0]["error"] == group[1]["error"] == "IndexError: pop from empty list"


def test_one_process_writes(group):
    rows = (group["folder"] / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3", "4"]


def test_a_run_that_is_stopped_and_killed_goes_on_to_the_bit(group, tmp_path):
    """SIGTERM to the launcher; then a start in which a process is killed."""
    stop = Watch({r"\[1\] pid \d+ step 2": lambda match: os.kill(os.getpid(), signal.SIGTERM)})
    grouped("train", tmp_path, stop)
    stopped = stop.results()
    assert stopped[0] == stopped[1] and stopped[0]["interrupted"] == "SIGTERM"
    assert 2 <= stopped[0]["step"] < 16

    kill = Watch({r"\[1\] pid (\d+) step": None, "died": lambda match: None})
    kill.on[r"\[1\] pid (\d+) step"] = lambda match: os.kill(int(match[1]), signal.SIGKILL)
    assert grouped("train", tmp_path, kill) == 0, "\n".join(kill.lines)
    assert "Process 1 died of SIGKILL" in kill.at("died")
    assert kill.times["died"] - kill.times[r"\[1\] pid (\d+) step"] < 15
    assert "(1/3)" in kill.at("again")
    assert set(kill.results().values()) == {group[0]["straight"]} == {group[1]["straight"]}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_families_and_algorithms_equal_one_process(tmp_path):
    """Some of them; with ARTIFEX_KERAS_ROWS=all in the environment every one."""
    watch = Watch()
    code = grouped("rows", tmp_path, watch, patience=1800.0, max_restarts=0)
    assert code == 0, "\n".join(watch.lines)
    expected = alone("rows", tmp_path, patience=1800.0)
    for found in watch.results().values():
        assert found.keys() == expected.keys()
        for name, losses in expected.items():
            np.testing.assert_allclose(found[name], losses, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_run_of_the_command_goes_on_in_its_folder(tmp_path):
    """A process is killed after the first checkpoint; the history equals that of a straight run."""
    command = ["train", "vae", "--data", "digits", "--epochs", "4", "--seed", "0"]
    command += ["--set", "save_every_n_steps=10", "--output"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert launch([*command, str(straight)], 2, devices_per_process=2, say=Watch()) == 0

    def kill(match):
        def wait_and_kill():
            while not list(killed.glob("checkpoints/step-*")):
                time.sleep(0.05)
            os.kill(int(match[1]), signal.SIGKILL)

        threading.Thread(target=wait_and_kill).start()

    watch = Watch({r"as .*1: (\d+)": kill})
    assert launch([*command, str(killed)], 2, devices_per_process=2, say=watch) == 0
    assert "Process 1 died of SIGKILL" in watch.at("died")
    for name in ("history.csv", "model.keras"):
        assert (killed / name).exists()
    assert (killed / "history.csv").read_text() == (straight / "history.csv").read_text()


@pytest.mark.slow
def test_a_death_is_noticed_without_a_launcher(tmp_path):
    """By the heartbeat: the survivor isn't even waiting for it."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{door.getsockname()[1]}"
    members = []
    for index in (0, 1):
        variables = {processes.ADDRESSES: address, processes.COUNT: "2"}
        variables |= {processes.INDEX: str(index), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, str(MEMBER), "idle", str(tmp_path)]
        member = subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
        )
        members.append(member)
    try:
        for member in members:
            while "idle" not in member.stdout.readline():
                assert member.poll() is None
        members[1].kill()
        began = time.monotonic()
        assert members[0].wait(timeout=50) == -signal.SIGABRT
        assert time.monotonic() - began < 15
    finally:
        for member in members:
            member.kill()
            member.communicate()


# What doesn't begin


def test_a_port_in_use_is_said():
    with socket.socket() as door:
        door.bind(("", 0))
        door.listen()
        port = door.getsockname()[1]
        with pytest.raises(ValueError, match=f"choose another. Received.*{port}"):
            processes.initialize(f"127.0.0.1:{port}", 2, 0, initialization_timeout=1)


def test_a_process_that_never_arrives_is_named():
    with socket.socket() as door:
        door.bind(("", 0))
        port = door.getsockname()[1]
    errors = {}

    def come(index):
        try:
            processes.initialize(f"127.0.0.1:{port}", 3, index, initialization_timeout=2)
        except TimeoutError as error:
            errors[index] = str(error)

    members = [threading.Thread(target=come, args=(index,)) for index in (0, 1)]
    for member in members:
        member.start()
    for member in members:
        member.join()
    assert "2 of 3 processes came within 2 s: missing 2" in errors[0]
    assert "Process 1 of 3" in errors[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("localhost", 2, 0), "`coordinator` must be"),
        (("127.0.0.1:8476", 2, 2), "`process_id` must be below"),
        (("127.0.0.1:8476", 0, 0), "`num_processes` must be an integer"),
    ],
)
def test_bad_arguments_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        processes.initialize(*arguments)


def test_a_launcher_needs_a_command():
    with pytest.raises(ValueError, match="nothing to launch"):
        launch([], 2)
    with pytest.raises(ValueError, match="num_processes"):
        launch(["train"], 0)


def test_a_command_asked_for_wrongly_is_not_started_again(tmp_path):
    script = tmp_path / "wrong.py"
    script.write_text("import sys; print('no'); sys.exit(2)")
    watch = Watch()
    assert launch([str(script)], 2, say=watch) == 2
    printed = [line for line in watch.lines if not line.startswith("Started")]
    assert printed and sorted(printed) == sorted({"[0] no", "[1] no"} & {*printed})  # once each


def test_a_group_that_always_dies_is_given_up(tmp_path):
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, time\n"
        "if os.environ['KERAS_DISTRIBUTION_PROCESS_ID'] == '1': os.kill(os.getpid(), 6)\n"
        "time.sleep(60)"
    )
    watch = Watch()
    assert launch([str(script)], 2, max_restarts=1, say=watch) == 128 + signal.SIGABRT
    assert watch.lines[1] == "Process 1 died of SIGABRT; the group was ended."
    assert watch.lines[-1] == "Given up after 1 restarts."
