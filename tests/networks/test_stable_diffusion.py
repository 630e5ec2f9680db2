"""keras-cv's U-Net behind our interface; a small model of the same inputs where it isn't there."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import layers, ops

from artifex_keras.networks.stable_diffusion import stable_diffusion_unet


def small_unet(dim=6):
    """A model of keras-cv's inputs that gives the time's embedding, so that it can be seen."""
    latent = keras.Input((2, 2, 4), name="latent")
    embedding = keras.Input((dim,), name="timestep_embedding")
    context = keras.Input((3, 5), name="context")
    shown = layers.Reshape((1, 1, 4))(embedding[:, :4])
    pooled = layers.Reshape((1, 1, 1))(ops.mean(context, axis=(1, 2))[:, None])
    return keras.Model([latent, embedding, context], 0.0 * latent + shown + pooled)


def test_the_time_comes_embedded_as_stable_diffusion_was_trained():
    network = stable_diffusion_unet(small_unet())
    t = np.array([0.0, 7.0], "float32")
    x, context = np.zeros((2, 2, 2, 4), "float32"), np.full((2, 3, 5), 0.5, "float32")
    made = ops.convert_to_numpy(network([x, t, context]))
    frequencies = np.exp(-np.log(10_000) * np.arange(3) / 3)
    angles = t[:, None] * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1)[:, :4] + 0.5
    np.testing.assert_allclose(made[:, 1, 0], expected, atol=1e-5)


@pytest.mark.parametrize("shapes", [[(4,)], [(2, 2, 4), (3, 3, 6), (5,)]])
def test_a_model_of_other_inputs(shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    with pytest.raises(ValueError, match=r"\[latent, timestep_embedding, context\]. Received"):
        stable_diffusion_unet(keras.Model(inputs, inputs[0]))


@pytest.mark.backends("jax")
@pytest.mark.slow  # half a minute of tracing
@pytest.mark.skipif(importlib.util.find_spec("keras_cv") is None, reason="needs keras-cv")
def test_the_real_unet_is_a_diffusion_network_by_abstract_evaluation():
    """Of 860 million parameters not one is made: under `eval_shape` weights are shapes."""
    import jax
    from keras_cv.models.stable_diffusion import DiffusionModel

    from artifex_keras.models import Diffusion
    from artifex_keras.models.base import Batch

    sizes = {}

    def loss(x, context):
        unet = DiffusionModel(128, 128, 77, download_weights=False)
        model = Diffusion(stable_diffusion_unet(unet), ema_decay=None, seed=0)
        sizes["weights"] = unet.count_params()
        return model.objective(Batch(x, context, ops.ones((2,))), training=True)["loss"]

    x = jax.ShapeDtypeStruct((2, 16, 16, 4), "float32")
    context = jax.ShapeDtypeStruct((2, 77, 768), "float32")
    assert jax.eval_shape(loss, x, context).shape == (2,)
    assert sizes["weights"] == 859_520_964
