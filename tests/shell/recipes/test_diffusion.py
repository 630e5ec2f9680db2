"""Diffusion from the shell."""

import keras
import numpy as np
import pytest
from PIL import Image

from artifex_keras import cli
from artifex_keras.datasets import load
from artifex_keras.shell import recipes, settings

MLP = ["--set", "kind=mlp", "--set", "units=[8]", "--set", "batch_size=100", "--epochs", "1"]


def test_a_run_draws_its_way_from_noise(folder):
    assert cli.main(["train", "diffusion", "--data", "digits", "--output", "run", *MLP]) == 0
    for name in ("samples.png", "denoising.png", "loss.png"):
        assert Image.open(folder / "run" / name).size[0] > 100
    model = keras.saving.load_model(folder / "run" / "model.keras")
    assert np.asarray(keras.ops.convert_to_numpy(model.sample(2))).shape == (2, 8, 8, 1)
    assert cli.main(["sample", "run", "--count", "4"]) == 0


def made(source, **requested):
    family = recipes.FAMILIES["diffusion"]
    requested = settings.validate(requested, family)
    dataset = load(source)
    config = settings.merge(family.defaults(dataset, requested), requested)
    return family.networks(dataset, config["network"], config["model"])["network"]


def test_networks_suit_the_data():
    assert any(isinstance(layer, keras.layers.Conv2D) for layer in made("digits").layers)
    assert not any(isinstance(layer, keras.layers.Conv2D) for layer in made("ring").layers)
    embedding = made("ring", model={"noise_schedule": "edm"}).get_layer("network_embedding")
    assert embedding.time_scale == 100.0


@pytest.mark.parametrize(
    ("source", "network", "message"),
    [
        ("ring", {"kind": "unet"}, "A U-Net is for images"),
        ("ring", {"kind": "conv"}, "Unknown kind of network 'conv'"),
        ("digits", {"units": [8]}, "`units` is of no use to networks of kind 'unet'"),
    ],
)
def test_networks_that_do_not_suit_are_refused(source, network, message):
    with pytest.raises(ValueError, match=message):
        made(source, network=network)
