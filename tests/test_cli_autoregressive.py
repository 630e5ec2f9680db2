"""The shell with text and with pixels: trained, sampled, evaluated."""

from pathlib import Path

import numpy as np
import pytest

from artifex_keras import cli
from artifex_keras.config import parse_yaml

TEXT = "the quick brown fox jumps over the lazy dog.\nhe did not.\n" * 60
SMALL = ["--epochs", "2", "--seed", "1", "--optimizer", "sgd"]
TINY = ["--set", "num_layers=1", "--set", "width=8", "--set", "num_heads=1", "--set", "length=16"]


def shell(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run of a tiny transformer, and the text it was trained on."""
    place = tmp_path_factory.mktemp("text")
    (place / "text.txt").write_text(TEXT)
    arguments = ["--data", place / "text.txt", *SMALL, *TINY, "--output", place / "run"]
    assert shell("train", "autoregressive", *arguments) == 0
    return place / "run"


def test_a_text_is_learned_character_by_character(run):
    assert (run / "model.keras").exists() and (run / "loss.png").exists()
    config = parse_yaml((run / "config.yaml").read_text())
    assert config["data"]["length"] == 16 and config["network"]["width"] == 8
    samples = (run / "samples.txt").read_text()
    assert set(samples) <= set(TEXT) | {"-", "\n"} and samples.count("-" * 40) == 7


def test_samples_go_on_from_a_prompt_and_beyond_the_context(run, capsys):
    options = ["--prompt", "the qu", "--length", 40, "--count", 2, "--seed", 4]
    assert shell("sample", run, *options) == 0
    said = capsys.readouterr().out
    rows = np.load(run / "samples-1.npy")
    assert rows.shape == (2, 46) and said.startswith("the qu")
    assert str(run / "samples-1.txt") in said
    assert shell("sample", run, *options, "--output", run / "again.npy") == 0
    np.testing.assert_array_equal(np.load(run / "again.npy"), rows)


def test_another_text_is_read_with_the_characters_that_were_learned(run, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text("the lazy fox.\n" * 40)
    assert shell("evaluate", run, "--data", other) == 0
    assert "perplexity" in capsys.readouterr().out
    other.write_text("Ω" * 400)
    assert shell("evaluate", run, "--data", other) == 2
    assert "has no 'Ω'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["autoregressive", "pixel-autoregressive"])
def test_digits_are_learned_pixel_by_pixel(name, tmp_path):
    small = ["--set", "filters=4", "--set", "num_blocks=1", "--set", "first_kernel_size=3"]
    folder = tmp_path / "run"
    options = [*SMALL, *small, "--output", folder, "--batch-size", "500"]
    assert shell("train", name, "--data", "digits", *options) == 0
    config = parse_yaml((folder / "config.yaml").read_text())
    assert config["family"] == "pixel-autoregressive"
    assert config["model"]["num_levels"] == 17 and config["model"]["likelihood"] == "categorical"
    for name in ("samples.png", "completions.png"):
        assert (folder / name).stat().st_size > 1000


def test_a_setting_of_text_is_refused_with_images(tmp_path, capsys):
    options = ["--set", "num_layers=2", "--output", tmp_path / "run"]
    assert shell("train", "autoregressive", "--data", "digits", *options) == 2
    assert "Unknown key of `network` 'num_layers'" in capsys.readouterr().err


def test_a_setting_of_text_is_refused_elsewhere(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from artifex_keras.shell import commands, recipes

    arguments = cli.parser().parse_args(["sample", "run", "--prompt", "x"])
    with pytest.raises(ValueError, match="`--prompt` is of no use to VAE"):
        commands.sampling_options(recipes.FAMILIES["vae"], arguments)
    assert not list(Path(tmp_path).iterdir())
