"""A running `fit`: its callbacks and its data are the model's own, whatever frame Keras runs in."""

import keras
import numpy as np
import pytest

import artifex_keras as ak
from artifex_keras.callbacks.checkpoint.position import DataPosition


def vae():
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    model = ak.VAE(encoder, decoder, seed=0)
    model.compile("sgd")
    return model


X = np.zeros((20, 4), "float32")


class Seen(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.fit = self.model.running_fit
        self.at_begin = dict(self.params), self.model.built, self.model.history

    def on_test_begin(self, logs=None):
        self.in_validation = self.model.running_fit


def test_callbacks_get_what_keras_gives_them():
    ours, plain = Seen(), keras.callbacks.Callback()
    history = vae().fit(X, batch_size=6, epochs=2, verbose=0, callbacks=[ours])
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.compile("sgd", "mse")
    model.fit(X, X, batch_size=6, epochs=2, verbose=0, callbacks=[plain])
    params, built, kept = ours.at_begin
    assert params == plain.params and built and kept is history
    assert len(history.history["loss"]) == 2


def test_the_fit_knows_its_data_until_it_ends():
    model, seen = vae(), Seen()
    model.fit(X, None, 6, 1, 0, [seen], validation_data=(X,))
    assert seen.fit.iterator.num_batches == 4 and seen.fit.validates
    assert seen.in_validation is seen.fit  # not the one over the validation data
    assert model.running_fit is None and not seen.fit.is_running


def test_it_is_over_after_an_error():
    class Fails(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyError(batch)

    model = vae()
    with pytest.raises(KeyError):
        model.fit(X, verbose=0, callbacks=Fails())
    assert model.running_fit is None
    with pytest.raises(TypeError, match="no_such_argument"):
        model.fit(X, no_such_argument=3)


def test_a_list_of_callbacks_that_is_given_is_left_as_it_is():
    model, seen = vae(), Seen()
    given = keras.callbacks.CallbackList([seen], add_history=True, model=model, mine=3)
    model.fit(X, verbose=0, callbacks=given)
    assert seen.fit.callbacks is given and seen.params == {"mine": 3}


def test_a_position_in_the_data_of_our_models_looks_at_no_frame(tmp_path, monkeypatch):
    def fails():
        raise AssertionError

    monkeypatch.setattr(DataPosition, "_of_frame", fails)
    model = vae()
    model.fit(X, batch_size=6, verbose=0, callbacks=[ak.callbacks.CheckpointCallback(tmp_path)])
    assert any(tmp_path.iterdir())
