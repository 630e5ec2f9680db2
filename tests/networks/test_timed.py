"""Networks that know the time."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras import FlowMatching
from artifex_keras.networks import TimeEmbedding, dit, timed_mlp, unet


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
        ({"skip": True}, None),
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


def test_with_a_skip_the_input_reaches_the_output_as_it_is():
    network = timed_mlp((3, 2), (1,), skip=True)
    scale = network.get_layer("network_scale")
    scale.bias.assign([-0.5])
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype("float32")
    t = np.array([0, 5, 500, 999], "int32")
    np.testing.assert_array_equal(numpy(network([x, t])), -0.5 * x)
    scale.kernel.assign(np.ones(scale.kernel.shape))
    ratio = numpy(network([x, t])) / x
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], x.shape), rtol=1e-5)
    assert np.ptp(ratio[:, 0, 0]) > 0.01  # it differs by the time


@pytest.mark.backends("jax")
def test_narrow_layers_learn_a_velocity_as_wide_as_the_data_by_a_skip():
    """Of N(0, I) it is a multiple of x: what is left is π/2 of 2; without a skip, 15/16 of 2."""
    x = np.random.default_rng(0).normal(size=(8192, 32)).astype("float32")
    model = FlowMatching(timed_mlp((32,), (16, 2), skip=True, time_scale=1000.0), seed=0)
    model.compile(keras.optimizers.Adam(0.01))
    loss = model.fit(x, batch_size=128, epochs=4, verbose=0).history["loss"][-1]
    assert loss == pytest.approx(np.pi / 2, rel=0.02)


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


# Networks of images


@pytest.mark.quick(1)
@pytest.mark.parametrize("size", [(8, 8, 1), (7, 5, 2), (28, 28, 1)])
def test_a_unet_takes_images_of_any_size(size):
    network = unet(size, (8, 12, 8), attention=(-1,), groups=4)
    assert network.output.shape == (None, *size)
    x = np.random.default_rng(0).standard_normal((2, *size)).astype("float32")
    assert not numpy(network([x, np.array([0, 9])])).any()


IMAGES = [
    lambda **options: unet((8, 6, 2), (8, 12), attention=(0,), dropout=0.1, **options),
    lambda **options: dit((8, 6, 2), 16, depth=2, heads=2, **options),
]


@pytest.mark.quick(2)
@pytest.mark.parametrize("make", IMAGES, ids=["unet", "dit"])
@pytest.mark.parametrize(
    ("options", "condition"),
    [({}, None), ({"num_classes": 3}, np.array([0, 3]))],
    ids=["plain", "labels"],
)
def test_a_network_of_images_hears_of_each_input_and_each_pixel(make, options, condition):
    network = make(**options)
    random = np.random.default_rng(0)
    for weight in network.trainable_weights:
        weight.assign(random.normal(0, 0.3, weight.shape))
    x = random.standard_normal((2, 8, 6, 2)).astype("float32")
    inputs = [x, np.array([3, 40])] + ([] if condition is None else [condition])
    out = numpy(network(inputs))
    for changed in range(len(inputs)):
        other = [part.copy() for part in inputs]
        other[changed][0] += 1 if changed != 2 else 2
        difference = np.abs(numpy(network(other)) - out)
        assert difference[0].min(axis=-1).max() > 1e-3
        assert difference[1].max() < 1e-4
    moved = x.copy()
    moved[0, 7, 5, 1] += 1  # the far corner reaches the near one, by attention
    assert np.abs(numpy(network([moved, *inputs[1:]])) - out)[0, 0, 0].max() > 1e-6


def test_patches_return_to_their_places():
    """With no block a pixel of the output hears of its own patch of the input alone."""
    network = dit((4, 6, 1), 8, depth=1, heads=1)
    for name, weight in ((w.path, w) for w in network.trainable_weights):
        if "output" in name or "patches" in name:
            weight.assign(np.random.default_rng(0).normal(0, 1, weight.shape))
    x = np.zeros((1, 4, 6, 1), "float32")
    before = numpy(network([x, np.zeros(1)]))
    x[0, 2, 4, 0] = 1.0
    touched = np.abs(numpy(network([x, np.zeros(1)])) - before)[0, :, :, 0] > 1e-6
    expected = np.zeros((4, 6), bool)
    expected[2:4, 4:6] = True
    np.testing.assert_array_equal(touched, expected)


@pytest.mark.parametrize("make", IMAGES, ids=["unet", "dit"])
def test_a_saved_network_of_images_is_the_same(make, tmp_path):
    network = make()
    random = np.random.default_rng(0)
    for weight in network.trainable_weights:
        weight.assign(random.normal(0, 0.3, weight.shape))
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    x = random.standard_normal((2, 8, 6, 2)).astype("float32")
    inputs = [x, np.array([3, 40])]
    np.testing.assert_array_equal(numpy(network(inputs)), numpy(loaded(inputs)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unet((8, 8)), r"must be \(height, width, channels\)"),
        (lambda: unet((8, 8, 1), (8,), attention=(1,)), "`attention` must name places"),
        (lambda: dit((8, 7, 1)), "`patch_size` must divide height and width"),
        (lambda: dit((8, 8, 1), 10), "`heads` the `width`"),
    ],
)
def test_what_a_network_of_images_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
