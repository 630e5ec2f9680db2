"""Masked convolutions: what each place and channel sees, by derivatives and by changes."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.networks import MaskedConv2D, pixelcnn


def numpy(x):
    return ops.convert_to_numpy(x)


def seen_by(layer, shape):
    """(outputs, inputs) of zeros and ones: which value of the input moves which of the output."""
    layer.kernel.assign(np.ones(layer.kernel.shape))
    size = int(np.prod(shape))
    moved = numpy(layer(np.eye(size, dtype="float32").reshape(size, *shape)))
    return (moved.reshape(size, -1) != 0).T


@pytest.mark.parametrize("mask", ["A", "B"])
def test_a_place_sees_the_rows_above_and_what_is_left_of_it(mask):
    layer = MaskedConv2D(1, 3, mask, use_bias=False)
    layer.build((None, 4, 4, 1))
    seen = seen_by(layer, (4, 4, 1)).reshape(4, 4, 4, 4)
    expected = np.zeros((4, 4), bool)
    expected[1, 1:4] = True  # of the place (2, 2) in a window of 3
    expected[2, 1] = True
    expected[2, 2] = mask == "B"
    np.testing.assert_array_equal(seen[2, 2], expected)


@pytest.mark.parametrize("mask", ["A", "B"])
def test_channels_of_a_place_are_in_order(mask):
    layer = MaskedConv2D(6, 1, mask, channels=3, use_bias=False)
    layer.build((None, 1, 1, 6))
    seen = seen_by(layer, (1, 1, 6))
    group = np.array([0, 0, 1, 1, 2, 2])
    before = group[None] <= group[:, None] if mask == "B" else group[None] < group[:, None]
    np.testing.assert_array_equal(seen, before)


def test_training_does_not_undo_the_mask():
    """The kernel is masked in the call: whatever an optimizer writes into it."""
    layer = MaskedConv2D(1, 3, "A", use_bias=False)
    layer.build((None, 3, 3, 1))
    before = seen_by(layer, (3, 3, 1))
    layer.kernel.assign(np.full(layer.kernel.shape, 7.0))
    np.testing.assert_array_equal(seen_by(layer, (3, 3, 1)), before)


@pytest.mark.parametrize("channels", [1, 2])
def test_no_later_dimension_reaches_the_network(channels):
    keras.utils.set_random_seed(0)
    shape = (4, 3, channels)
    network = pixelcnn(shape, 3, filters=8, num_blocks=2, first_kernel_size=3)
    random = np.random.default_rng(0)
    for weight in network.trainable_weights:
        weight.assign(random.normal(0, 0.5, weight.shape))
    size = 12 * channels
    x = np.repeat(random.normal(size=(1, *shape)), size + 1, axis=0).astype("float32")
    x.reshape(size + 1, size)[np.arange(size), np.arange(size)] += 1.0  # row i changes value i
    out = numpy(network(x)).reshape(size + 1, size, 3)
    moved = np.any(out[:-1] != out[-1], axis=-1)  # (changed, output)
    assert not np.any(np.tril(moved))  # nothing at or before the change
    assert np.mean(moved[np.triu_indices(size, 1)]) > 0.5  # much of what comes after


def test_a_masked_layer_survives_its_config():
    layer = MaskedConv2D(4, 3, "A", channels=2, name="masked")
    again = MaskedConv2D.from_config(layer.get_config())
    assert (again.mask, again.channels, again.padding) == ("A", 2, "same")


def test_sizes_that_do_not_fit_are_refused():
    for arguments, words in (
        ((4, 3, "C"), "`mask` must be"),
        ((4, 2), "must be odd"),
        ((4, 3, "A", 3), "a multiple of `channels`"),
    ):
        with pytest.raises(ValueError, match=words):
            MaskedConv2D(*arguments)
    with pytest.raises(ValueError, match="twice the channels"):
        pixelcnn((4, 4, 3), 5, filters=9)
