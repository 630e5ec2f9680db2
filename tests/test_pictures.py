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
    save = pictures.sheet.save_figure

    def keep(figure, path):
        written.append(figure)
        return save(figure, path)

    for module in (pictures.curves, pictures.images, pictures.plane):
        monkeypatch.setattr(module, "save_figure", keep)
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


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_ticks_are_whole_epochs(tmp_path, figures, epochs):
    pictures.loss_curves({"loss": [*range(3, 3 + epochs)]}, tmp_path / "loss.png")
    axes = figures[0].axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks and all(float(tick).is_integer() for tick in ticks)


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
    assert lines(figures[0].axes[0])["validation"] == ([2], [4.0])


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
def test_bad_arguments(tmp_path, draw, message):
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


def test_strips_go_from_left_to_right(tmp_path, figures):
    states = np.stack([np.zeros((2, 4, 4)), np.full((2, 4, 4), 0.5), np.ones((2, 4, 4))])
    states[:, 1] /= 2
    pictures.strips(states, tmp_path / "strips.png", labels=("first", "last"))
    sheet = shown(figures[0])
    assert sheet.shape == (2 * 5 + 1, 3 * 5 + 1)
    assert [sheet[2, 2], sheet[2, 7], sheet[2, 12]] == [0.0, 0.5, 1.0]
    assert [sheet[7, 2], sheet[7, 7], sheet[7, 12]] == [0.0, 0.25, 0.5]
    labels = figures[0].axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["first", "last"]


def test_a_landscape_shows_the_last_nats_below_the_top(tmp_path, figures):
    def log_p(x):
        return -(x**2).sum(axis=1)

    path = tmp_path / "log_p.png"
    pictures.landscape(log_p, path, bounds=(-2, 2), size=4, span=3.0)
    # Cell centres at ±.5 and ±1.5: -ln p is .5, 2.5 or 4.5, of which 3.5 is the end of the scale.
    expected = np.full((4, 4), -2.5)
    expected[1:3, 1:3], expected[::3, ::3] = -0.5, -3.5
    np.testing.assert_allclose(shown(figures[0]), expected)
    path = tmp_path / "energy.png"
    pictures.landscape(
        lambda x: -log_p(x), path, bounds=(-2, 2), size=4, span=3.0, low_is_likely=True
    )
    np.testing.assert_allclose(shown(figures[1]), -expected)


def test_arrows_point_along_the_field(tmp_path, figures):
    states = np.random.default_rng(0).normal(size=(2, 9, 2))
    turning = lambda x: np.stack([-x[:, 1], x[:, 0]], axis=1)  # noqa: E731
    options = {"bounds": (-1, 1), "labels": ["t = 0", "t = 1"], "fields": [turning, turning]}
    pictures.flight(states, tmp_path / "flight.png", **options)
    panels = figures[0].axes
    assert [axes.get_title("left") for axes in panels] == ["t = 0", "t = 1"]
    quiver = panels[0].collections[1]
    arrows, places = np.stack([quiver.U, quiver.V], 1), quiver.get_offsets()
    np.testing.assert_allclose((arrows * places).sum(axis=1), 0, atol=1e-6)
    lengths = np.linalg.norm(arrows, axis=1)
    assert lengths.max() == pytest.approx(0.9 * 2 / 15) and lengths.min() < 0.1 * lengths.max()


def test_codes_by_class(tmp_path, figures):
    codes, labels = np.arange(12.0).reshape(6, 2), np.array([3, 1, 3, 1, 1, 7])
    pictures.latent_map(codes, tmp_path / "map.png", labels=labels)
    groups = figures[0].axes[0].collections
    assert [group.get_label() for group in groups] == ["1", "3", "7"]
    np.testing.assert_array_equal(groups[1].get_offsets(), codes[labels == 3])


def test_the_principal_plane_of_a_line():
    line = np.linspace(-1, 1, 50)[:, None] * [[1.0, 2.0, -3.0]]
    flat = pictures.principal_plane(line)(line)
    np.testing.assert_allclose(flat[:, 0], -np.sqrt(14) * np.linspace(-1, 1, 50), atol=1e-12)
    np.testing.assert_allclose(flat[:, 1], 0, atol=1e-7)


def test_an_animation_shows_every_picture(tmp_path):
    colours = ["red", "lime", "blue"]
    for number, colour in enumerate(colours):
        Image.new("RGB", (30 + 10 * number, 20), colour).save(tmp_path / f"{number}.png")
    path = pictures.animation(sorted(tmp_path.glob("*.png")), tmp_path / "all.gif", width=25)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size) == (3, (25, 10))
        seen, times = [], []
        for number in range(3):
            gif.seek(number)
            seen.append(gif.convert("RGB").getpixel((12, 5)))
            times.append(gif.info["duration"])
    assert seen == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert times == [250, 250, 1500]
    assert not list(tmp_path.glob(".*"))


def test_a_long_animation_keeps_first_and_last(tmp_path):
    for number in range(7):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    path = pictures.animation(sorted(tmp_path.glob("*.png")), tmp_path / "all.gif", frames=3)
    with Image.open(path) as gif:
        seen = []
        for number in range(gif.n_frames):
            gif.seek(number)
            seen.append(gif.convert("RGB").getpixel((4, 4))[0])
    assert seen == [0, 120, 240]


def test_texts_with_a_line_between_them(tmp_path):
    path = pictures.texts(["one", "two"], tmp_path / "new" / "texts.txt")
    assert path.read_text() == f"one\n{'-' * 40}\ntwo\n"
    assert pictures.texts(np.array([[1, 2], [3, 4]]), path).read_text() == "1 2\n3 4\n"
