"""Packed rows: every id once and in its place, full rows, what is cut and said."""

import time

import numpy as np
import pytest

from artifex_keras.datasets import packed
from artifex_keras.datasets.packing import pack_columns


def pieces(arrays):
    """The pieces of all rows, each a tuple of ids, with their positions checked."""
    found = []
    for ids, segments, positions in zip(*arrays.values(), strict=True):
        counts = np.bincount(segments)[1:]
        assert np.all(counts) and np.all(np.diff(segments[segments > 0]) >= 0)
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            np.testing.assert_array_equal(positions[here], np.arange(here.sum()))
            found.append(tuple(ids[here].tolist()))
        assert not ids[segments == 0].any() and not positions[segments == 0].any()
    return found


def lengths_of_texts(count):
    lengths = np.random.default_rng(0).lognormal(4.5, 0.9, count)
    return np.clip(lengths.astype(int), 1, 1024)


def test_best_fit_by_hand():
    arrays = packed([[5, 6, 7], [8], [9, 9]], 4)
    assert list(arrays) == ["ids", "segments", "positions"]
    assert all(array.dtype == "int32" for array in arrays.values())
    np.testing.assert_array_equal(arrays["ids"], [[5, 6, 7, 8], [9, 9, 0, 0]])
    np.testing.assert_array_equal(arrays["segments"], [[1, 1, 1, 2], [1, 1, 0, 0]])
    np.testing.assert_array_equal(arrays["positions"], [[0, 1, 2, 0], [0, 1, 0, 0]])


def test_the_fullest_place_that_has_room_is_taken():
    """6 and 5 leave 2 and 3 of 8: first fit would put 2 and 3 elsewhere than best fit."""
    rows = [np.full(n, n) for n in (6, 5, 3, 2)]
    arrays = packed(rows, 8)
    np.testing.assert_array_equal(arrays["ids"], [[6] * 6 + [2] * 2, [5] * 5 + [3] * 3])


def test_wrapped_by_hand():
    arrays = packed([[5, 6, 7], [8], [9, 9, 4]], 4, "wrapped")
    np.testing.assert_array_equal(arrays["ids"], [[5, 6, 7, 8], [9, 9, 4, 0]])
    arrays = packed([[1, 2], [3, 4, 5, 6, 7, 8, 9]], 3, strategy="wrapped")
    np.testing.assert_array_equal(arrays["ids"], [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    np.testing.assert_array_equal(arrays["segments"], [[1, 1, 2], [1, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(arrays["positions"], [[0, 1, 0], [0, 1, 2], [0, 1, 2]])


def test_four_thousand_texts_of_1024():
    rows = [np.full(n, i + 1) for i, n in enumerate(lengths_of_texts(4000))]
    arrays = packed(rows, 1024)
    assert abs(len(arrays["ids"]) - 511) <= 12
    assert np.mean(arrays["segments"] > 0) > 0.998
    assert sorted(pieces(arrays)) == sorted(tuple(row.tolist()) for row in rows)


def test_wrapped_rows_hold_all_ids_in_order():
    rows = [np.arange(1, n + 1) for n in lengths_of_texts(300)]
    arrays = packed(rows, 256, "wrapped")
    pieces(arrays)
    joined = arrays["ids"][arrays["segments"] > 0]
    np.testing.assert_array_equal(joined, np.concatenate(rows))
    assert np.all(arrays["segments"][:-1] > 0)


def test_many_rows_are_packed_in_seconds():
    rows = [np.ones(n, "int32") for n in lengths_of_texts(30_000)]
    started = time.process_time()
    packed(rows, 4096)
    assert time.process_time() - started < 5


def test_columns_go_along():
    masks = [np.float32([0, 1]), np.float32([1])]
    arrays = pack_columns({"ids": [np.int32([5, 6]), np.int32([7])], "mask": masks}, 4)
    np.testing.assert_array_equal(arrays["mask"], [[0, 1, 1, 0]])
    assert arrays["mask"].dtype == "float32"


def test_longer_rows_are_cut_aloud():
    with pytest.warns(UserWarning, match="1 of 2 rows are longer than 3 ids, the longest has 5: "):
        arrays = packed([[1, 2, 3, 4, 5], [6]], 3)
    np.testing.assert_array_equal(arrays["ids"], [[1, 2, 3], [6, 0, 0]])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (([], 4), "at least one row"),
        (([[1], []], 4), "none in row 1"),
        (([[1]], 0), "`length` must be an integer of at least 1"),
        (([[1]], 4, "best-fit"), "Did you mean 'best_fit'"),
        (([[1.5]], 4), "`rows` must be"),
        ((["a"], 4), "`rows` must be"),
    ],
)
def test_misuse(arguments, words):
    with pytest.raises(ValueError, match=words):
        packed(*arguments)
