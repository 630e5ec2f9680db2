"""A Keras whose iterators give several batches as one, where a step is to run several."""

import importlib

import keras
import numpy as np
import pytest

import artifex_keras as ak
from artifex_keras.backend import keras_internals

pytestmark = pytest.mark.backends("jax")


def fitted(**options):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    model = ak.VAE(encoder, decoder, seed=0)
    model.compile("adam", steps_per_execution=3, **options)
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")  # seven of six, a rest
    history = model.fit(
        x, batch_size=6, epochs=2, verbose=0, shuffle=False, validation_data=(x[:20],)
    )
    return history.history, model.get_weights()


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=["compiled", "eager"])
def test_the_numbers_are_those_of_a_keras_that_does_not(monkeypatch, options):
    expected = fitted(**options)
    iterators = importlib.import_module("keras.src.backend.jax.trainer").JAXEpochIterator

    def stacks(self):
        """As from keras PR 23527 on: what a step that takes one batch can't read."""
        for batch in self.data_adapter.get_jax_iterator():
            yield keras.tree.map_structure(lambda leaf: np.stack([leaf] * 3), batch)

    monkeypatch.setattr(iterators, "_get_iterator", stacks)
    monkeypatch.setattr(keras_internals, "stacks_batches", lambda: True)
    history, weights = fitted(**options)
    assert history == expected[0]
    for ours, theirs in zip(weights, expected[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_wrapped_adapter_passes_the_question_on():
    asked = []

    class Source(keras_internals.data_adapter_class()):
        num_batches, batch_size, has_partial_batch, partial_batch_size = 1, 2, False, None

        def get_numpy_iterator(self):
            return iter(())

        def get_jax_iterator(self, super_batch=None):
            asked.append(super_batch)
            return iter(())

        get_tf_dataset = get_torch_dataloader = None

    from artifex_keras.backend.adapters import Wrapped

    class Mine(Wrapped):
        get_tf_dataset = get_torch_dataloader = has_partial_batch = partial_batch_size = None

    Mine(Source()).get_jax_iterator(super_batch=3)
    assert asked == [3]
