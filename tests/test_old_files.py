"""Files of an earlier version: they load, give the numbers they gave, and training goes on.

`python tests/test_old_files.py VERSION` writes such files by the code that is there. An archive
that stands in `old_files` is never written again: it stands for the files that people have.
"""

import os
import sys
import tarfile
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path[:0] = [str(Path(__file__).parent)] * (__name__ == "__main__")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from algorithms import ALGORITHMS  # noqa: E402
from families import FAMILIES  # noqa: E402

from artifex_keras.callbacks import CheckpointCallback, restore_checkpoint  # noqa: E402

ARCHIVES = Path(__file__).parent / "old_files"
ROWS = {row.name: row for row in (*FAMILIES, *ALGORITHMS)}
CHECKPOINTS = ["vae-everything", "gan", "diffusion", "autoregressive", "grpo"]
# Of several minibatches the files hold the plain mean; now each weighs by its actions.
WEIGHED_NOW = {
    "grpo-everything": ("loss", "approx_kl", "clip_fraction"),
    "ppo": ("loss", "value_loss", "clip_fraction"),
}
# Random numbers are those of the backend.
pytestmark = pytest.mark.backends("jax")


def compiled(row):
    model = row.make(seed=3)
    model.compile(keras.optimizers.Adam(1e-2))
    return model


def fitted(model, row, epochs=1, **options):
    """The history of epochs of one batch."""
    options = {"batch_size": 16, "epochs": epochs, "verbose": 0, "shuffle": False, **options}
    history = model.fit(*row.arrays(16), **options).history
    return {name: np.float64(values[-1]) for name, values in history.items()}


def sampled(model, row):
    """Eight samples of a family, the weights of an algorithm's policy."""
    if hasattr(row, "sample"):
        return row.sample(model, 8, 5)
    return np.concatenate([np.ravel(w) for w in model.policy.get_weights()])


def numbers(model, row):
    """What `model` gives, and the logs of its next step."""
    return {"sample": sampled(model, row), **fitted(model, row)}


def write(folder):
    """`NAME.keras`, `NAME.weights.h5` and a checkpoint of models after a step, and `NAME.npz` with
    the numbers of each."""
    for name, row in ROWS.items():
        model = compiled(row)
        fitted(model, row)
        model.save(folder / f"{name}.keras")
        if name in CHECKPOINTS:
            model.save_weights(folder / f"{name}.weights.h5")
        np.savez(folder / f"{name}.npz", **numbers(model, row))
    for name in CHECKPOINTS:
        row, model = ROWS[name], compiled(ROWS[name])
        fitted(model, row, callbacks=[CheckpointCallback(folder / name, verbose=False)])
        np.savez(folder / f"{name}.resumed.npz", **numbers(model, row))


@pytest.fixture(
    scope="module", params=sorted(ARCHIVES.glob("*.tar.xz")), ids=lambda path: path.name[:-7]
)
def files(request, tmp_path_factory):
    """The folder with the files of a version."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    return folder


def assert_same(found, expected):
    """Equal but for what another processor rounds differently."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


YOUNGER = ("reward-model", "process-reward-model", "distillation", "sft")  # than those of 0.1.0


@pytest.mark.quick(8)
@pytest.mark.parametrize("name", [name for name in ROWS if name not in YOUNGER])
def test_an_old_model_gives_its_numbers_and_trains_on(files, name):
    model = keras.models.load_model(files / f"{name}.keras")
    found, expected = numbers(model, ROWS[name]), dict(np.load(files / f"{name}.npz"))
    for metric in WEIGHED_NOW.get(name, ()):
        np.testing.assert_allclose(found.pop(metric), expected.pop(metric), rtol=0.2)
    assert_same(found, expected)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_old_weights_give_their_numbers(files, name):
    model = ROWS[name].make(seed=3)
    model.load_weights(files / f"{name}.weights.h5")
    assert_same(
        {"sample": sampled(model, ROWS[name])},
        {"sample": np.load(files / f"{name}.npz")["sample"]},
    )


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_an_old_checkpoint_gives_its_numbers_and_goes_on(files, name):
    row, model = ROWS[name], compiled(ROWS[name])
    fitted(model, row)  # builds what a checkpoint fills
    restore_checkpoint(model, files / name)
    resume = CheckpointCallback(files / name, resume="auto", verbose=False)
    found = {"sample": sampled(model, row)}
    found |= fitted(model, row, epochs=2, callbacks=[resume])
    assert_same(found, np.load(files / f"{name}.resumed.npz"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        with tarfile.open(ARCHIVES / f"{sys.argv[1]}.tar.xz", "x:xz") as made:
            made.add(place, ".")
