"""Who a process is as schedulers say it, two that find each other by it, and the recipes."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from artifex_keras.distributed import processes
from artifex_keras.distributed.clusters import Member, has_others, member_of

pytestmark = pytest.mark.backends("jax")

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "docs" / "recipes"

SLURM = {
    **{"SLURM_JOB_ID": "5000", "SLURM_NTASKS": "4", "SLURM_PROCID": "3"},
    **{"SLURM_STEP_NODELIST": "node[007-009,012],other", "SLURM_STEP_NUM_NODES": "4"},
}
SKYPILOT = {
    **{"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5", "SKYPILOT_NUM_NODES": "2"},
    **{"SKYPILOT_NODE_RANK": "1"},
}


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node[007-009,012],other", "node007"),
        ("node[3,5]", "node3"),
        ("gpu-1,gpu-2", "gpu-1"),
        ("alone", "alone"),
        ("rack[1-2]-a", "rack1-a"),
    ],
)
def test_the_first_host_of_slurm(hosts, first):
    found = member_of({**SLURM, "SLURM_STEP_NODELIST": hosts})
    assert found == Member(f"{first}:{61440 + 5000 % 4096}", 4, 3)


def test_slurm_says_what_jax_reads_of_it():
    from jax._src.clusters.slurm_cluster import SlurmCluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in SLURM.items():
            patch.setenv(name, value)
        found = member_of(os.environ)
        assert found.coordinator == SlurmCluster.get_coordinator_address(None, None)
        assert found.count == SlurmCluster.get_process_count()
        assert found.index == SlurmCluster.get_process_id()


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_STEP_NUM_NODES": "2"},  # several tasks a host: each has a GPU, as JAX gives them
        {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_NODES": "1"},
    ],
)
def test_what_is_left_to_jax_or_alone(changes):
    assert member_of({**SLURM, **changes}) is None


def test_skypilot():
    assert member_of(SKYPILOT) == Member("10.0.0.4:8476", 2, 1)
    assert member_of({**SKYPILOT, "JAX_COORDINATOR_PORT": "99"}).coordinator == "10.0.0.4:99"
    assert member_of({**SKYPILOT, "SKYPILOT_NUM_NODES": "1"}) is None
    with pytest.raises(ValueError, match="SKYPILOT_NODE_RANK must hold a number. Received: .*'x'"):
        member_of({**SKYPILOT, "SKYPILOT_NODE_RANK": "x"})


@pytest.mark.parametrize(
    ("environment", "others"),
    [
        ({}, False),
        (SLURM, True),
        (SKYPILOT, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_whether_there_are_others(environment, others):
    assert has_others(environment) is others


def test_what_is_given_comes_first_and_several_hosts_need_a_secret(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="on several hosts need a secret"):
        processes.initialize()
    with pytest.raises(ValueError, match="`coordinator` must be"):
        processes.initialize("nowhere", 2, 0)


# Two processes

LOSSES = """
import keras
import numpy as np
import artifex_keras as ak


def losses():
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    with ak.distributed.data_parallel().scope():
        encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
        decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
        model = ak.VAE(encoder, decoder, seed=1)
        model.compile(keras.optimizers.SGD(0.01))
        return model.fit(x, batch_size=8, epochs=2, verbose=0).history["loss"]
"""
TRAIN = """
import json
from artifex_keras.backend import processes

ak.distributed.initialize(initialization_timeout=100)
devices = len(keras.distribution.list_devices())
print(json.dumps([processes.count(), processes.index(), devices, losses()]))
"""


def variables_of(scheduler, index, port):
    """What that scheduler sets in the process `index` of two on this host."""
    if scheduler == "slurm":
        found = {**SLURM, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
        found |= {"SLURM_STEP_NODELIST": "localhost,other", "SLURM_LOCALID": "0"}
        return {**found, "SLURM_PROCID": str(index), "JAX_COORDINATOR_PORT": port}
    if scheduler == "skypilot":
        found = {**SKYPILOT, "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2"}
        return {**found, "SKYPILOT_NODE_RANK": str(index), "JAX_COORDINATOR_PORT": port}
    found = {processes.ADDRESSES: f"127.0.0.1:{port}", processes.COUNT: "2"}
    return {**found, "JOB_COMPLETION_INDEX": str(index)}


@pytest.mark.parametrize(
    "scheduler",
    [
        "slurm",
        pytest.param("skypilot", marks=pytest.mark.slow),
        pytest.param("jobset", marks=pytest.mark.slow),
    ],
)
def test_two_processes_find_each_other_and_train(scheduler, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(LOSSES + TRAIN)
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = str(door.getsockname()[1])
    base = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    base |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "NPROC": "8"}
    base |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    members = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={**base, **variables_of(scheduler, index, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    try:
        outputs = [member.communicate(timeout=200) for member in members]
    finally:
        for member in members:
            member.kill()
    assert [member.returncode for member in members] == [0, 0], outputs[0][1] + outputs[1][1]
    found = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    # All devices of both: left to itself, JAX takes one of each on Slurm.
    assert [each[:3] for each in found] == [[2, 0, 4], [2, 1, 4]]
    alone = {}
    exec(LOSSES, alone)
    for *_, losses in found:
        np.testing.assert_allclose(losses, alone["losses"](), rtol=1e-5)


# Recipes


STUB = """#!/bin/bash
printf "%s\\0" "$@" > "$SEEN/words"
env -0 > "$SEEN/env"
echo >> "$SEEN/calls"
[ "$(wc -l < "$SEEN/calls")" -gt "${FAILS:-0}" ]
"""


def dry_run(recipe, tool, tmp_path, *arguments, **variables):
    """What a recipe starts: the words of its last call of `tool`, and the variables it sets."""
    stub = tmp_path / tool
    stub.write_text(STUB)
    stub.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    command = ["bash", str(RECIPES / recipe), *arguments]
    environment = {"PATH": path, "SEEN": str(tmp_path), **variables}
    subprocess.run(command, env=environment, check=True, timeout=60)
    words = (tmp_path / "words").read_text().split("\0")[:-1]
    pairs = (tmp_path / "env").read_text().split("\0")[:-1]
    return words, dict(pair.split("=", 1) for pair in pairs)


@pytest.mark.parametrize("recipe", ["slurm.sh", "xpk.sh"])
def test_shell_recipes_are_bash(recipe):
    subprocess.run(["bash", "-n", str(RECIPES / recipe)], check=True)


def test_the_recipe_of_slurm(tmp_path):
    words, environment = dry_run("slurm.sh", "srun", tmp_path, "train.py", "--epochs", "3")
    assert words == ["--kill-on-bad-exit=1", "python3", "train.py", "--epochs", "3"]
    assert len(environment["ARTIFEX_KERAS_SECRET"]) == 64
    assert environment["KERAS_BACKEND"] == "jax"
    text = (RECIPES / "slurm.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.M))
    assert options["ntasks-per-node"] == "1" and options["signal"].startswith("TERM@")


def test_the_recipe_of_slurm_starts_again_what_died(tmp_path):
    dry_run("slurm.sh", "srun", tmp_path, "train.py", FAILS="3")
    assert len((tmp_path / "calls").read_text()) == 4
    with pytest.raises(subprocess.CalledProcessError):
        dry_run("slurm.sh", "srun", tmp_path, "train.py", FAILS="99")


def test_the_recipe_of_xpk(tmp_path):
    variables = {"CLUSTER": "c", "IMAGE": "i"}
    words, _ = dry_run("xpk.sh", "xpk", tmp_path, "train.py", "--epochs", "3", **variables)
    assert words[:2] == ["workload", "create"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert set(options) == {
        *("--cluster", "--workload", "--tpu-type", "--num-slices", "--max-restarts"),
        *("--docker-image", "--env", "--command"),
    }
    assert shlex.split(options["--command"]) == ["python3", "train.py", "--epochs", "3"]
    from artifex_keras.planning.chips import target_of

    assert target_of("tpu:v5e-256").accelerator == options["--tpu-type"]


# Fields of the APIs that the recipes use, by where they stand (jobset.x-k8s.io/v1alpha2, batch/v1).
JOBSET = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"coordinator", "failurePolicy", "replicatedJobs", "network", "successPolicy"},
    "coordinator": {"replicatedJob", "jobIndex", "podIndex"},
    "job": {"name", "replicas", "template"},
    "batch": {"completionMode", "parallelism", "completions", "backoffLimit", "template"},
    "pod": {"restartPolicy", "terminationGracePeriodSeconds", "containers", "volumes"},
    "container": {"name", "image", "command", "env", "ports", "resources", "volumeMounts"},
}


def test_the_recipe_of_jobset():
    made = yaml.safe_load((RECIPES / "jobset.yaml").read_text())
    (job,) = made["spec"]["replicatedJobs"]
    batch = job["template"]["spec"]
    pod = batch["template"]["spec"]
    (container,) = pod["containers"]
    places = {"": made, "spec": made["spec"], "coordinator": made["spec"]["coordinator"]}
    places |= {"job": job, "batch": batch, "pod": pod, "container": container}
    for name, place in places.items():
        assert set(place) <= JOBSET[name], name
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert made["spec"]["coordinator"]["replicatedJob"] == job["name"]
    assert batch["completionMode"] == "Indexed"
    variables = {entry["name"]: entry for entry in container["env"]}
    assert list(variables).index("COORDINATOR") < list(variables).index(processes.ADDRESSES)
    assert variables[processes.ADDRESSES]["value"] == "$(COORDINATOR):8476"
    assert int(variables[processes.COUNT]["value"]) == batch["completions"] == batch["parallelism"]
    assert processes.SECRET in variables and processes.INDEX not in variables
    claims = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == claims


def test_the_recipe_of_skypilot():
    made = yaml.safe_load((RECIPES / "skypilot.yaml").read_text())
    assert set(made) <= {
        *("name", "resources", "num_nodes", "workdir", "envs", "secrets", "file_mounts"),
        *("setup", "run"),
    }
    assert made["num_nodes"] == 2 and made["secrets"] == {processes.SECRET: None}
    for script in (made["setup"], made["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert keras.config.backend() == made["envs"]["KERAS_BACKEND"]
