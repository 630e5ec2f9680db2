"""A resumed run makes no batch again but the last one, and equals the straight run to the bit."""

import random

import keras
import numpy as np
import pytest
from resumed import (
    BATCH,
    EPOCHS,
    PER_EPOCH,
    ROWS,
    Counted,
    fused,
    numbers,
    plain,
    resumed,
)

from artifex_keras import backend
from artifex_keras.callbacks import CheckpointCallback
from artifex_keras.callbacks.checkpoint.kept import kept_in
from artifex_keras.callbacks.checkpoint.position import DataPosition
from artifex_keras.callbacks.checkpoint.randomness import randomness, restore_randomness
from artifex_keras.callbacks.checkpoint.seeking import AHEAD, seeker
from artifex_keras.callbacks.checkpoint.store import Damaged, Store
from artifex_keras.callbacks.checkpoint.trees import pack

LAST = PER_EPOCH + 1  # the batch trained on last, of which the checksum is compared


def fit_of(make_data, **options):
    """A `fit` that gives the calls since the training began: Keras reads a batch before."""

    def fit(model, callbacks):
        keras.utils.set_random_seed(8)
        data = make_data()
        clear = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: data.calls.clear())
        model.fit(data, epochs=EPOCHS, verbose=0, callbacks=[clear, *callbacks], **options)
        return data.calls

    return fit


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_dataset_is_asked_for_no_batch_before_the_last_one(tmp_path, shuffle):
    calls, again = resumed(tmp_path, fit_of(Counted, shuffle=shuffle))
    assert again == calls[LAST:]
    assert len(calls) == EPOCHS * PER_EPOCH


def test_an_endless_dataset_goes_on_across_epochs(tmp_path):
    fit = fit_of(lambda: Counted(endless=True), steps_per_epoch=4, shuffle=False)
    calls, again = resumed(tmp_path, fit, crash=(2, 1))
    assert calls[:12] == list(range(12)) and again == calls[LAST:]


DRAWS = {"NumPy": np.random.normal, "Python": random.random}


@pytest.mark.parametrize("draw", DRAWS)
def test_what_its_batches_draw_goes_on(tmp_path, draw):
    resumed(tmp_path, fit_of(lambda: Counted(DRAWS[draw]), shuffle=True))


@pytest.mark.backends("jax")
def test_so_it_does_where_several_steps_are_one(tmp_path):
    fit = fit_of(lambda: Counted(np.random.normal), shuffle=True)
    calls, again = resumed(tmp_path, fit, crash=(1, 4), make=fused)
    assert again == calls[LAST:]


@pytest.mark.backends("jax")
def test_so_it_does_where_keras_reads_a_batch_ahead(tmp_path, monkeypatch):
    """As it does on a GPU and a TPU."""
    from keras.src.backend.jax import trainer

    def ahead(self):
        return self._one_batch_ahead_iterator(self.data_adapter.get_jax_iterator())

    monkeypatch.setattr(trainer.JAXEpochIterator, "_get_iterator", ahead)
    calls, again = resumed(tmp_path, fit_of(lambda: Counted(np.random.normal), shuffle=True))
    assert again == calls[LAST:]


class Rows(np.ndarray):
    """An array that notes which rows are taken."""

    calls = []

    def __getitem__(self, rows):
        self.calls.append(rows)
        return np.asarray(self)[rows]


@pytest.mark.backends("jax", "torch")  # TensorFlow gathers rows in its graph
@pytest.mark.parametrize("shuffle", [False, True, "batch"])
def test_of_arrays_no_rows_are_taken_again(tmp_path, shuffle):
    x, y = numbers()
    x = x.view(Rows)

    def fit(model, callbacks):
        keras.utils.set_random_seed(8)
        clear = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: Rows.calls.clear())
        callbacks = [clear, *callbacks]
        model.fit(
            x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=callbacks, shuffle=shuffle
        )
        return [str(rows) for rows in Rows.calls]

    calls, again = resumed(tmp_path, fit)
    assert len(calls) == EPOCHS * PER_EPOCH
    assert again == calls[LAST:]


# grain


class Source:
    """Rows by number, for a grain loader; it prints as its address, as a class does."""

    def __init__(self):
        self.x, self.y = numbers()
        self.calls = []

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        self.calls.append(int(index))
        return self.x[index], self.y[index]


def dataset(source):
    import grain

    return grain.MapDataset.source(source).shuffle(seed=4).batch(BATCH)


def iterated(source):
    import grain

    at_once = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    rows = grain.MapDataset.source(source).shuffle(seed=4).to_iter_dataset(at_once)
    window = grain.experimental.WindowShuffleIterDataset(rows, window_size=10, seed=3)
    return window.batch(BATCH)


def loader(source):
    import grain

    sampler = grain.samplers.IndexSampler(ROWS, shuffle=True, seed=4, num_epochs=1)
    return grain.DataLoader(
        data_source=source,
        sampler=sampler,
        operations=[grain.transforms.Batch(BATCH)],
        read_options=grain.ReadOptions(num_threads=0, prefetch_buffer_size=0),
    )


# How many rows are read again beside those of batches from the last one on; None where grain's
# threads read ahead, also those of a pass that nobody reads any more.
GRAIN = {dataset: None, iterated: 8, loader: 0}


@pytest.mark.parametrize("make", GRAIN)
def test_grain_goes_on_by_the_state_of_its_iterator(tmp_path, monkeypatch, make):
    pytest.importorskip("grain")
    skipped, skip = [], DataPosition._skip
    monkeypatch.setattr(DataPosition, "_skip", lambda *a: (skipped.append(a[2]), skip(*a)))

    def fit(model, callbacks):
        keras.utils.set_random_seed(8)
        source = Source()
        clear = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: source.calls.clear())
        callbacks = [clear, *callbacks]
        model.fit(make(source), epochs=EPOCHS, verbose=0, callbacks=callbacks, shuffle=False)
        return source.calls

    calls, again = resumed(tmp_path, fit)
    assert skipped == [1]
    if GRAIN[make] is not None:
        assert len(calls) == EPOCHS * ROWS
        assert len(again) == len(calls) - LAST * BATCH + GRAIN[make]


# Notes


def test_random_states_are_noted_whenever_they_move():
    """Normal numbers come in pairs: the second one moves no word of the generator."""
    draws = [np.random.normal, np.random.normal, np.random.normal, lambda: None, np.random.rand]
    np.random.seed(3)
    for draw in (*draws, lambda: np.random.seed(3), *draws, random.random):
        draw()
        noted = randomness()
        keys, *rest = np.random.get_state()[1:]
        np.testing.assert_array_equal(noted["numpy"][1], keys)
        assert noted["numpy"][2:] == rest
        assert noted["python"][1].tolist() == list(random.getstate()[1])
    again = randomness()
    drawn = np.random.normal(size=3).tolist()
    restore_randomness(again)
    assert np.random.normal(size=3).tolist() == drawn


@pytest.mark.backends("jax", "torch")  # tf.data is given room to read ahead
def test_only_notes_of_the_newest_batches_are_kept():
    adapter = adapter_of(Counted())
    found = seeker(adapter, 1)
    batches = iter(open_pass(adapter))
    for _ in range(PER_EPOCH):
        next(batches)
    assert found.note(PER_EPOCH - 1) is not None and found.note(PER_EPOCH) is None
    assert len(found._notes) == min(PER_EPOCH, 2 + AHEAD)
    assert seeker(adapter, 1) is found


def adapter_of(data):
    from artifex_keras.backend import keras_internals

    return keras_internals.data_adapter(data)


def open_pass(adapter):
    of_backend = {"jax": "get_jax_iterator", "torch": "get_torch_dataloader"}
    return getattr(adapter, of_backend[backend.name()])()


def drawing(generator, draws="normal"):
    """A dataset whose batches draw from a generator among its own attributes."""
    data = Counted(endless=True)
    data.generator = generator
    data.draws = lambda: getattr(data.generator, draws)()
    return data


OWN = {
    "Generator": lambda: drawing(np.random.default_rng(3)),
    "RandomState": lambda: drawing(np.random.RandomState(3)),
    "Random": lambda: drawing(random.Random(3), "random"),
    "method": lambda: Counted(np.random.default_rng(3).normal, endless=True),
}


@pytest.mark.parametrize("make", OWN)
def test_a_generator_of_its_own_goes_on(tmp_path, make):
    fit = fit_of(OWN[make], steps_per_epoch=10, shuffle=False)
    calls, again = resumed(tmp_path, fit, crash=(0, 8))
    assert again[:4] == calls[LAST:][:4]


def test_other_generators_than_before_are_refused(tmp_path):
    kinds = iter([*[np.random.default_rng] * 2, np.random.RandomState])
    with pytest.raises(
        ValueError, match="is a RandomState, and the checkpoint has no state of one"
    ):
        fit = fit_of(lambda: drawing(next(kinds)(3)), steps_per_epoch=10, shuffle=False)
        resumed(tmp_path, fit, crash=(0, 8))


def test_a_note_that_no_source_takes_is_damage(tmp_path):
    keep = CheckpointCallback(tmp_path, save_every_n_epochs=None, asynchronous=False)
    fit_of(Counted)(plain(), [keep])
    named_arrays, meta = Store(tmp_path).load(EPOCHS * PER_EPOCH)
    kept = kept_in(named_arrays, meta, "here")
    for note in (3, {"random": {"numpy": 1}}, {"iterators": {"0": 1}}, {"iterators": [3]}):
        kept["position"]["note"] = note
        arrays = []
        with pytest.raises(Damaged, match="'note'"):
            kept_in(arrays, {"kept": pack(kept, arrays, "kept")}, "here")
