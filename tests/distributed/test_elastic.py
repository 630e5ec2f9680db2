"""A run goes on with another number of devices and another layout of its weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent.parent


def part(devices, layout, epochs, folder):
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "NPROC": "32",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    command = [sys.executable, str(TESTS / "distributed/elastic.py"), layout, str(epochs), folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_from_eight_devices_to_four_to_one(tmp_path):
    folder = str(tmp_path / "parts")
    straight = part(1, "none", 3, str(tmp_path / "straight"))
    eight = part(8, "replicated", 1, folder)
    four = part(4, "sharded", 2, folder)
    one = part(1, "none", 3, folder)
    assert eight["shard"] == straight["shard"] and four["shard"][1] * 4 == straight["shard"][1]
    assert len(one["losses"]) == 3 and one["losses"][:2] == four["losses"]
    np.testing.assert_allclose(one["losses"], straight["losses"], rtol=0, atol=1e-5)
