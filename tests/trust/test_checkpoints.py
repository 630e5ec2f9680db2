"""Checkpoints of somebody else's, with right checksums: refused in a line, whatever they hold."""

import json
import shutil
import time
import warnings

import keras
import numpy as np
import pytest

from artifex_keras.callbacks import CheckpointCallback, export_checkpoint, restore_checkpoint
from artifex_keras.callbacks.checkpoint.orbax_files import seal, unseal
from artifex_keras.callbacks.checkpoint.store import Store

pytestmark = pytest.mark.backends("jax")
X = np.random.default_rng(0).random((16, 3)).astype("float32")


def model():
    keras.utils.set_random_seed(0)
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    made.compile("sgd", "mse")
    return made


def fit(folder, epochs, resume="auto"):
    keep = CheckpointCallback(folder, resume=resume, verbose=False)
    model().fit(X, X, batch_size=8, epochs=epochs, verbose=0, callbacks=[keep])


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "checkpoints"
    fit(folder, 1)
    return folder


def kept(name, value):
    return lambda meta: replace(meta["kept"]["dict"], name, value)


def position(name, value):
    def change(meta):
        at = next(pair[1] for pair in meta["kept"]["dict"] if pair[0] == "position")
        replace(at["dict"], name, value)

    return change


def replace(pairs, name, value):
    pairs[:] = [pair for pair in pairs if pair[0] != name]
    if value is not ...:
        pairs.append([name, value])


def head(name, value):
    return lambda meta: meta.update({name: value})


FORGED = {
    "nothing kept": head("kept", None),
    "an unknown kind": head("kept", {"module": "os"}),
    "two kinds": head("kept", {"list": [], "dict": []}),
    "no position": kept("position", ...),
    "an endless fraction": kept("best", {"Fraction": "1e999999999"}),
    "odd bytes": kept("best", {"bytes": "zz"}),
    "a generator of its own": kept("best", {"Generator": {"dict": [["bit_generator", "os"]]}}),
    "too many days": kept("best", {"timedelta": {"list": [10**30, 0, 0]}}),
    "a set of lists": kept("best", {"set": [{"list": []}]}),
    "an array that isn't there": kept("best", {"array": "nope"}),
    "objects by their bytes": kept("best", {"scalar": ["|O", "00" * 8]}),
    "a huge shape": kept("best", {"objects": [[10**12], []]}),
    "a text for a number": kept("best", "evil"),
    "no settings": kept("settings", None),
    "a model that is a list": kept("model", {"list": [1]}),
    "callbacks that are a text": kept("callbacks", "x"),
    "no history": kept("history", None),
    "an epoch below 0": position("epoch", -5),
    "an epoch without end": position("epoch", 10**12),
    "rounds without end": position("rounds", 10**12),
    "a truth for a count": position("passes", True),
    "no random states": position("random", None),
    "a text for random states": position("random", "x"),
    "no arrays": head("leaves", []),
    "arrays that are a number": head("leaves", 3),
    "a step that is a text": head("step", "x"),
    "another step": head("step", 7),
    "a format that is a list": head("format", [2]),
}


def forged(honest, folder, change):
    shutil.copytree(honest, folder)
    path = Store(folder).path(Store(folder).steps()[0]) / "meta" / "metadata"
    outer = json.loads(path.read_text())
    meta = unseal(outer["text"])
    change(meta)
    path.write_text(json.dumps(outer | {"text": seal(meta)}))
    return folder


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_checkpoint_is_refused(honest, tmp_path, name):
    folder = forged(honest, tmp_path / "forged", FORGED[name])
    began = time.process_time()
    with (
        pytest.warns(UserWarning, match="step-0000.* Trying the one before"),
        pytest.raises(ValueError, match="No checkpoint in .* can be read"),
    ):
        fit(folder, 2)
    for use in (
        lambda: restore_checkpoint(model(), folder),
        lambda: export_checkpoint(folder, tmp_path / "model.keras"),
    ):
        with pytest.raises(ValueError, match="step-0000|forged"):
            use()
    assert time.process_time() - began < 5
    assert not (tmp_path / "model.keras").exists()


def test_the_one_before_is_taken(honest, tmp_path):
    shutil.copytree(honest, tmp_path / "two")
    fit(tmp_path / "two", 2)
    newest, before = Store(tmp_path / "two").steps()
    path = Store(tmp_path / "two").path(newest) / "meta" / "metadata"
    outer = json.loads(path.read_text())
    meta = unseal(outer["text"])
    FORGED["no position"](meta)
    path.write_text(json.dumps(outer | {"text": seal(meta)}))
    with pytest.warns(UserWarning, match="it has no 'position'. Trying the one before"):
        fit(tmp_path / "two", 3)
    assert Store(tmp_path / "two").steps()[0] > before


def test_an_honest_one_goes_on_without_a_word(honest, tmp_path):
    shutil.copytree(honest, tmp_path / "honest")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(tmp_path / "honest", 2)
