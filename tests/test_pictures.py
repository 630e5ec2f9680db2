"""Pictures: what is drawn where, and that nothing of matplotlib's global state is touched."""

import csv

import keras
import numpy as np
import pytest
from PIL import Image

from artifex_keras import pictures

DIGITS = np.random.default_rng(0).uniform(size=(7, 8, 8)).astype("float32")


@pytest.fixture
def figures(monkeypatch):
    """The figures written in a test, for a look at what they hold."""
    written = []
    save = pictures._written

    def keep(figure, path):
        written.append(figure)
        return save(figure, path)

    monkeypatch.setattr(pictures, "_written", keep)
    return written


def shown(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def size(path):
    with Image.open(path) as image:
        return image.size


def test_a_grid_holds_every_image(tmp_path, figures):
    path = pictures.image_grid(DIGITS, tmp_path / "new" / "grid.png", columns=4)
    assert path == tmp_path / "new" / "grid.png" and min(size(path)) > 100
    sheet = shown(figures[0])
    assert sheet.shape == (2 * 9 + 1, 4 * 9 + 1)
    for number, image in enumerate(DIGITS):
        row, column = divmod(number, 4)
        part = sheet[1 + 9 * row : 9 + 9 * row, 1 + 9 * column : 9 + 9 * column]
        np.testing.assert_allclose(part, image, rtol=1e-6)
    assert (sheet[10:, 28:] == 1).all()  # no image, white


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_grey_and_colour(tmp_path, channels, figures):
    pictures.image_grid(np.zeros((5, 6, 4, *channels)), tmp_path / "grid.png", title="five")
    assert shown(figures[0]).shape[2:] == ((3,) if channels == (3,) else ())
    assert figures[0].get_suptitle() == "five"


def test_limits_are_black_and_white(tmp_path, figures):
    image = np.array([[[-1.0, 0.0], [1.0, 3.0]]])
    pictures.image_grid(image, tmp_path / "grid.png", limits=(-1, 1))
    np.testing.assert_array_equal(shown(figures[0])[1:3, 1:3], [[0.0, 0.5], [1.0, 1.0]])


def test_a_long_sheet_stays_small(tmp_path):
    assert max(size(pictures.image_grid(np.zeros((400, 28, 28)), tmp_path / "grid.png"))) < 1400


def test_reconstructions_are_below_their_originals(tmp_path, figures):
    pictures.reconstructions(DIGITS, 1 - DIGITS, tmp_path / "pairs.png", columns=5)
    bands = figures[0].axes
    assert len(bands) == 2
    sheet = np.asarray(bands[1].images[0].get_array())
    np.testing.assert_allclose(sheet[1:9, 10:18], DIGITS[6], rtol=1e-6)
    np.testing.assert_allclose(sheet[10:18, 10:18], 1 - DIGITS[6], rtol=1e-5)
    assert [label.get_text() for label in bands[0].get_yticklabels()] == ["original", "rebuilt"]


HISTORY = {
    "kl_loss": [1.0, 2.0, 3.0],
    "loss": [3.0, 2.0, 1.0],
    "val_loss": [4.0, 3.0, 2.0],
    "mse": [100.0, 10.0, 1.0],
    "weight": [0.01, 0.1, 1.0],
    "log_p": [-100.0, -10.0, -1.0],
}


def lines(axes):
    return {
        line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in axes.get_lines()
    }


def test_curves_by_metric_the_loss_first(tmp_path, figures):
    pictures.loss_curves(HISTORY, tmp_path / "loss.png", units={"loss": "nats"})
    panels = [axes for axes in figures[0].axes if axes.get_visible()]
    titles = [axes.get_title("left") for axes in panels]
    assert titles == ["loss", "kl loss", "mse", "weight", "log p"]
    assert lines(panels[0]) == {
        "training": ([1, 2, 3], [3.0, 2.0, 1.0]),
        "validation": ([1, 2, 3], [4.0, 3.0, 2.0]),
    }
    assert (panels[0].get_ylabel(), panels[0].get_xlabel()) == ("nats", "epoch")


def test_only_what_falls_by_decades_is_logarithmic(tmp_path, figures):
    pictures.loss_curves(HISTORY, tmp_path / "loss.png")
    scales = {axes.get_title("left"): axes.get_yscale() for axes in figures[0].axes}
    assert [name for name, scale in scales.items() if scale == "log"] == ["mse"]


def test_a_history_and_a_csv_file_draw_the_same(tmp_path, figures):
    history = keras.callbacks.History()
    history.epoch, history.history = [4, 5, 6], HISTORY
    pictures.loss_curves(history, tmp_path / "a.png")
    with open(tmp_path / "history.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *HISTORY])
        writer.writerows(
            [e, *values] for e, *values in zip([4, 5, 6], *HISTORY.values(), strict=True)
        )
    pictures.loss_curves(tmp_path / "history.csv", tmp_path / "b.png")
    for one, other in zip(*(figure.axes for figure in figures), strict=True):
        assert lines(one) == lines(other)
    assert lines(figures[0].axes[0])["training"][0] == [5, 6, 7]


def test_epochs_without_validation(tmp_path, figures):
    (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n0,3,NA\n1,2,4\n")
    pictures.loss_curves(tmp_path / "history.csv", tmp_path / "loss.png")
    assert lines(figures[0].axes[0])["validation"][1][1] == 4.0


def test_scatter_over_its_reference(tmp_path, figures):
    points, reference = np.array([[0.0, 0.0], [90.0, 0.0]]), np.array([[0.0, 0.0], [2.0, 1.0]])
    pictures.scatter(points, tmp_path / "points.png", reference=reference, title="two")
    axes = figures[0].axes[0]
    below, above = axes.collections
    np.testing.assert_array_equal(below.get_offsets(), reference)
    np.testing.assert_array_equal(above.get_offsets(), points)
    assert axes.get_aspect() == 1.0
    assert axes.get_xlim()[1] < 3  # a stray sample doesn't shrink the rest


def test_scatter_alone(tmp_path):
    assert pictures.scatter(np.zeros((1, 2)), tmp_path / "points.svg").stat().st_size


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda p: pictures.image_grid(np.zeros((3, 64)), p),
            r"shape \(N, height, width\).*\(3, 64\)",
        ),
        (lambda p: pictures.image_grid(np.zeros((0, 8, 8)), p), "N at least 1"),
        (lambda p: pictures.image_grid(np.zeros((2, 8, 8, 2)), p), "1 or 3 channels"),
        (lambda p: pictures.reconstructions(DIGITS, DIGITS[:3], p), "must have one shape"),
        (
            lambda p: pictures.scatter(np.zeros((3, 3)), p),
            r"shape \(N, 2\). Received: shape \(3, 3\)",
        ),
        (lambda p: pictures.loss_curves({}, p), "no epoch has been finished"),
    ],
)
def test_what_is_refused(tmp_path, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "picture.png")


def test_global_state_is_left_alone(tmp_path):
    from matplotlib import pyplot, rcParams

    before = dict(rcParams)
    pictures.loss_curves(HISTORY, tmp_path / "loss.png")
    with pytest.raises(ValueError):
        pictures.loss_curves({}, tmp_path / "loss.png")
    assert dict(rcParams) == before
    assert pyplot.get_fignums() == []
