"""What `import artifex_keras` adds to `import keras`, each in a fresh interpreter."""

import os
import subprocess
import sys

from benchmarks.measure import spread

__all__ = ["GOAL", "measured"]

GOAL = 0.15  # seconds

PROGRAM = """
import time
times = []
for name in {names}:
    began = time.perf_counter(), time.process_time()
    __import__(name)
    times += [time.perf_counter() - began[0], time.process_time() - began[1]]
print(*times)
"""


def seconds(*names):
    """How long the imports take, one after the other, in a fresh interpreter: wall and CPU of the
    first, wall and CPU of the second."""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", PROGRAM.format(names=names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [float(part) for part in done.stdout.split()]


def measured(rounds):
    """Seconds of both imports, and what ours takes once `keras` is there."""
    seconds("keras", "artifex_keras")  # files into the page cache, byte code written
    keras, ours, added = [], [], []
    for _ in range(rounds):
        keras.append(seconds("keras"))
        ours.append(seconds("artifex_keras"))
        added.append(seconds("keras", "artifex_keras")[2:])
    rows = {"import keras": keras, "import artifex_keras": ours, "added after keras": added}
    seconds_of = {
        name: {"wall": spread([t[0] for t in times]), "cpu": spread([t[1] for t in times])}
        for name, times in rows.items()
    }
    return {"seconds": seconds_of, "goal": {"added after keras": GOAL}}
