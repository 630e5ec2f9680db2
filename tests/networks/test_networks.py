"""Ready networks: shapes for images of every size, conditioning, names, precision, saving."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras import networks

IMAGES = [(8, 8, 1), (28, 28, 1), (32, 32, 3), (9, 13, 2), (1, 5, 1)]


def numpy(x):
    return ops.convert_to_numpy(x)


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def shapes(network):
    return keras.tree.map_structure(lambda output: output.shape[1:], network.outputs)


@pytest.mark.parametrize("shape", [*IMAGES, (2,), 5])
def test_mlps_have_the_shapes_asked_for(shape):
    event = (shape,) if isinstance(shape, int) else shape
    encoder = networks.mlp_encoder(shape, 4, units=(6,))
    assert encoder.input_shape == (None, *event) and shapes(encoder) == [(4,), (4,)]
    assert shapes(networks.mlp_decoder(4, shape, units=(6,))) == [event]
    assert shapes(networks.mlp_generator(4, shape)) == [event]
    assert shapes(networks.mlp_critic(shape)) == [(1,)]
    assert shapes(networks.mlp(shape, (6, 7), (2, 3))) == [(2, 3)]


@pytest.mark.parametrize("shape", IMAGES)
def test_convolutional_networks_have_the_shapes_asked_for(shape):
    encoder = networks.conv_encoder(shape, 4, filters=(2, 3, 4))
    assert encoder.input_shape == (None, *shape) and shapes(encoder) == [(4,), (4,)]
    for upsampling in ("transpose", "resize"):
        options = {"filters": (4, 3, 2), "upsampling": upsampling}
        assert shapes(networks.conv_decoder(4, shape, **options)) == [shape]
        assert shapes(networks.conv_generator(4, shape, **options)) == [shape]
    for normalization in (None, "layer", "batch"):
        critic = networks.conv_critic(shape, filters=(2, 3), normalization=normalization)
        assert shapes(critic) == [(1,)]


def test_there_and_back_for_an_odd_size():
    encoder = networks.conv_encoder((9, 13, 2), 3)
    mean, log_var = encoder(normal(2, 9, 13, 2))
    assert mean.shape == log_var.shape == (2, 3)
    assert networks.conv_decoder(3, (9, 13, 2))(mean).shape == (2, 9, 13, 2)


def test_an_mlp_without_hidden_layers_is_linear():
    encoder = networks.mlp_encoder(3, 2, units=())
    x, y = normal(2, 1, 3)
    mean = [numpy(encoder(v)[0]) for v in (x, y, x + y)]
    np.testing.assert_allclose(mean[0] + mean[1], mean[2], atol=1e-6)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_generators_and_critics_take_labels(kind):
    shape = (8, 8, 1)
    generator = getattr(networks, f"{kind}_generator")(4, shape, (8,), num_classes=3)
    critic = getattr(networks, f"{kind}_critic")(shape, (8,), num_classes=3)
    generate, judge = generator.predict_on_batch, critic.predict_on_batch
    z, labels = np.repeat(normal(1, 4), 3, 0), np.arange(3)
    images = generate([z, labels])
    assert images.shape == (3, 8, 8, 1) and len(np.unique(images[:, 0, 0, 0])) == 3
    logits = judge([np.repeat(images[:1], 3, 0), labels])
    assert logits.shape == (3, 1) and len(np.unique(logits)) == 3


def test_the_conditional_logit_is_a_projection_on_the_class():
    critic = networks.mlp_critic(2, (5,), num_classes=3)
    x, labels = normal(6, 2), np.array([0, 1, 2, 2, 1, 0])
    hidden = critic.get_layer("discriminator_hidden_1")(x)
    dense = critic.get_layer("discriminator_logit")
    classes = numpy(critic.get_layer("discriminator_class").embeddings)
    expected = numpy(dense(hidden))[:, 0] + (numpy(hidden) * classes[labels]).sum(1)
    np.testing.assert_allclose(numpy(critic([x, labels]))[:, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_a_spectrally_normalized_critic_is_lipschitz(kind):
    # Leaky rectifiers and normalized kernels: no slope in any direction exceeds the product of
    # the layers' norms, 1 for matrices; a convolution's matrix bounds it up to its overlap.
    critic = getattr(networks, f"{kind}_critic")(
        (8, 8, 1), (8, 8), spectral_norm=True, num_classes=3
    )
    kernels = [v for v in critic.trainable_variables if v.path.endswith(("kernel", "embeddings"))]
    vectors = [v for v in critic.non_trainable_variables if v.path.endswith("vector_u")]
    assert len(kernels) == len(vectors) > 0
    for kernel in kernels:
        kernel.assign(10 * kernel.value)
    for _ in range(50):
        critic([normal(2, 8, 8, 1), np.array([0, 2])], training=True)
    unlabelled = critic.get_layer("discriminator_logit_spectral").output
    logit = keras.Model(critic.inputs[0], unlabelled)
    x, d = normal(2, 64, 8, 8, 1)
    steps = numpy(logit(x + d) - logit(x))[:, 0]
    bound = 1 if kind == "mlp" else 2.0**2
    assert (abs(steps) <= bound * np.sqrt((d**2).sum((1, 2, 3)))).all()


def test_no_two_networks_of_a_family_share_a_path():
    encoder, decoder = networks.mlp_encoder(4, 2), networks.mlp_decoder(2, 4)
    generator, critic = networks.conv_generator(4, (8, 8, 1)), networks.conv_critic((8, 8, 1))
    for pair in ((encoder, decoder), (generator, critic)):
        paths = [variable.path for network in pair for variable in network.variables]
        assert len(paths) == len(set(paths))
        assert all(
            path.startswith(network.name)
            for network in pair
            for path in (variable.path for variable in network.variables)
        )
    assert networks.mlp_encoder(4, 2).weights[0].path == encoder.weights[0].path


def test_outputs_are_float32_under_half_precision():
    image = (8, 8, 1)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for network in (
            networks.mlp_encoder(image, 2, (4,)),
            networks.mlp_decoder(2, image, (4,)),
            networks.mlp_generator(2, image, (4,), num_classes=2),
            networks.mlp_critic(image, (4,), num_classes=2, spectral_norm=True),
            networks.mlp_critic(image, (4,)),
            networks.conv_encoder(image, 2, (4,)),
            networks.conv_decoder(2, image, (4,)),
            networks.conv_generator(2, image, (4,), num_classes=2),
            networks.conv_critic(image, (4,), num_classes=2, spectral_norm=True),
        ):
            assert {output.dtype for output in network.outputs} == {"float32"}, network.name
            assert {variable.dtype for variable in network.trainable_variables} == {"float32"}
    finally:
        keras.config.set_dtype_policy(before)


def test_networks_are_saved(tmp_path):
    for network, inputs in [
        (networks.conv_generator(2, (9, 7, 2), (4,), num_classes=2), [normal(2, 2), np.arange(2)]),
        (
            networks.conv_critic((9, 7, 2), (4,), spectral_norm=True, normalization="layer"),
            normal(2, 9, 7, 2),
        ),
    ]:
        network.save(tmp_path / "network.keras")
        again = keras.saving.load_model(tmp_path / "network.keras")
        outputs = [model.predict_on_batch(inputs) for model in (network, again)]
        np.testing.assert_array_equal(*outputs)


def test_wrong_shapes_and_names_are_refused():
    with pytest.raises(ValueError, match="height, width, channels"):
        networks.conv_encoder((8, 8), 2)
    with pytest.raises(ValueError, match="`output_shape` must be"):
        networks.mlp_decoder(2, (8, 0))
    with pytest.raises(ValueError, match="`filters` must be"):
        networks.conv_decoder(2, (8, 8, 1), filters=())
    with pytest.raises(ValueError, match="batch"):
        networks.conv_critic((8, 8, 1), normalization="bach")
    with pytest.raises(ValueError, match="resize"):
        networks.conv_generator(2, (8, 8, 1), upsampling="resized")
