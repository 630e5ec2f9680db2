"""A torch loader goes on at its batch: no row before it is taken, and the numbers are the same."""

import contextlib
import random
import warnings

import keras
import numpy as np
import pytest
from resumed import BATCH, EPOCHS, ROWS, numbers, resumed

from artifex_keras.callbacks.checkpoint.position import DataPosition

torch = pytest.importorskip("torch")
data = pytest.importorskip("torch.utils.data")

PER_EPOCH = ROWS // BATCH
LAST = PER_EPOCH + 1  # the batch trained on last, of which the checksum is compared


class Rows(data.Dataset):
    """Rows by number, which notes those that are taken."""

    def __init__(self, draws=lambda: 0.0):
        self.x, self.y = (torch.from_numpy(array) for array in numbers())
        self.calls, self.draws = [], draws

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        self.calls.extend(np.ravel(index).tolist())
        return self.x[index] + float(self.draws()), self.y[index]


def fit_of(make, draws=lambda: 0.0, seeds=(8, 8, 8), **options):
    """A `fit`, begun by one seed in the straight run, the one that crashes and the resumed one."""
    options = {"shuffle": False} | options
    seeds = iter(seeds)

    def fit(model, callbacks):
        seed = next(seeds)
        keras.utils.set_random_seed(seed)
        torch.manual_seed(seed)  # Keras does so on its own backend only
        rows = Rows(draws)
        clear = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: rows.calls.clear())
        callbacks = [clear, *callbacks]
        model.fit(make(rows), epochs=EPOCHS, verbose=0, callbacks=callbacks, **options)
        return rows.calls

    return fit


def generator():
    return torch.Generator().manual_seed(4)


class Own(data.Sampler):
    """A sampler of somebody's, which draws its order at once."""

    def __len__(self):
        return PER_EPOCH

    def __iter__(self):
        return iter(np.random.permutation(ROWS).reshape(-1, BATCH).tolist())


def with_replacement(rows):
    sampler = data.RandomSampler(rows, True, num_samples=ROWS, generator=generator())
    return data.DataLoader(rows, BATCH, sampler=sampler)


LOADERS = {
    "in order": lambda rows: data.DataLoader(rows, BATCH),
    "shuffled": lambda rows: data.DataLoader(rows, BATCH, shuffle=True),
    "a generator": lambda rows: data.DataLoader(rows, BATCH, shuffle=True, generator=generator()),
    "with replacement": with_replacement,
    "a sampler of one's own": lambda rows: data.DataLoader(rows, batch_sampler=Own()),
    "whole batches": lambda rows: data.DataLoader(rows, batch_size=None, sampler=Own()),
}


@pytest.mark.parametrize("make", LOADERS)
def test_no_row_is_taken_again(tmp_path, make):
    calls, again = resumed(tmp_path, fit_of(LOADERS[make]))
    assert len(calls) == EPOCHS * ROWS
    assert again == calls[LAST * BATCH :]


DRAWS = {"torch": lambda: torch.randn(()), "NumPy": np.random.normal, "Python": random.random}


@pytest.mark.parametrize("draw", DRAWS)
def test_what_its_rows_draw_goes_on(tmp_path, draw):
    calls, again = resumed(tmp_path, fit_of(LOADERS["shuffled"], DRAWS[draw]))
    assert again == calls[LAST * BATCH :]


def test_an_order_that_is_drawn_between_the_rows_is_read_again(tmp_path):
    """The checksum shows it: without the rows' draws the sampler's are others."""

    class Between(Own):
        def __iter__(self):
            return (np.random.randint(0, ROWS, BATCH).tolist() for _ in range(PER_EPOCH))

    def make(rows):
        return data.DataLoader(rows, batch_sampler=Between())

    resumed(tmp_path, fit_of(make, np.random.normal))


def test_a_generator_of_the_rows_goes_on(tmp_path):
    def make(rows):
        rows.generator = np.random.default_rng(3)
        rows.draws = lambda: rows.generator.normal()
        return data.DataLoader(rows, BATCH)

    calls, again = resumed(tmp_path, fit_of(make))
    assert again == calls[LAST * BATCH :]


def fit_with_workers(draws):
    def fit(model, callbacks):
        keras.utils.set_random_seed(8)
        torch.manual_seed(8)  # Keras does so on its own backend only
        options = {"shuffle": True, "generator": generator(), "num_workers": 2}
        loader = data.DataLoader(Rows(draws), BATCH, **options)
        model.fit(loader, epochs=EPOCHS, verbose=0, callbacks=callbacks, shuffle=False)

    return fit


DRAWN = {"nothing": (lambda: 0.0, [1]), "numbers": (lambda: torch.randn(()), [1, 2])}


@pytest.mark.backends("jax", "torch")  # on TensorFlow they are read again, and can't be forked
@pytest.mark.parametrize("drawn", DRAWN)
def test_workers_begin_at_the_batch(tmp_path, monkeypatch, drawn):
    """What a worker draws depends on the rows that it has made: the pass is read again."""
    skipped, skip = [], DataPosition._skip
    monkeypatch.setattr(DataPosition, "_skip", lambda *a: (skipped.append(a[2]), skip(*a)))
    draws, expected = DRAWN[drawn]
    resumed(tmp_path / "kept", fit_with_workers(draws))
    assert skipped == expected


def test_at_the_end_of_an_epoch_its_generator_goes_on(tmp_path):
    fit = fit_of(LOADERS["a generator"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        resumed(tmp_path, fit, crash=(2, 0), save_every_n_steps=None, save_every_n_epochs=1)


# Careless ones


def test_an_order_that_nobody_has_seeded_is_the_same(tmp_path):
    calls, again = resumed(tmp_path, fit_of(LOADERS["shuffled"], seeds=(8, 8, 9)))
    assert again == calls[LAST * BATCH :]


class Stream(data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return (self.rows[index] for index in range(ROWS))


def test_a_stream_is_read_again(tmp_path):
    calls, again = resumed(tmp_path, fit_of(lambda rows: data.DataLoader(Stream(rows), BATCH)))
    assert again == calls[PER_EPOCH * BATCH :]


CHANGES = {
    "another size of batches": (lambda rows: data.DataLoader(rows, 10), "5 batches and has 4 now"),
    "the rest left out": (
        lambda rows: data.DataLoader(rows, 9, drop_last=True),
        "5 batches and has 4 now",
    ),
    "other rows": (
        lambda rows: data.DataLoader(data.Subset(rows, range(1, ROWS)), BATCH),
        "or they are other data",
    ),
    "another order": (LOADERS["shuffled"], "or they are other data"),
}


@pytest.mark.backends("jax", "torch")  # TensorFlow shows no batches
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_loader_is_said(tmp_path, change):
    other, said = CHANGES[change]
    made = iter([LOADERS["in order"], LOADERS["in order"], other])
    with pytest.warns(UserWarning, match=said), contextlib.suppress(AssertionError):
        resumed(tmp_path, fit_of(lambda rows: next(made)(rows)))


def test_a_loader_that_has_become_short_is_an_error(tmp_path):
    made = iter([LOADERS["in order"], LOADERS["in order"], lambda rows: shorter(rows, BATCH)])
    with pytest.raises(
        ValueError, match="after 2 batches of an epoch, and the data now have fewer"
    ):
        resumed(tmp_path, fit_of(lambda rows: next(made)(rows)))


def shorter(rows, count):
    return data.DataLoader(data.Subset(rows, range(count)), BATCH)
