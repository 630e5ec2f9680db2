"""A file of each backend trains on each: all families and algorithms, in real processes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS)] * (__name__ == "__main__")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from algorithms import ALGORITHMS  # noqa: E402
from families import FAMILIES  # noqa: E402

BACKENDS = [n for n in ("jax", "tensorflow", "torch") if importlib.util.find_spec(n)]
ROWS = (*FAMILIES, *ALGORITHMS)


def save(folder):
    """Saves a built and compiled model of each row."""
    for row in ROWS:
        model = row.make(seed=3)
        model.compile(keras.optimizers.Adam(1e-2))
        data = row.arrays(8)
        model.build_from_batch(lambda data=data: data)
        model.build_optimizer()
        model.save(folder / f"{row.name}.keras")


def load(folder):
    """What went wrong with each row, by its name, where it is loaded and trained a step."""
    wrong = {}
    for row in ROWS:
        try:
            model = keras.models.load_model(folder / f"{row.name}.keras")
            new = row.make(seed=3)
            new.compile("adam")
            assert model.jit_compile == new.jit_compile
            logs = model.fit(*row.arrays(8), batch_size=8, verbose=0).history
            assert np.isfinite(logs["loss"][-1]), logs
            steps = {int(v) for v in model.optimizer.variables if "iteration" in v.path}
            assert max(steps) >= 1
        except Exception as error:  # of any kind
            wrong[row.name] = f"{type(error).__name__}: {error}"[:500]
    (folder / f"{keras.backend.backend()}.json").write_text(json.dumps(wrong))


def process(backend, what, folder):
    variables = {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, what, str(folder)]
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder with a folder of files for each backend."""
    folder = tmp_path_factory.mktemp("files")
    for backend in BACKENDS:
        (folder / backend).mkdir()
        process(backend, "save", folder / backend)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(2400)  # the first pair waits for all files
@pytest.mark.skipif(len(BACKENDS) < 2, reason="there is one backend alone")
@pytest.mark.parametrize("there", BACKENDS)
@pytest.mark.parametrize("here", BACKENDS)
def test_a_file_of_one_backend_trains_on_the_other(files, there, here):
    process(here, "load", files / there)
    assert json.loads((files / there / f"{here}.json").read_text()) == {}


if __name__ == "__main__":
    {"save": save, "load": load}[sys.argv[1]](Path(sys.argv[2]))
