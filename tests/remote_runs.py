"""Runs whose checkpoints lie behind an address, in this process or in one of their own.

`remote_runs.py ADDRESS [PART]` is such a process: it goes on with the run, and says at the end what
came out. With `standin://` the writing of an object with that part in its name takes a minute.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import standin
from resumed import EPOCHS, numbers, outcome, plain

from artifex_keras.callbacks import CheckpointCallback

TESTS = Path(__file__).parent


def fit(address, *callbacks, epochs=EPOCHS, resume="auto", **options):
    """What comes out of a training of `resumed.plain` that is kept at an address."""
    model = plain()
    keep = CheckpointCallback(address, resume=resume, verbose=False, **options)
    x, y = numbers()
    model.fit(x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=[*callbacks, keep])
    return outcome(model)


def straight_run():
    """What comes out of a training that nothing interrupts."""
    model = plain()
    x, y = numbers()
    model.fit(x, y, batch_size=8, epochs=EPOCHS, verbose=0)
    return outcome(model)


def digest(run):
    """A run as a text of which two are the same if the runs are, to the bit."""
    arrays = b"".join(np.ascontiguousarray(array).tobytes() for array in run.state)
    return hashlib.sha256(arrays).hexdigest() + json.dumps([run.epochs, run.history])


@contextlib.contextmanager
def started(address, *part):
    """A process that trains, its output in `stdout`; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, __file__, address, *part],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), *sys.path])},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    keras.utils.disable_interactive_logging()
    if sys.argv[2:]:
        standin.StandIn.slow_at = (sys.argv[2], 60.0)
    print(digest(fit(sys.argv[1], save_every_n_steps=4)), flush=True)
