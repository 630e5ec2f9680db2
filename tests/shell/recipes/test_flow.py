"""Flows from the shell: what a run of either family is made of, and what it leaves."""

import csv

import numpy as np
import pytest
from keras import ops

from artifex_keras.cli import main
from artifex_keras.datasets import load
from artifex_keras.shell import recipes, settings
from artifex_keras.shell.recipes import flow


def made(name, source, **network):
    """The model that the shell would train, and its config."""
    family = recipes.FAMILIES[name]
    requested = settings.validate({"network": network} if network else {}, family)
    dataset = load(source, **({} if source == "digits" else {"count": 200}))
    config = settings.merge(family.defaults(dataset, requested), requested)
    networks = family.networks(dataset, config["network"], config["model"])
    return family.model(**networks, **config["model"]), dataset


@pytest.mark.parametrize("kind", flow.FLOWS)
def test_a_flow_of_each_kind_is_made_for_images(kind):
    model, dataset = made("flow", "digits", kind=kind, units=[4])
    assert (model.data_shape, model.dequantize) == (dataset.shape, 17)
    model.check_batch(dataset.train, None)


def test_a_flow_of_points_begins_with_their_moments():
    model, dataset = made("flow", "moons", units=[4])
    z = ops.convert_to_numpy(model.bijection.bijections[0].forward_and_log_det(dataset.train)[0])
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=1e-4)


def test_what_a_kind_has_no_use_for_is_refused():
    with pytest.raises(ValueError, match="`num_scales` is of no use to networks of kind 'spline'"):
        made("flow", "moons", num_scales=2)
    with pytest.raises(ValueError, match="A U-Net is for images"):
        made("flow-matching", "moons", kind="unet")


@pytest.mark.slow
def test_a_run_leaves_a_model_and_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flow.pictures, "density", lambda log_prob, path, **_: path)
    short = ["--epochs", "1", "--set", "count=500", "--set", "units=[8]"]
    for name in ("flow", "flow-matching"):
        assert main(["train", name, "--data", "ring", *short]) == 0
        folder = tmp_path / "runs" / f"{name}-1"
        assert {"model.keras", "samples.png", "loss.png"} <= {f.name for f in folder.iterdir()}
        with open(folder / "history.csv") as file:
            assert len(list(csv.DictReader(file))) == 1
