"""A step on a CPU takes its memory from the process rather than from the kernel."""

import os
import subprocess
import sys
import types

import pytest

pytestmark = pytest.mark.backends("jax")

PROGRAM = """
import os, resource
import keras
import numpy as np
from artifex_keras import models
from artifex_keras.backend.jax.memory import SWITCH, keep_memory

x = np.zeros((1024, 4), "float32")
encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(20_000), keras.layers.Dense(4)])
decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(20_000), keras.layers.Dense(4)])
model = models.VAE(encoder, decoder, seed=0)
model.compile("sgd")
for switch in ("0", "1"):
    os.environ[SWITCH] = switch
    keep_memory.cache_clear()  # as in a new process
    kept = keep_memory()
    model.fit(x, batch_size=1024, epochs=3, verbose=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model.fit(x, batch_size=1024, epochs=10, verbose=0)
    print(kept, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""


def has_glibc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not has_glibc(), reason="glibc alone has mallopt")
@pytest.mark.timeout(180)
def test_a_step_takes_no_pages_from_the_kernel():
    """Faults a step without the switch and then with it, in a process of its own.

    The temporaries are larger than the heap that glibc gives a thread.
    """
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    (off, many), (on, few) = (line.split() for line in done.stdout.splitlines()[-2:])
    assert (off, on) == ("False", "True")
    assert int(many) > 1000
    assert int(few) < int(many) / 10


@pytest.mark.parametrize(
    "variables",
    [
        {"ARTIFEX_KERAS_KEEP_MEMORY": "0"},
        {"MALLOC_ARENA_MAX": "2"},
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"},
    ],
)
def test_settings_of_the_environment_are_left_alone(variables, monkeypatch):
    from artifex_keras.backend.jax import memory

    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # would fail if it were called
    assert memory.keep_memory.__wrapped__() is False and memory.share_one_heap() is False


@pytest.mark.parametrize(
    ("platforms", "plugins", "alone"),
    [("cpu", ["cuda"], True), ("cuda,cpu", [], False), (None, ["cuda"], False), (None, [], True)],
)
def test_a_machine_without_accelerator_is_known_before_jax_begins(
    platforms, plugins, alone, monkeypatch
):
    from artifex_keras.backend.jax import memory

    monkeypatch.setattr(memory.importlib.metadata, "entry_points", lambda group: plugins)
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: None)
    config = types.SimpleNamespace(jax_platforms=platforms)
    monkeypatch.setattr(memory, "jax", types.SimpleNamespace(config=config))
    assert memory._cpu_alone() is alone
