"""The gallery's rows can be built and trained, and its page has the numbers that were measured."""

import dataclasses
import inspect
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

if keras.config.backend() != "jax":
    pytest.skip("the gallery is made on JAX", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from artifex_keras import create_optimizer  # noqa: E402
from benchmarks.gallery import page, running  # noqa: E402
from benchmarks.gallery.drawing import sheet  # noqa: E402
from benchmarks.gallery.rows import ROWS, prepared  # noqa: E402

RECORD = ROOT / "benchmarks" / "results" / "gallery.json"
PAGE = ROOT / "docs" / "gallery.md"
PICTURES = sorted((ROOT / "docs" / "gallery").glob("*.png"))


@pytest.fixture
def mine(tmp_path):
    """A user's file: 60 grey images of 28×28 in ten classes."""
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype="uint8")
    labels = np.arange(60) % 10
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:])
    return path


@pytest.mark.site  # some seconds
def test_a_row_leaves_a_model_numbers_and_a_picture(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "EXAMPLES", 40)
    small = {"latent_dim": 2, "units": (8,), "reconstruction": "bce"}
    row = dataclasses.replace(ROWS["vae-mnist"], network=small, samples=8, tested=2)
    found = running.run("mine", row, mine, tmp_path, steps=2)
    assert found["steps"] == 2 and found["samples"] == 8
    # Before it has learned anything, each pixel costs about one bit.
    assert found["likelihood"]["value"] == pytest.approx(784 * np.log(2), rel=0.02)
    assert page.line("mine", found).count("|") == page.HEAD.splitlines()[0].count("|")
    kept = {path.name for path in tmp_path.iterdir()}
    assert {"mine.keras", "mine.json", "mine.png", "features-mnist.keras"} <= kept


@pytest.mark.parametrize("name", ["vae-fashion", "matching-mnist"])
def test_bits_per_dimension_count_256_levels(name):
    """A uniform density of [0, 1] costs 8 bits, and one of [-1, 1] too."""

    class Uniform:
        def log_likelihood(self, x, **options):
            return np.zeros(len(x))

        def bits_per_dim(self, x, labels, **options):
            return np.full(len(x), 1.0)

    row = ROWS[name]
    x = prepared(row, np.zeros((3, 28, 28, 1), "float32"), 0)
    assert row.likelihood(Uniform(), x, np.zeros(3, "int32")) == pytest.approx(8.0)


def test_images_become_what_a_model_wants():
    x = np.full((200, 28, 28, 1), 0.25, "float32")
    assert prepared(ROWS["vae-mnist"], x, 0).mean() == pytest.approx(0.25, abs=0.01)
    assert prepared(ROWS["diffusion-mnist"], x, 0)[0, 0, 0, 0] == -0.5
    levels = prepared(ROWS["vae-fashion"], np.full((2, 9, 9, 1), 1.0, "float32"), 0)
    assert 255 / 256 <= levels.min() and levels.max() < 1


def test_a_sheet_has_the_images_in_rows():
    paper = sheet(np.arange(3, dtype="float32").reshape(3, 1, 1, 1) / 2, rows=2, columns=2)
    assert paper[2, 2, 0] == 0 and paper[2, 5, 0] == 128 and paper[5, 2, 0] == 255
    assert paper.shape == (8, 8, 1)


@pytest.mark.parametrize("gpu", [False, True])
def test_each_row_has_settings_that_its_functions_take(gpu):
    known = set(inspect.signature(create_optimizer).parameters) | {"steps", "batch_size"}
    for name, row in ROWS.items():
        network, training = running.sections(row, gpu)
        given = {"vocabulary": 65, **network} if row.data == "shakespeare" else network
        inspect.signature(row.build).bind((28, 28, 1), **given)
        assert {"steps", "batch_size", "learning_rate"} <= set(training) <= known, name


# The page


def test_the_page_has_the_recorded_numbers():
    text, results = PAGE.read_text("utf-8"), page.recorded(RECORD)
    assert results
    missing = [line for line in map(page.line, results, results.values()) if line not in text]
    assert not missing, "`python -m benchmarks.gallery --table` prints the table."


def test_the_record_is_of_the_settings_that_the_rows_have():
    for name, found in page.recorded(RECORD).items():
        training = ROWS[name].training
        assert not found["gpu"] and found["batch_size"] == training["batch_size"]
        assert 0 <= training["steps"] - found["steps"] < 10, name


def test_the_page_has_a_section_for_each_recorded_row():
    text = PAGE.read_text("utf-8")
    for name in page.recorded(RECORD):
        assert f"\n### {name}\n" in text
        for gpu in (False, True):
            assert page.command(name, ROWS[name], gpu) in text


def test_the_pictures_are_small_and_shown():
    text = PAGE.read_text("utf-8")
    for path in PICTURES:
        assert path.stat().st_size < (150_000 if path.stem == "montage" else 100_000), path.name
        assert path.stem == "montage" or f"(gallery/{path.name})" in text
        assert Image.open(path).width < 1400
    assert sum(path.stat().st_size for path in PICTURES) < 1_000_000
