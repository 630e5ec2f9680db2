"""The first NaN or infinity ends the run and is named."""

import keras
import numpy as np
import pytest

from artifex_keras.callbacks import NaNGuard


def diverging():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="last")])
    model.compile(keras.optimizers.SGD(1e18), "mse")
    return model


def fit(callback, epochs=3):
    x = np.ones((32, 1), "float32")
    model = diverging()
    history = model.fit(x, x, batch_size=4, epochs=epochs, verbose=0, callbacks=[callback])
    return len(history.epoch)


def test_it_stops_and_names_metric_and_weight(capsys):
    guard = NaNGuard()
    assert fit(guard) == 1
    assert guard.found.startswith("In epoch 1 `loss` was ")
    assert "Of 2 weights 2 are not finite, first" in guard.found
    assert guard.found.endswith("last/kernel'.")
    assert guard.found in capsys.readouterr().out


def test_within_an_epoch():
    guard = NaNGuard(every_n_steps=2)
    fit(guard)
    assert "epoch 1, step 4" in guard.found


def test_it_may_raise():
    with pytest.raises(FloatingPointError, match="`loss` was"):
        fit(NaNGuard(raises=True))


def test_a_healthy_run_goes_on():
    guard, x = NaNGuard(every_n_steps=1), np.ones((8, 1), "float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert len(model.fit(x, x, epochs=2, verbose=0, callbacks=[guard]).epoch) == 2
    assert guard.found is None


def test_bad_input():
    with pytest.raises(ValueError, match="`every_n_steps` must be an integer of at least 1"):
        NaNGuard(every_n_steps=0)
