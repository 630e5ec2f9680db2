"""What is written is what is read, whatever its size."""

import json

import numpy as np
import pytest

from artifex_keras.callbacks.checkpoint import store
from artifex_keras.callbacks.checkpoint.arrays import NamedArray
from artifex_keras.callbacks.checkpoint.store import Damaged, Store

RANDOM = np.random.default_rng(0)
VALUES = {
    "scalar": np.array(3, "int64"),
    "empty": np.zeros((0, 4), "float32"),
    "small": RANDOM.normal(size=(5, 3)).astype("float32"),
    "large": RANDOM.normal(size=(200, 100)).astype("float32"),
    "turned": RANDOM.normal(size=(3, 4)).T,
    "flags": np.array([True, False, True]),
    "at the bound": np.zeros(store.SMALL, "uint8"),
    "below it": RANDOM.integers(0, 255, store.SMALL - 1).astype("uint8"),
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
    path.write_text(json.dumps({"text": store._seal({**meta, "format": 1})}))
    with pytest.raises(Damaged, match="of format 1, which this version .* reads format 2"):
        kept.load(1)


def test_a_small_array_that_is_not_what_its_checksum_says_is_noticed(tmp_path):
    kept = Store(tmp_path)
    kept.save(1, named_arrays(), {})
    path = kept.path(1) / "meta" / "metadata"
    meta = json.loads(json.loads(path.read_text())["text"].split(" ", 1)[1])
    meta["leaves"][2][4] += 1  # its checksum
    path.write_text(json.dumps({"text": store._seal(meta)}))
    with pytest.raises(Damaged, match="small is not what was written"):
        kept.load(1)
