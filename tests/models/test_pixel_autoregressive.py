"""The pixel family: exact probabilities, draws that follow them, what it learns of digits."""

import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.models import PixelAutoregressive
from artifex_keras.networks import pixelcnn


def numpy(x):
    return ops.convert_to_numpy(x)


def small(shape=(2, 2, 1), likelihood="categorical", levels=3, **options):
    keras.utils.set_random_seed(0)
    parameters = levels if likelihood == "categorical" else 6
    network = pixelcnn(shape, parameters, filters=8, num_blocks=1, first_kernel_size=3)
    for weight in network.trainable_weights:
        weight.assign(np.random.default_rng(1).normal(0, 0.6, weight.shape))
    return PixelAutoregressive(network, likelihood=likelihood, num_levels=levels, seed=0, **options)


def every_image(shape, levels):
    values = itertools.product(range(levels), repeat=int(np.prod(shape)))
    return np.array(list(values), "int32").reshape(-1, *shape)


@pytest.mark.parametrize("likelihood", ["categorical", "logistic_mixture"])
@pytest.mark.parametrize("shape", [(2, 2, 1), (1, 2, 2)])
def test_the_probabilities_of_all_images_add_up_to_one(shape, likelihood):
    """All 81 images of four values of three levels; a leak from later values breaks it."""
    model = small(shape, likelihood)
    log_p = numpy(model.log_prob(every_image(shape, 3))).astype("float64")
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)


def test_draws_follow_the_probabilities():
    model = small()
    images = every_image((2, 2, 1), 3)
    p = np.exp(numpy(model.log_prob(images)).astype("float64"))
    drawn = np.round(numpy(model.sample(20_000, seed=0)) * 2).astype(int).reshape(-1, 4)
    counts = np.bincount(drawn @ [27, 9, 3, 1], minlength=81)
    assert np.abs(counts / 20_000 - p).sum() < 0.06  # of 2; the draws alone make about .04


def test_completions_keep_what_is_given():
    model = small((4, 3, 1))
    images = np.random.default_rng(0).uniform(size=(5, 4, 3, 1)).astype("float32")
    made = numpy(model.complete(images, 2, seed=1))
    np.testing.assert_allclose(made[:, :2], np.round(images[:, :2] * 2) / 2, atol=1e-6)
    assert np.any(made[:, 2:] != np.round(images[:, 2:] * 2) / 2)
    np.testing.assert_array_equal(made, numpy(model.complete(images, 2, seed=1)))
    np.testing.assert_allclose(numpy(model.complete(images, 4)), np.round(images * 2) / 2)


def test_floats_and_levels_are_the_same_images():
    model = small(levels=5)
    levels = np.random.default_rng(0).integers(0, 5, (6, 2, 2, 1))
    scores = numpy(model.log_prob(levels.astype("uint8")))
    floats = (levels / 4 + 0.05).clip(0, 1).astype("float32")
    np.testing.assert_array_equal(scores, numpy(model.log_prob(floats)))
    bits = -scores.mean() / (4 * math.log(2))
    assert model.bits_per_dim(levels, batch_size=4) == pytest.approx(bits, rel=1e-5)
    model.compile("sgd")
    logs = model.evaluate(levels, batch_size=4, verbose=0, return_dict=True)
    assert logs["bits_per_dim"] == pytest.approx(bits, rel=1e-5)
    assert logs["loss"] == pytest.approx(-scores.mean(), rel=1e-5)


@pytest.mark.parametrize(
    "x, words",
    [
        (np.full((4, 2, 2, 1), 1.2, "float32"), r"floats in \[0, 1\]"),
        (np.full((4, 2, 2, 1), 3), "levels from 0 to 2"),
        (np.zeros((4, 2, 3, 1), "float32"), "data must have the shape"),
    ],
)
def test_other_data_are_refused(x, words):
    model = small()
    model.compile("sgd")
    with pytest.raises(ValueError, match=words):
        model.fit(x, verbose=0)


def test_a_network_of_another_width_is_refused():
    network = pixelcnn((2, 2, 1), 4, filters=4, num_blocks=1)
    with pytest.raises(ValueError, match="num_levels=3 parameters"):
        PixelAutoregressive(network, num_levels=3)
    with pytest.raises(ValueError, match="a multiple of 3"):
        PixelAutoregressive(network, likelihood="logistic_mixture")
    with pytest.raises(ValueError, match="Did you mean 'logistic_mixture'"):
        PixelAutoregressive(network, likelihood="logistic_mix")


@pytest.mark.slow
def test_digits_are_modelled_better_than_by_independent_pixels():
    """Nats on 447 held-out digits of 17 levels: independent pixels need 106.5, a VAE 96 (bound)."""
    from sklearn.datasets import load_digits

    data = load_digits().data.reshape(-1, 8, 8, 1).astype("int32")
    keras.utils.set_random_seed(0)
    network = pixelcnn((8, 8, 1), 17, filters=48, num_blocks=4, dropout=0.2)
    model = PixelAutoregressive(network, num_levels=17, ema_decay=0.995, seed=0)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, 32 * 60)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-2), steps_per_execution=8)
    model.fit(data[:1000], batch_size=32, epochs=60, verbose=0)
    nats = model.bits_per_dim(data[1350:]) * 64 * math.log(2)
    print(nats)
    assert nats <= 90.0
