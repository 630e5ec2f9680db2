"""What is written is what is read, whatever its size."""

import asyncio
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from artifex_keras.callbacks.checkpoint import failures, orbax_files, store
from artifex_keras.callbacks.checkpoint.arrays import NamedArray
from artifex_keras.callbacks.checkpoint.failures import cause_of
from artifex_keras.callbacks.checkpoint.orbax_files import Damaged
from artifex_keras.callbacks.checkpoint.store import Store

ROOT = Path(store.__file__).parents[3]
RANDOM = np.random.default_rng(0)
VALUES = {
    "scalar": np.array(3, "int64"),
    "empty": np.zeros((0, 4), "float32"),
    "small": RANDOM.normal(size=(5, 3)).astype("float32"),
    "large": RANDOM.normal(size=(200, 100)).astype("float32"),
    "turned": RANDOM.normal(size=(3, 4)).T,
    "flags": np.array([True, False, True]),
    "at the bound": np.zeros(orbax_files.SMALL, "uint8"),
    "below it": RANDOM.integers(0, 255, orbax_files.SMALL - 1).astype("uint8"),
    "odd": np.array([1, 2, 3], "uint8"),  # what follows lies at no multiple of its size
    "half": np.arange(6, dtype="float16").reshape(2, 3),
}


def named_arrays(values=VALUES):
    return [NamedArray(name, value.dtype.name, value) for name, value in values.items()]


@pytest.mark.parametrize("names", [list(VALUES), ["large"], ["empty"]], ids=" ".join)
def test_arrays_come_back_to_the_bit(tmp_path, names):
    kept = {name: VALUES[name] for name in names}
    Store(tmp_path).save(7, named_arrays(kept), {"epoch": 2})
    found, meta = Store(tmp_path).load(7)
    assert meta["kept"] == {"epoch": 2} and [array.name for array in found] == names
    for array in found:
        value = kept[array.name]
        assert array.value.dtype == value.dtype and array.value.shape == value.shape
        np.testing.assert_array_equal(array.value, value)


def test_another_format_is_an_error_with_its_number(tmp_path):
    kept = Store(tmp_path)
    kept.save(1, named_arrays(), {})
    path = kept.path(1) / "meta" / "metadata"
    text = json.loads(path.read_text())["text"]
    meta = json.loads(text.split(" ", 1)[1])
    path.write_text(json.dumps({"text": orbax_files.seal({**meta, "format": 1})}))
    with pytest.raises(Damaged, match="of format 1, which this version .* reads formats 2"):
        kept.load(1)


def test_a_small_array_that_is_not_what_its_checksum_says_is_noticed(tmp_path):
    kept = Store(tmp_path)
    kept.save(1, named_arrays(), {})
    path = kept.path(1) / "meta" / "metadata"
    meta = json.loads(json.loads(path.read_text())["text"].split(" ", 1)[1])
    meta["leaves"][2][4] += 1  # its checksum
    path.write_text(json.dumps({"text": orbax_files.seal(meta)}))
    with pytest.raises(Damaged, match="small is not what was written"):
        kept.load(1)


FULL = """
import resource, signal, sys
import keras, numpy as np
import artifex_keras as ak

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
NO_LIMIT = resource.RLIM_INFINITY

class Full(keras.callbacks.Callback):
    "Files may be as large as that, by epoch; a full disk refuses in the same way."
    def on_epoch_begin(self, epoch, logs=None):
        keeper._writing.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, ((NO_LIMIT, 10_000, NO_LIMIT)[epoch], NO_LIMIT))

layers = [keras.layers.Dense(200) for _ in range(4)]  # several large arrays, written at once
model = keras.Sequential([keras.Input((200,)), *layers, keras.layers.Dense(1)])
model.compile("adam", "mse")
x = np.zeros((4, 200), "float32")
keeper = ak.callbacks.CheckpointCallback(sys.argv[1])
model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=[Full(), keeper])
print(keeper.store.steps(), ak.callbacks.restore_checkpoint(model, sys.argv[1]))
"""


@pytest.mark.backends("jax")
def test_a_full_disk_is_one_line_and_the_run_goes_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[3, 1] 3\n"
    said = [line for line in done.stderr.splitlines() if not line.startswith("  ")]
    (warning,) = [line for line in said if "could not be written" in line]
    assert warning.endswith(
        f"UserWarning: The checkpoint of step 2 in {str(tmp_path / 'run')!r} could not be "
        "written: File too large. The run continues, and earlier checkpoints stay."
    )
    assert "Traceback" not in done.stderr and "orbax" not in done.stderr.lower()
    assert all(path.name.startswith("step-") for path in (tmp_path / "run").iterdir())


def collected(error):
    """A future of asyncio that fails and that nobody asks is collected: asyncio logs its error."""
    loop = asyncio.new_event_loop()
    loop.create_future().set_exception(error)
    gc.collect()
    loop.close()


@pytest.mark.parametrize("words", ["[tensorstore_spec='{}']", "in OCDBT database at local file"])
def test_a_future_that_is_collected_after_a_failed_save_is_silent(words, caplog, monkeypatch):
    monkeypatch.setattr(failures._silence, "_failed", False)
    collected(ValueError(f"File too large {words}"))
    assert len(caplog.records) == 1  # nothing failed yet: it is somebody else's
    with pytest.raises(OSError), failures.quiet_orbax():
        raise OSError("File too large")
    caplog.clear()
    collected(ValueError(f"File too large {words}"))
    assert not caplog.records
    collected(ValueError("the user's own"))
    assert len(caplog.records) == 1
    with failures.quiet_orbax():  # a save that succeeds
        pass
    collected(ValueError(f"File too large {words}"))
    assert len(caplog.records) == 1


READ_ONLY = "Read-only file system"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(28, "No space left on device", "a.npy"), "No space left on device"),
        (
            ValueError("Failed to write 8 bytes: Disk quota exceeded [os_error_code='122']\nmore"),
            "Disk quota exceeded",
        ),
        (
            ValueError('Error writing "a/": Failed writing: "/t": File too large (EFBIG), 3 of 8'),
            "File too large",
        ),
        (ValueError("No such file or directory: x; retried: Read-only file system"), READ_ONLY),
        (ValueError("first\nsecond"), "first"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 1000), "x" * 297 + "..."),
    ],
)
def test_a_cause_is_short(error, cause):
    assert cause_of(error) == cause


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        "[1, 2]",
        '{"text": 3}',
        '{"text": "no checksum"}',
        json.dumps({"text": orbax_files.seal([1, 2])}),
        json.dumps({"text": orbax_files.seal({"rating": "high", "format": 2})}),
        '{"text": "\\ud800"}',
        "\0" * 50,
    ],
)
def test_damaged_metadata_is_one_error(text, tmp_path):
    """Also where the checksum is right, as that of a stranger's may be."""
    kept = Store(tmp_path)
    place = kept.path(3) / "meta"
    place.mkdir(parents=True)
    (place / "metadata").write_text(text)
    with pytest.raises(Damaged, match="step-00000003"):
        kept.meta(3)
    assert kept.best() == []
