"""Checkpoints of several processes' parts, written by one that plays all of them."""

import json

import numpy as np
import pytest
import standin

from artifex_keras.callbacks.checkpoint import parts
from artifex_keras.callbacks.checkpoint.arrays import NamedArray
from artifex_keras.callbacks.checkpoint.orbax_files import Damaged, seal, unseal
from artifex_keras.callbacks.checkpoint.pieces import Pieces, overlap, stacked
from artifex_keras.callbacks.checkpoint.remote_store import store_in

RANDOM = np.random.default_rng(0)
LARGE = RANDOM.normal(size=(256, 300)).astype("float32")
WHOLE = {
    "model/large": LARGE,
    "model/small": RANDOM.normal(size=(4, 3)).astype("float16"),
    "model/empty": np.zeros((0, 4), "float32"),
    "optimizer/steps": np.array(7, "int32"),
    "kept/x": np.arange(3),
}
# Of each process: the bounds of its parts, or None for a whole array.
SHARES = (
    {"model/large": ((0, 128), (0, 300)), "model/small": ((0, 4), (0, 2)), "kept/x": None},
    {
        "model/large": ((128, 256), (0, 300)),
        "model/small": ((0, 4), (2, 3)),
        "model/empty": ((0, 0), (0, 4)),
        "optimizer/steps": (),
    },
)


def part(name, bounds):
    value = WHOLE[name]
    if bounds is None:
        return NamedArray(name, value.dtype.name, value)
    own = value[tuple(slice(*each) for each in bounds)]
    return NamedArray(name, value.dtype.name, own, bounds, value.shape)


def written(folder, shares=SHARES, step=3):
    store = store_in(folder)
    place = store.path(step)
    for process, share in enumerate(shares):
        parts.write_part(place, [part(*each) for each in share.items()], process)
    parts.join(place, {"format": 3, "step": step, "rating": None, "kept": {}}, len(shares))
    return store


def test_parts_come_together_to_the_bit(tmp_path):
    found, meta = written(tmp_path).load(3)
    assert meta["step"] == 3 and {array.name for array in found} == WHOLE.keys()
    for array in found:
        expected = WHOLE[array.name]
        assert isinstance(array.value, np.ndarray) and array.value.dtype == expected.dtype
        np.testing.assert_array_equal(array.value, expected)


@pytest.mark.parametrize("rows", [(0, 64), (100, 200), (128, 256), (0, 256)], ids=str)
def test_a_process_reads_what_it_needs(tmp_path, rows):
    """The upper half is in the one file and the lower half in the other."""
    needed = {"model/large": {(rows, (0, 150)), (rows, (150, 300))}}.get
    found = {array.name: array.value for array in written(tmp_path).load(3, needed)[0]}
    large = found["model/large"]
    assert sum(value.nbytes for value in large.parts.values()) == LARGE.nbytes // (
        1 if rows[0] < 128 < rows[1] else 2
    )
    index = (slice(*rows), slice(150, 300))
    np.testing.assert_array_equal(large[index], LARGE[index])
    np.testing.assert_array_equal(found["kept/x"], WHOLE["kept/x"])  # not in `needed`: whole


def test_they_come_together_at_an_address_too(tmp_path):
    standin.WRITTEN.clear()
    store = written(f"standin://{tmp_path}/run")
    assert standin.WRITTEN[-1].endswith("step-00000003/meta/metadata")
    assert len(standin.WRITTEN) == 5 and store.steps() == [3]
    found = {array.name: array.value for array in store.load(3)[0]}
    assert found.keys() == WHOLE.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, WHOLE[name])
    needed = {"model/large": {((0, 64), (0, 300))}}.get
    found = {array.name: array.value for array in store.load(3, needed)[0]}
    assert sum(part.nbytes for part in found["model/large"].parts.values()) == LARGE.nbytes // 2
    np.testing.assert_array_equal(found["model/large"][:64, :], LARGE[:64])


def test_an_array_with_a_hole_is_damaged(tmp_path):
    share = {**SHARES[1], "model/large": ((130, 256), (0, 300))}
    with pytest.raises(Damaged, match="model/large parts of an array of shape .256, 300. are miss"):
        written(tmp_path, (SHARES[0], share)).load(3)


def test_a_process_that_has_not_written_is_an_error(tmp_path):
    parts.write_part(tmp_path / "new", [], 0)
    with pytest.raises(OSError, match="process 1 has not written its part"):
        parts.join(tmp_path / "new", {}, 2)


@pytest.mark.parametrize("value", [3, None, ["x"], [["0"]], []], ids=str)
def test_a_forged_list_of_parts_is_damaged(tmp_path, value):
    store = written(tmp_path)
    path = store.path(3) / "meta" / "metadata"
    meta = unseal(json.loads(path.read_text())["text"])
    path.write_text(json.dumps({"text": seal(meta | {"parts": value})}))
    if value == []:
        assert store.load(3)[0] == []  # `restore` says what is missing
        return
    with pytest.raises(Damaged, match="step-00000003"):
        store.load(3)


@pytest.mark.parametrize("bounds", [3, [[0, 1]], [["a", 2], [0, 3]], [[0, 10**12]] * 2], ids=str)
def test_forged_bounds_are_damaged(tmp_path, bounds):
    store = written(tmp_path)
    own = store.path(3) / "process-0" / "meta" / "metadata"
    meta = unseal(json.loads(own.read_text())["text"])
    meta["leaves"][1][5] = bounds
    own.write_text(json.dumps({"text": seal(meta)}))
    path = store.path(3) / "meta" / "metadata"
    head = unseal(json.loads(path.read_text())["text"])
    head["parts"][0] = seal(meta).split(" ")[0]
    path.write_text(json.dumps({"text": seal(head)}))
    with pytest.raises(Damaged, match="step-00000003"):
        store.load(3)


def test_a_part_of_another_save_is_damaged(tmp_path):
    store = written(tmp_path)
    other = {**SHARES[1], "optimizer/steps": None}
    parts.write_part(store.path(3), [part(*each) for each in other.items()], 1)
    with pytest.raises(Damaged, match="process-1 is damaged: it isn't of this checkpoint"):
        store.load(3)


def test_a_flipped_bit_is_damaged(tmp_path):
    store = written(tmp_path)
    file = store.path(3) / "process-1" / "arrays"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(Damaged, match="process-1 is damaged: model/large is not what was written"):
        store.load(3)


def test_a_file_that_ends_early_is_damaged(tmp_path):
    store = written(tmp_path)
    file = store.path(3) / "process-1" / "arrays"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Damaged, match="process-1 can't be read: .* ends at byte"):
        store.load(3)


def test_bounds_in_common():
    assert overlap(((0, 4), (2, 8)), ((3, 6), (0, 3))) == ((3, 4), (2, 3))
    assert overlap(((0, 4),), ((4, 6),)) is None
    assert overlap((), ()) == ()  # scalars


def test_layers_of_which_parts_are_there_are_stacked_by_parts():
    layers = []
    for begin in (0, 10):
        layer = Pieces((4, 2), "float32")
        layer.parts[((0, 2), (0, 2))] = begin + np.arange(4, dtype="float32").reshape(2, 2)
        layers.append(layer)
    stack = stacked(layers)
    assert stack.shape == (2, 4, 2)
    found = stack[slice(1, 2), slice(0, 2), slice(1, 2)]
    np.testing.assert_array_equal(found, [[[11], [13]]])
    with pytest.raises(ValueError, match="are missing"):
        np.asarray(stack)
