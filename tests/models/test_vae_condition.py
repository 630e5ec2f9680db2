"""A VAE whose networks take a condition: what it says of data, and that it uses the condition."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import artifex_keras as ak

MEANS = np.array([[0.0, 1.0], [2.0, -1.0], [-3.0, 0.5]], "float32")


def networks(dtype="int32"):
    """q(z|x, y) = N(0, I) and p(x|z, y) = N(mean of y, 1), whatever x and z."""
    x, z = keras.Input((2,)), keras.Input((1,))
    y = [keras.Input((), dtype=dtype) for _ in range(2)]
    nothing = layers.Dense(1, kernel_initializer="zeros", trainable=False)
    encoder = keras.Model([x, y[0]], [nothing(x), nothing(x)])
    means = layers.Embedding(3, 2, embeddings_initializer=keras.initializers.Constant(MEANS))
    none = layers.Dense(2, kernel_initializer="zeros", trainable=False)
    decoder = keras.Model([z, y[1]], layers.Add()([none(z), means(y[1])]))
    return encoder, decoder


def exact():
    return ak.VAE(*networks(), reconstruction="gaussian", variance=1.0, seed=0)


def data(rows=12):
    y = np.arange(rows) % 3
    return MEANS[y] + np.random.default_rng(0).normal(size=(rows, 2)).astype("float32"), y


def test_the_likelihood_is_that_of_the_condition():
    x, y = data()
    expected = -0.5 * np.sum((x - MEANS[y]) ** 2, axis=1) - np.log(2 * np.pi)
    found = exact().log_likelihood(x, 4, condition=y, batch_size=5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(
        exact().log_likelihood(x[1::3], 4, condition=1), expected[1::3], rtol=1e-5
    )


def test_samples_and_reconstructions_are_those_of_the_condition():
    vae, (x, y) = exact(), data(6)
    for made in (vae.sample(6, y), vae.sample(6, condition=list(y)), vae.reconstruct(x, y)):
        np.testing.assert_allclose(made, MEANS[y], atol=1e-6)
    np.testing.assert_allclose(vae.sample(2, 2), MEANS[[2, 2]], atol=1e-6)
    np.testing.assert_allclose(vae.predict([x, y], verbose=0), MEANS[y], atol=1e-6)
    between = vae.interpolate(x[:2], x[2:4], 3, y[:2])
    np.testing.assert_allclose(between, np.broadcast_to(MEANS[y[:2]], (3, 2, 2)), atol=1e-6)


def test_it_learns_what_the_condition_says(tmp_path):
    """Also from a file, with ready networks, and by validation with conditions."""
    x, y = data(300)
    encoder = ak.networks.mlp_encoder(2, 1, (8,), num_classes=3)
    decoder = ak.networks.mlp_decoder(1, 2, (8,), num_classes=3)
    vae = ak.VAE(encoder, decoder, reconstruction="gaussian", seed=0, ema_decay=0.9)
    vae.compile(keras.optimizers.Adam(0.02))
    fit = {"batch_size": 50, "verbose": 0, "validation_data": (x[:50], y[:50])}
    history = vae.fit(x, y, epochs=40, **fit).history
    assert history["val_loss"][-1] < history["val_loss"][0] - 1
    found = [np.mean(vae.sample(400, label, seed=1), axis=0) for label in range(3)]
    np.testing.assert_allclose(found, MEANS, atol=0.45)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(loaded.sample(3, y[:3], seed=2), vae.sample(3, y[:3], seed=2))
    loaded.fit(x, y, epochs=1, **fit)


def test_convolutions_and_importance_samples():
    images, y = np.random.default_rng(0).random((6, 4, 4, 1), "float32"), np.arange(6) % 3
    encoder = ak.networks.conv_encoder((4, 4, 1), 2, (2,), num_classes=3)
    decoder = ak.networks.conv_decoder(2, (4, 4, 1), (2,), num_classes=3)
    vae = ak.VAE(encoder, decoder, num_importance_samples=2, seed=0)
    vae.compile("adam")
    vae.fit(images, y, batch_size=3, verbose=0)
    assert vae.sample(3, y[:3]).shape == (3, 4, 4, 1)


class Beside(keras.Model):
    """A network of `[x, vector]` that says nothing of its inputs."""

    def __init__(self, width):
        super().__init__()
        self.dense = layers.Dense(width)

    def call(self, inputs):
        return self.dense(ops.concatenate(inputs, axis=-1))


def test_vectors_and_networks_that_build_late():
    x, vectors = data(8)[0], np.random.default_rng(1).normal(size=(8, 3))
    vae = ak.VAE(Beside(2), Beside(2), seed=0)
    vae.compile("adam")
    vae.fit(x, vectors, verbose=0)
    assert vae.sample(2, vectors[0]).shape == (2, 2)
    assert vae.encode(x, vectors)[0].shape == (8, 1)
    with pytest.raises(ValueError, match=r"shape \(3,\) per example, as the network.*shape \(2,\)"):
        vae.sample(8, vectors[:, :2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda vae, x, y: vae.fit(x), r"call fit\(x, condition\)"),
        (lambda vae, x, y: vae.sample(3), r"sample\(n, condition="),
        (lambda vae, x, y: vae.encode(x), "Received: no condition"),
        (lambda vae, x, y: vae.sample(3, [0, 1]), "`condition` must be one of them or as many"),
    ],
)
def test_a_missing_condition_is_said(call, message):
    vae = exact()
    vae.compile("adam")
    with pytest.raises(ValueError, match=message):
        call(vae, *data())


def test_both_networks_or_neither():
    with pytest.raises(ValueError, match="Encoder and decoder must both take a condition"):
        ak.VAE(networks()[0], ak.networks.mlp_decoder(1, 2, (8,)))
    plain = ak.VAE(ak.networks.mlp_encoder(2, 1, (8,)), ak.networks.mlp_decoder(1, 2, (8,)))
    with pytest.raises(ValueError, match=r"Let the networks take \[x, condition\]"):
        plain.sample(3, 1)


def test_its_pictures_use_the_conditions(tmp_path):
    images, y = np.random.default_rng(0).random((9, 4, 4, 1), "float32"), np.arange(9) % 3
    encoder = ak.networks.mlp_encoder((4, 4, 1), 2, (4,), num_classes=3)
    vae = ak.VAE(encoder, ak.networks.mlp_decoder(2, (4, 4, 1), (4,), num_classes=3), seed=0)
    vae.compile("adam")
    pictures = ak.callbacks.VisualizationCallback(tmp_path, data=(images, y), num_samples=6)
    vae.fit(images, y, verbose=0, callbacks=[pictures])
    assert len(list(tmp_path.rglob("*.png"))) >= 3


def test_ready_networks_draw_what_was_asked_for():
    """Labels that began faint were never looked at: 10 % of the digits were those asked for."""
    digits = ak.datasets.load("digits")
    means = np.stack([digits.train[digits.train_labels == k].mean(0) for k in range(10)])
    keras.utils.set_random_seed(0)
    encoder = ak.networks.mlp_encoder(digits.shape, 8, (64,), num_classes=10)
    decoder = ak.networks.mlp_decoder(8, digits.shape, (64,), num_classes=10)
    model = ak.VAE(encoder, decoder, reconstruction="bce", seed=0)
    model.compile(keras.optimizers.Adam(2e-3), steps_per_execution=10)
    model.fit(digits.train, digits.train_labels, batch_size=50, epochs=20, verbose=0)
    asked = np.repeat(np.arange(10), 20)
    drawn = ops.convert_to_numpy(model.sample(200, asked, seed=0))
    nearest = np.square(drawn[:, None] - means).sum((2, 3, 4)).argmin(1)
    share = np.mean(nearest == asked)
    assert share > 0.6, share


@pytest.mark.parametrize("make", ["mlp", "conv"])
def test_label_vectors_begin_as_wide_as_codes(make):
    keras.utils.set_random_seed(0)
    shape = (8, 8, 1)
    encoder = getattr(ak.networks, f"{make}_encoder")(shape, 16, num_classes=50)
    decoder = getattr(ak.networks, f"{make}_decoder")(16, shape, num_classes=50)
    for network in (encoder, decoder):
        (table,) = [w for w in network.weights if "class" in w.path and "embeddings" in w.path]
        assert 0.9 < ops.convert_to_numpy(table).std() < 1.1
    generator = getattr(ak.networks, f"{make}_generator")(16, shape, num_classes=50)
    (table,) = [w for w in generator.weights if "class" in w.path and "embeddings" in w.path]
    assert ops.convert_to_numpy(table).std() < 0.05
