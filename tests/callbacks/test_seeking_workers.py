"""Workers of a `PyDataset` give each batch once a pass, and begin at any of them."""

import collections
import functools
import multiprocessing.dummy
import threading

import keras
import numpy as np
import pytest
from resumed import EPOCHS, PER_EPOCH, Counted, resumed

import artifex_keras as ak
from artifex_keras.callbacks import CheckpointCallback
from artifex_keras.callbacks.checkpoint.position import DataPosition

LAST = PER_EPOCH + 1  # the batch trained on last, of which the checksum is compared
# TensorFlow shows no batch: one is made twice, to see whether numbers are drawn.
LOOKS = 2 * (keras.config.backend() == "tensorflow")


counted = functools.partial(Counted, workers=2, max_queue_size=2)


def fit_of(make, folder, **options):
    """A `fit` that gives the calls since the training began: Keras reads a batch before."""

    def fit(model, callbacks):
        keras.utils.set_random_seed(8)
        data = make()
        clear = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: data.calls.clear())
        if not callbacks:  # the straight run; a callback of ours sees to the order
            callbacks = [CheckpointCallback(folder / "never", save_every_n_epochs=None)]
        callbacks = [clear, *callbacks]
        model.fit(data, epochs=EPOCHS, verbose=0, callbacks=callbacks, **options)
        return data.calls

    return fit


@pytest.mark.parametrize("shuffle", [False, True])
def test_no_batch_before_the_last_one_is_made(tmp_path, shuffle):
    calls, again = resumed(tmp_path / "kept", fit_of(counted, tmp_path, shuffle=shuffle))
    assert collections.Counter(calls) == dict.fromkeys(range(PER_EPOCH), EPOCHS)
    assert len(again) == EPOCHS * PER_EPOCH - LAST + LOOKS


def test_an_endless_dataset_goes_on_across_epochs(tmp_path):
    """What is made ahead at the end of an epoch is made again, as the data may change there."""
    fit = fit_of(lambda: counted(endless=True), tmp_path, steps_per_epoch=4, shuffle=False)
    calls, again = resumed(tmp_path / "kept", fit, crash=(2, 1))
    assert min(calls) == 0 and min(again[LOOKS:]) == LAST


@pytest.fixture
def skipped(monkeypatch):
    """How many batches are read to come to where the run was."""
    found, skip = [], DataPosition._skip
    monkeypatch.setattr(DataPosition, "_skip", lambda *a: (found.append(a[2]), skip(*a)))
    return found


def test_processes_begin_there_too(tmp_path, skipped, monkeypatch):
    """Here they are threads: forking beside the threads of JAX may never return."""
    monkeypatch.setattr(multiprocessing, "Pool", multiprocessing.dummy.Pool)
    fit = fit_of(lambda: counted(use_multiprocessing=True), tmp_path, shuffle=True)
    resumed(tmp_path / "kept", fit)
    assert skipped == [1]


class Few(keras.utils.PyDataset):
    num_batches = 30

    def __getitem__(self, index):
        return np.full((2, 3), index / 30, "float32")


def test_with_workers_a_training_is_the_same_as_without():
    """Keras gives what was made ahead of a pass in the next one: batches came twice, or never."""
    found = []
    for workers in (1, 2):
        networks = ak.networks.mlp_encoder((3,), 1, (2,)), ak.networks.mlp_decoder(1, (3,), (2,))
        for network in networks:
            network.set_weights([np.full(w.shape, 0.1) for w in network.weights])
        model = ak.VAE(*networks, seed=1)
        model.compile("sgd")
        history = model.fit(Few(workers=workers), epochs=2, shuffle=False, verbose=0).history
        found.append((history["loss"], [keras.ops.convert_to_numpy(w) for w in model.weights]))
    assert found[0][0] == found[1][0]
    for without, with_workers in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(without, with_workers)


class Fails(Few):
    def __getitem__(self, index):
        if index == 3:
            raise OSError("no picture 3")
        return super().__getitem__(index)


@pytest.mark.backends("jax", "torch")  # TensorFlow reports it as an error of its own
def test_a_batch_that_cannot_be_made_ends_the_run():
    model = ak.VAE(ak.networks.mlp_encoder((3,), 1), ak.networks.mlp_decoder(1, (3,)), seed=1)
    model.compile("sgd")
    before = threading.enumerate()
    with pytest.raises(OSError, match="no picture 3"):
        model.fit(Fails(workers=2), shuffle=False, verbose=0)
    assert int(model.step) == 3
    left = [each for each in threading.enumerate() if each not in before]
    assert not [each for each in left if each.name.startswith("Worker_")]
