"""Arrays as batches, and the lengths of all that `fit` takes."""

import keras
import numpy as np
import pytest

from artifex_keras.trainers.batches import ArrayBatches, batches_per_epoch, is_arrays


def epoch(batches, number):
    batches.epoch = number
    return [batches[i] for i in range(batches.num_batches)]


def rows(batches, number):
    return np.concatenate([batch[0] for batch in epoch(batches, number)]).tolist()


def test_an_epoch_is_each_row_once():
    batches = ArrayBatches(np.arange(10), 4, seed=1)
    assert [len(batch[0]) for batch in epoch(batches, 0)] == [4, 4, 2]
    assert sorted(rows(batches, 0)) == list(range(10))


def test_order_is_a_function_of_seed_and_epoch():
    first, second = ArrayBatches(np.arange(50), 8, seed=1), ArrayBatches(np.arange(50), 8, seed=1)
    assert rows(first, 0) != rows(first, 1)
    assert rows(first, 3) == rows(second, 3)
    assert rows(first, 3) != rows(ArrayBatches(np.arange(50), 8, seed=2), 3)


def test_without_a_seed_the_global_one_decides():
    orders = []
    for seed in (5, 5, 6):
        keras.utils.set_random_seed(seed)
        orders.append(rows(ArrayBatches(np.arange(50), 8), 0))
    assert orders[0] == orders[1] != orders[2]


def test_unshuffled():
    assert rows(ArrayBatches(np.arange(10), 4, shuffle=False), 2) == list(range(10))


def test_rows_stay_together():
    x, y, weight = np.arange(9), 2 * np.arange(9), 3 * np.arange(9)
    for bx, by, bw in epoch(ArrayBatches(({"a": x, "b": x}, y, weight), 4, seed=0), 0):
        np.testing.assert_array_equal(bx["a"], bx["b"])
        np.testing.assert_array_equal(2 * bx["a"], by)
        np.testing.assert_array_equal(3 * bx["a"], bw)


def test_steps_go_on_where_the_last_epoch_ended():
    batches = ArrayBatches(np.arange(10), 4, shuffle=False, steps=2)
    assert [batch[0].tolist() for batch in epoch(batches, 0)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [batch[0].tolist() for batch in epoch(batches, 1)] == [[8, 9], [0, 1, 2, 3]]


def test_unequal_lengths():
    with pytest.raises(ValueError, match=r"same number of rows. Received: shapes \[\(3,\), \(4,\)"):
        ArrayBatches((np.zeros(3), np.zeros(4)), 2)


def test_what_counts_as_arrays():
    a = np.zeros((3, 2))
    for data in (a, keras.ops.zeros((3, 2)), (a, a), (a, None, a), {"x": a, "y": a}):
        assert is_arrays(data)
    for data in (None, [], (b for b in [a]), ArrayBatches(a, 2), [1, 2]):
        assert not is_arrays(data)


class Endless(keras.utils.PyDataset):
    num_batches = None


def test_lengths():
    assert batches_per_epoch(ArrayBatches(np.zeros(10), 4)) == 3
    assert batches_per_epoch(ArrayBatches(np.zeros(10), 4, steps=7)) == 7
    assert batches_per_epoch(Endless()) is None
    assert batches_per_epoch(b for b in [1]) is None


def test_lengths_of_torch_loaders():
    data = pytest.importorskip("torch.utils.data")

    class Stream(data.IterableDataset):
        def __iter__(self):
            yield 1.0

    assert batches_per_epoch(data.DataLoader(list(range(10)), batch_size=4)) == 3
    assert batches_per_epoch(data.DataLoader(Stream())) is None


def test_lengths_of_grain_datasets():
    grain = pytest.importorskip("grain")
    source = grain.MapDataset.source(np.arange(10))
    assert batches_per_epoch(source.batch(4)) == 3
    assert batches_per_epoch(source.repeat().batch(4)) is None
    assert batches_per_epoch(source.to_iter_dataset()) is None


def test_lengths_of_tensorflow_datasets():
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.range(10)
    assert batches_per_epoch(dataset.batch(4)) == 3
    assert batches_per_epoch(dataset.repeat().batch(4)) is None
    assert batches_per_epoch(dataset.filter(lambda x: x > 3)) is None
