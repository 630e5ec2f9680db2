"""A model that has seen no data is built by the first that a method is given."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.models import GAN, VAE, Autoregressive, Diffusion, EnergyModel, FlowMatching

X = np.random.default_rng(0).uniform(0.1, 0.9, (4, 6)).astype("float32")
IDS = (X * 7).astype("int32")
TIMES = np.full(4, 3, "int32")


def dense(*widths):
    """A network that learns its shape from the data."""
    return keras.Sequential([keras.layers.Dense(width, activation="tanh") for width in widths])


class Timed(keras.Model):
    def __init__(self):
        super().__init__()
        self.out = keras.layers.Dense(6)

    def call(self, inputs, training=None):
        return self.out(inputs[0])


class Tokens(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = keras.layers.Embedding(7, 4), keras.layers.Dense(7)

    def call(self, ids, training=None):
        return self.out(self.embedding(ids))


MODELS = {
    "vae": lambda: VAE(dense(8, 4), dense(8, 6), seed=0),
    "energy": lambda: EnergyModel(dense(8, 1), seed=0),
    "diffusion": lambda: Diffusion(Timed(), num_timesteps=20, seed=0),
    "flow-matching": lambda: FlowMatching(Timed(), seed=0),
    "autoregressive": lambda: Autoregressive(Tokens(), seed=0),
}


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("vae", lambda m: m.encode(X)),
        ("vae", lambda m: m.reconstruct(X)),
        ("vae", lambda m: m.log_likelihood(X, 2, seed=1)),
        ("vae", lambda m: m.predict(X, verbose=0)),
        ("energy", lambda m: m.energy(X)),
        ("energy", lambda m: m.predict(X, verbose=0)),
        ("energy", lambda m: m.log_prob(X, log_partition=0.0)),
        ("diffusion", lambda m: m.denoise(X, TIMES)),
        ("diffusion", lambda m: m.encode(X, 4)),
        ("diffusion", lambda m: m.predict([X, TIMES], verbose=0)),
        ("flow-matching", lambda m: m.encode(X, 2)),
        ("flow-matching", lambda m: m.predict([X, TIMES], verbose=0)),
        ("autoregressive", lambda m: m.log_prob(IDS)),
        ("autoregressive", lambda m: m.perplexity(IDS)),
        ("autoregressive", lambda m: m.predict(IDS, verbose=0)),
    ],
)
def test_data_in_hand_build_the_model(name, use):
    answers = []
    for build in (False, True):
        keras.utils.set_random_seed(0)
        model = MODELS[name]()
        assert not model.built
        if build:
            model.build(X.shape)
        answers.append(keras.tree.flatten(use(model)))
        assert model.built
    for first, second in zip(*answers, strict=True):
        first, second = (ops.convert_to_numpy(answer) for answer in (first, second))
        assert np.isfinite(first).all()
        np.testing.assert_array_equal(first, second)


def test_without_data_it_says_what_is_missing():
    for use in (lambda m: m.sample(2), lambda m: m.decode(X[:, :2])):
        with pytest.raises(ValueError, match="needs networks that know their shapes"):
            use(MODELS["vae"]())
    with pytest.raises(ValueError, match="`predict` needs networks that know their shapes"):
        GAN(dense(8, 6), dense(8, 1), 3).predict(X[:, :3], verbose=0)
