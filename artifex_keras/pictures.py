"""Pictures of runs, as files: samples, reconstructions, loss curves, points in the plane.

Each function writes one file, whose ending says the format (PNG, SVG, PDF), and gives its path.
Nothing is shown, and no state of matplotlib's is touched.
"""

import csv
import math
from pathlib import Path

import numpy as np

__all__ = ["density", "image_grid", "loss_curves", "reconstructions", "scatter"]

INK = "#333333"
TRAINING, VALIDATION = "#1f5fa8", "#e07b16"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def image_grid(images, path, *, title=None, columns=None, limits=(0.0, 1.0)):
    """Images (N, height, width), or with 1 or 3 channels, in rows.

    Args:
        images: values between `limits`; what lies outside is clipped.
        path: the file to write.
        title: above the images.
        columns: images per row; about square by default.
        limits: the values that are black and white.
    """
    images = _images(images, limits)
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    sheet = _sheet(images, columns)
    with _figure(_inches(sheet), title) as figure:
        _show(figure.add_subplot(), sheet)
        return _written(figure, path)


def reconstructions(
    originals,
    rebuilt,
    path,
    *,
    title=None,
    columns=10,
    limits=(0.0, 1.0),
    labels=("original", "rebuilt"),
):
    """Each original above what became of it, in rows of `columns` pairs with the two `labels`."""
    originals, rebuilt = _images(originals, limits), _images(rebuilt, limits)
    if originals.shape != rebuilt.shape:
        raise ValueError(
            "`originals` and `rebuilt` must have one shape. Received: shapes "
            f"{originals.shape} and {rebuilt.shape}."
        )
    starts = range(0, len(originals), columns)
    bands = [
        _sheet(
            np.concatenate([originals[i : i + columns], rebuilt[i : i + columns]]),
            min(columns, len(originals)),
            rows_of=len(originals[i : i + columns]),
        )
        for i in starts
    ]
    width, height = _inches(bands[0])
    with _figure((width + 0.8, (height + 0.1) * len(bands)), title) as figure:
        for axes, band in zip(np.ravel(figure.subplots(len(bands), 1)), bands, strict=True):
            _show(axes, band)
            quarter = band.shape[0] / 4
            axes.set_yticks([quarter, 3 * quarter], labels)
            axes.tick_params(length=0)
        return _written(figure, path)


def loss_curves(history, path, *, title=None, units=None):
    """A panel for each metric, training and validation in one, the loss first.

    Scales are logarithmic where the values are positive and fall by more than a factor of 20.

    Args:
        history: what `fit` gives, a dict of lists, or the path of a `CSVLogger` file.
        path: the file to write.
        title: above the panels.
        units: `{metric: unit}` for the axes.
    """
    epochs, curves = _curves(history)
    names = [name for name in curves if not name.startswith("val_")]
    names.sort(key=lambda name: name != "loss")
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    with _figure((3.3 * columns, 2.5 * rows), title) as figure:
        panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
        for axes, name in zip(panels, names, strict=False):
            _curve(axes, epochs, name, curves, (units or {}).get(name))
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        if len(labels) > 1:
            panels[0].legend(handles, labels)
        return _written(figure, path)


def scatter(points, path, *, reference=None, title=None, labels=("samples", "data")):
    """Points (N, 2) in the plane, over those of `reference` in grey, both axes in one scale."""
    points = _plane(points)
    reference = reference if reference is None else _plane(reference)
    view = _view(points if reference is None else reference)
    with _figure(_plane_inches(view), title) as figure:
        axes = figure.add_subplot()
        if reference is not None:
            axes.scatter(*reference.T, s=_size(reference), color="#b8b8b8", lw=0, label=labels[1])
        axes.scatter(*points.T, s=_size(points), color=TRAINING, alpha=0.6, lw=0, label=labels[0])
        axes.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$", **view)
        if reference is not None:
            figure.legend(loc="outside lower center", ncols=2, markerscale=2)
        return _written(figure, path)


def density(log_prob, path, *, bounds, reference=None, title=None, size=200):
    """A density over the square `bounds`, (low, high) of both axes, with points (N, 2) on it.

    Args:
        log_prob: from points (N, 2) to ln p, (N,), or anything that differs from it by a constant.
        path: the file to write.
        bounds: the square.
        reference: points to draw over it.
        title: above it.
        size: pixels a side.
    """
    low, high = bounds
    axis = low + (high - low) * (np.arange(size) + 0.5) / size
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype("float32")
    values = np.asarray(log_prob(points), dtype="float64").reshape(size, size)
    with _figure((4.6, 4.6), title) as figure:
        axes = figure.add_subplot()
        shade = np.exp(values - values.max())
        axes.imshow(shade, origin="lower", extent=(low, high, low, high), cmap="Blues")
        if reference is not None:
            reference = _plane(reference)
            axes.scatter(*reference.T, s=_size(reference) / 2, color=VALIDATION, alpha=0.5, lw=0)
        axes.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$", xlim=bounds, ylim=bounds)
        axes.grid(False)
        return _written(figure, path)


# The sheet


class _figure:
    """A figure of our style that belongs to nobody else."""

    def __init__(self, size, title):
        self.size, self.title = size, title

    def __enter__(self):
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        self.style = rc_context(STYLE)
        self.style.__enter__()
        width, height = self.size
        figure = Figure(
            (width, height + (0.35 if self.title else 0)), layout="constrained", dpi=150
        )
        if self.title:
            figure.suptitle(self.title, fontsize=11)
        return figure

    def __exit__(self, *error):
        return self.style.__exit__(*error)


def _written(figure, path):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.1)
    return path


# Images


def _images(images, limits):
    """(N, height, width, 1 or 3) between 0 and 1."""
    images = np.asarray(images, dtype="float32")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(
            "Images must have the shape (N, height, width), with 1 or 3 channels behind it or "
            f"none, and N at least 1. Received: an array of shape {images.shape}."
        )
    low, high = limits
    return np.clip((images - low) / (high - low), 0, 1)


def _sheet(images, columns, rows_of=None):
    """The images side by side on white, `columns` to a row; a row holds at most `rows_of`."""
    count, height, width, channels = images.shape
    rows_of = rows_of or columns
    gap = max(round(min(height, width) / 12), 1)
    rows = -(-count // rows_of)
    sheet = np.ones((rows * (height + gap) + gap, columns * (width + gap) + gap, channels))
    for number, image in enumerate(images):
        row, column = divmod(number, rows_of)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _inches(sheet):
    """Width and height at which a sheet is well seen: 8 inches at its longer side at most."""
    height, width = sheet.shape[:2]
    scale = min(1 / 16, 8 / max(height, width))
    return width * scale, height * scale


def _show(axes, sheet):
    axes.imshow(
        sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet,
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


# Curves


def _curves(history):
    """The epochs, from 1, and the values of each metric."""
    if isinstance(history, str | Path):
        with open(history, newline="") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in (rows[0] if rows else {}) if name != "epoch"]
        curves = {name: np.array([_number(row[name]) for row in rows]) for name in names}
        epochs = np.array([int(row["epoch"]) + 1 for row in rows])
    else:
        curves = getattr(history, "history", history)
        curves = {name: np.asarray(values, dtype=float) for name, values in curves.items()}
        length = max(map(len, curves.values()), default=0)
        epochs = np.asarray(getattr(history, "epoch", range(length))) + 1
    if not len(epochs):
        raise ValueError("The history is empty: no epoch has been finished.")
    return epochs, curves


def _number(text):
    try:
        return float(text)
    except ValueError:  # an epoch without validation
        return math.nan


def _curve(axes, epochs, name, curves, unit):
    few = {"marker": "o", "markersize": 3} if len(epochs) < 10 else {}
    for key, label, colour in (
        (name, "training", TRAINING),
        (f"val_{name}", "validation", VALIDATION),
    ):
        if key in curves:
            axes.plot(
                epochs[-len(curves[key]) :], curves[key], color=colour, lw=1.5, label=label, **few
            )
    if _falls_by_decades(curves[name]):
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title=name.replace("_", " "), xlabel="epoch", ylabel=unit or "")
    axes.margins(x=0.02)


def _falls_by_decades(curve):
    curve = curve[np.isfinite(curve)]
    positive = len(curve) > 1 and curve.min() > 0
    return positive and curve.max() > 20 * curve.min() and curve.argmax() < curve.argmin()


# Points


def _plane(points):
    points = np.asarray(points, dtype="float32")
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"Points must have the shape (N, 2). Received: shape {points.shape}.")
    return points


def _size(points):
    """The area of a dot in square points: smaller where there are many."""
    return float(np.clip(4000 / max(len(points), 1), 2, 20))


def _view(points):
    """Limits a little wider than the data, so that a stray sample doesn't shrink the picture."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.15 * (high - low).max() or 1.0
    low, high = low - margin, high + margin
    return {"xlim": (low[0], high[0]), "ylim": (low[1], high[1])}


def _plane_inches(view):
    """A size in which both axes have one scale, the longer one 4 inches."""
    extents = np.array([view["xlim"][1] - view["xlim"][0], view["ylim"][1] - view["ylim"][0]])
    width, height = 4.0 * extents / extents.max()
    return max(width, 2.0) + 0.6, max(height, 1.5) + 0.8
