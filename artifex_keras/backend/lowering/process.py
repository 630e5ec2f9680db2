"""Compiling in a process of its own: for devices that this one, once started, can't show."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from artifex_keras.backend.figures import Figures

__all__ = ["compiled_elsewhere", "has_libtpu"]

SECONDS = 1800  # a large step on many TPUs compiles for minutes
COMMAND = (
    "import pathlib, sys; from artifex_keras.backend.jax.lowering import serve; "
    "serve(pathlib.Path(sys.argv[1]))"
)


def has_libtpu():
    """Whether the compiler for TPUs is installed, `pip install "artifex-keras[tpu]"`."""
    return importlib.util.find_spec("libtpu") is not None


def compiled_elsewhere(programs, platform, axes, topology=None, accelerator=None, seconds=None):
    """The `Figures` of each program, compiled in another process.

    Args:
        programs: of `step_programs`.
        platform: "cpu", which shows as many devices as the mesh has, or "tpu".
        axes: the sizes of the mesh by name.
        topology: of TPUs, `{"topology_name": "v5e:2x4"}` and further options of libtpu; needs no
            TPU.
        accelerator: the same as Google sells it, "v5litepod-8".
        seconds: after which the process is killed, half an hour by default.

    Raises:
        TimeoutError: after so many seconds.
        RuntimeError: for what the compiler doesn't take, with its words.
    """
    from artifex_keras.backend.jax.lowering import exported, places

    with tempfile.TemporaryDirectory() as folder:
        folder, asked = Path(folder), []
        for program in programs:
            file = f"{program.name}.bin"
            (folder / file).write_bytes(exported(program, platform))
            arguments, results = places(program)
            state = program.arguments[0] if program.donated else ()
            donated = sum(len(group) for group in state)
            asked.append(
                {
                    "name": program.name,
                    "file": file,
                    "arguments": arguments,
                    "results": results,
                    "donated": donated,
                }
            )
        request = {"platform": platform, "topology": topology, "axes": axes, "programs": asked}
        (folder / "request.json").write_text(json.dumps(request))
        count = 1
        for size in axes.values():
            count *= size
        _run(folder, _environment(platform, count, accelerator), seconds or SECONDS)
        found = json.loads((folder / "figures.json").read_text())
    return [Figures(**each) for each in found]


def _run(folder, environment, seconds):
    try:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, str(folder)],
            env=environment,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(
            f"The step wasn't compiled after {seconds} seconds. A smaller mesh or a model with "
            "fewer layers compiles sooner, and costs as much per layer and device."
        ) from error
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise RuntimeError(f"The step couldn't be compiled ahead of time:\n{said}")


def _environment(platform, count, accelerator):
    """Variables of this process, but for those that say which devices there are."""
    environment = dict(os.environ)
    flags = environment.get("XLA_FLAGS", "")
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", flags)
    if platform == "cpu":
        flags += f" --xla_force_host_platform_device_count={count}"
    else:
        environment |= {
            "TPU_SKIP_MDS_QUERY": "1",  # nobody to ask where there is no TPU
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_ACCELERATOR_TYPE": accelerator,
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing runs, so nothing is locked
        }
    return environment | {
        "XLA_FLAGS": flags.strip(),
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
