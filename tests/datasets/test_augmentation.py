"""Images altered in a `tf.data` pipeline, on each backend."""

import importlib.util

import keras
import numpy as np
import pytest

from artifex_keras.datasets import AUGMENTATIONS, augmented
from artifex_keras.models import VAE
from artifex_keras.networks import mlp_decoder, mlp_encoder

pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")

KERAS_CV = importlib.util.find_spec("keras_cv") is not None
NAMES = [name for name in AUGMENTATIONS if KERAS_CV or name != "cutout"]


def images(count=8, channels=3, low=0.0):
    x = np.random.default_rng(0).uniform(0.2, 0.8, (count, 8, 8, channels)).astype("float32")
    return low + (1 - low) * x


def collected(batches):
    return np.concatenate([np.asarray(batch) for batch in batches])


@pytest.mark.parametrize("low", [0.0, -1.0])
@pytest.mark.parametrize("name", NAMES)
def test_each_augmentation_alters_and_stays_in_range(name, low):
    x = images(low=low)
    batches = augmented(x, layers=name, batch_size=3, shuffle=False, seed=1)
    first, second = collected(batches), collected(batches)
    assert first.shape == x.shape and first.dtype == np.float32
    assert first.min() >= low and first.max() <= 1
    assert np.abs(first - x).max() > 0.01
    if name != "flip":  # of which two passes may be the same
        assert np.abs(first - second).max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_a_new_pipeline_of_the_same_seed_repeats_itself(name):
    runs = [collected(augmented(images(), layers=name, batch_size=3, seed=4)) for _ in range(2)]
    np.testing.assert_array_equal(*runs)


def test_flipped_images_are_mirrored_or_as_they_were():
    x = images(32)
    made = collected(augmented(x, layers="flip", shuffle=False, seed=0))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(made, x, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(made, x, strict=True)]
    assert all(a or b for a, b in zip(mirrored, kept, strict=True))
    assert 6 < sum(mirrored) < 26


def test_labels_stay_with_their_images():
    x, labels = images(9), np.arange(9)
    x[:, 0, 0, 0] = labels / 10
    for made, kept in augmented(x, labels, layers=lambda batch: batch + 0.05, batch_size=4, seed=1):
        np.testing.assert_allclose(np.asarray(made)[:, 0, 0, 0], np.asarray(kept) / 10 + 0.05)


def test_a_family_trains_on_it():
    model = VAE(mlp_encoder((8, 8, 1), 2, (8,)), mlp_decoder(2, (8, 8, 1), (8,)), seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    layers = ["flip", keras.layers.RandomTranslation(0.2, 0.2, seed=1)]
    history = model.fit(
        augmented(images(20, 1), layers=layers, batch_size=8), epochs=3, verbose=0, shuffle=False
    )
    assert history.history["loss"][-1] < history.history["loss"][0]


@pytest.mark.skipif(not KERAS_CV, reason="needs keras-cv")
def test_layers_of_keras_cv_feed_a_family():
    import keras_cv

    layers = [keras_cv.layers.RandomFlip("horizontal"), keras_cv.layers.RandomCutout(0.5, 0.5)]
    model = VAE(mlp_encoder((8, 8, 1), 2, (8,)), mlp_decoder(2, (8, 8, 1), (8,)), seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    batches = augmented(images(20, 1), layers=layers, batch_size=8)
    assert (collected(batches) == 0).mean() > 0.02  # what was cut out
    assert np.isfinite(model.fit(batches, verbose=0, shuffle=False).history["loss"]).all()


@pytest.mark.backends("jax", "torch")
@pytest.mark.skipif(not KERAS_CV, reason="needs keras-cv")
def test_a_network_with_keras_cv_inside_is_refused():
    import keras_cv

    flip = keras_cv.layers.RandomFlip("horizontal", name="flip")
    encoder = keras.Sequential([flip, mlp_encoder((8, 8, 1), 2, (8,))])
    with pytest.raises(ValueError, match=r"'flip'.*keras-cv.*datasets.augmented"):
        VAE(encoder, mlp_decoder(2, (8, 8, 1), (8,)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": "flop"}, "Unknown augmentation 'flop'. Did you mean 'flip'"),
        ({"layers": []}, "at least one augmentation"),
        ({"images": np.zeros((3, 4), "float32"), "layers": "flip"}, r"Received: float32 .*\(3, 4"),
        ({"images": np.zeros((3, 4, 4, 1), "uint8"), "layers": "flip"}, "Received: uint8"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        augmented(**{"images": images(), **arguments})


@pytest.mark.skipif(KERAS_CV, reason="keras-cv is there")
def test_what_is_missing_names_its_extra():
    with pytest.raises(ImportError, match=r"artifex-keras\[cv\]"):
        augmented(images(), layers="cutout")
