"""Networks that know the time."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.networks import TimeEmbedding, timed_mlp


def numpy(x):
    return ops.convert_to_numpy(x)


def test_the_embedding_is_the_papers():
    t = np.array([0.0, 1.0, 500.0], "float32")
    out = numpy(TimeEmbedding(4, max_period=100.0)(t))
    angles = t[:, None] * np.array([1.0, 0.1])
    np.testing.assert_allclose(out, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-4)
    np.testing.assert_array_equal(numpy(TimeEmbedding(4, max_period=100.0)(t.astype("int32"))), out)


@pytest.mark.parametrize(
    ("scale", "times"),
    [
        (1.0, np.arange(1000)),
        (1000.0, np.linspace(0, 1, 1001)),
        (100.0, np.log(np.geomspace(0.002, 80, 1000)) / 4),
    ],
)
def test_neighbouring_times_can_be_told_apart(scale, times):
    features = numpy(TimeEmbedding(32, time_scale=scale)(times.astype("float32")))
    apart = np.linalg.norm(np.diff(features, axis=0), axis=1)
    assert apart.min() > 0.1
    # and no two far ones look alike
    far = np.linalg.norm(features[:: len(times) // 20][:, None] - features, axis=-1)
    np.fill_diagonal(far[:, :: len(times) // 20], 1)
    assert far.min() > 0.1


def test_times_are_not_rounded_to_half_precision():
    layer = TimeEmbedding(32, dtype="mixed_bfloat16")
    out = layer(np.array([997.0, 1000.0], "float32"))
    assert keras.backend.standardize_dtype(out.dtype) == "bfloat16"
    out = numpy(ops.cast(out, "float32"))
    exact = numpy(TimeEmbedding(32)(np.array([997.0, 1000.0], "float32")))
    np.testing.assert_allclose(out, exact, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "condition"),
    [
        ({}, None),
        ({"residual": True, "units": (8, 8)}, None),
        ({"num_classes": 3}, np.array([0, 2, 3, 1])),
        ({"condition_dim": 5}, np.ones((4, 5), "float32")),
        ({"condition_dim": (2, 5)}, np.ones((4, 2, 5), "float32")),
    ],
)
def test_a_network_starts_at_zero_and_hears_of_each_of_its_inputs(options, condition):
    network = timed_mlp((3, 2), **{"units": (8, 9), **options})
    x, t = np.ones((4, 3, 2), "float32"), np.array([0, 5, 500, 999], "int32")
    inputs = [x, t] if condition is None else [x, t, condition]
    assert not numpy(network(inputs)).any()
    random = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(random.normal(0, 0.5, weight.shape))
    out = numpy(network(inputs))
    assert out.shape == (4, 3, 2)
    for changed in range(len(inputs)):
        other = [part.copy() for part in inputs]
        other[changed][0] += 1
        difference = np.abs(numpy(network(other)) - out).max(axis=(1, 2))
        assert difference[0] > 1e-3
        assert (difference[1:] < 1e-5).all()


def test_labels_have_a_row_more_for_none():
    network = timed_mlp((2,), num_classes=3, name="net")
    assert network.get_layer("net_class").input_dim == 4


def test_a_saved_network_is_the_same(tmp_path):
    network = timed_mlp((2,), (8,), num_classes=3, time_scale=10.0)
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    assert loaded.get_layer("network_embedding").time_scale == 10.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TimeEmbedding(3), "`dim` must be an even number"),
        (lambda: TimeEmbedding(4, time_scale=0.0), "`time_scale` must be greater than 0"),
        (lambda: timed_mlp((2,), num_classes=3, condition_dim=2), "labels or vectors"),
        (lambda: timed_mlp((2,), (8, 9), residual=True), "`units` of one width"),
        (lambda: timed_mlp((2,), num_classes=0), "`num_classes` must be"),
    ],
)
def test_what_a_network_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
