"""Energy-based models from the shell: settings that suit data and method, and the pictures."""

import numpy as np
import pytest

from artifex_keras import cli, pictures
from artifex_keras.models.energy import TRAINING_METHODS
from artifex_keras.shell import training


@pytest.mark.parametrize("method", TRAINING_METHODS)
@pytest.mark.parametrize("source", ["digits", "ring"])
def test_settings_suit_the_data_and_the_method(source, method):
    requested = {"data": {"source": source}, "model": {"training_method": method}}
    config, dataset, trainer = training.prepare("energy", requested)
    model = trainer.model
    low, high = model.value_range or (-np.inf, np.inf)
    assert low <= dataset.train.min() and dataset.train.max() <= high
    assert model.training_method == method
    bent = trainer.model.network.layers[2].activation.__name__ == "silu"
    assert bent == (source == "digits" or method not in ("cd", "pcd"))
    assert model.sampler == ("mala" if source == "ring" and method in ("cd", "pcd") else "langevin")
    if method == "denoising_score_matching":
        levels = model.noise_levels
        assert len(levels) == 10 and levels[0] == pytest.approx(20 * levels[-1], rel=0.02)


def test_a_run_of_points_draws_the_density(tmp_path):
    small = ["--epochs", "1", "--set", "units=[8]", "--set", "mcmc_steps=2"]
    data = ["--data", "ring", "--set", "count=500"]
    assert cli.main(["train", "energy", *data, *small, "--output", str(tmp_path / "run")]) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"samples.png", "density.png", "loss.png", "model.keras", "history.csv"} <= names
    with pytest.raises(SystemExit):
        cli.main(["train", "energy", "--mcmc"])


def test_a_density_is_dark_where_it_is_high(tmp_path):
    from PIL import Image

    path = pictures.density(
        lambda x: -np.sum((x - [2.0, -2.0]) ** 2, axis=1), tmp_path / "d.png", bounds=(-4, 4)
    )
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L"), dtype=float)
    row, column = np.argwhere((grey < 90) & (grey > 40)).mean(axis=0) / grey.shape
    assert row > 0.5 and column > 0.5  # below and right of the middle
