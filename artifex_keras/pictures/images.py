"""Images in rows: samples, pairs, and what becomes of noise."""

import math

import numpy as np

from artifex_keras.pictures.sheet import figure_of, written

__all__ = ["image_grid", "reconstructions", "strips"]


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
    with figure_of(_inches(sheet), title) as figure:
        _show(figure.add_subplot(), sheet)
        return written(figure, path)


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
    with figure_of((width + 0.8, (height + 0.1) * len(bands)), title) as figure:
        for axes, band in zip(np.ravel(figure.subplots(len(bands), 1)), bands, strict=True):
            _show(axes, band)
            quarter = band.shape[0] / 4
            axes.set_yticks([quarter, 3 * quarter], labels)
            axes.tick_params(length=0)
        return written(figure, path)


def strips(states, path, *, title=None, limits=(0.0, 1.0), labels=("noise", "sample")):
    """A row for each example: its states (frames, N, height, width, ...) from left to right.

    `labels` stand below the first and the last column.
    """
    states = np.asarray(states)
    if states.ndim < 4 or not len(states):
        raise ValueError(
            "States must have the shape (frames, N, height, width), with channels behind it or "
            f"none. Received: an array of shape {states.shape}."
        )
    frames, count = states.shape[:2]
    images = _images(states.swapaxes(0, 1).reshape(frames * count, *states.shape[2:]), limits)
    sheet = _sheet(images, frames)
    with figure_of(_inches(sheet), title) as figure:
        axes = figure.add_subplot()
        _show(axes, sheet)
        half = sheet.shape[1] / frames / 2
        axes.set_xticks([half, sheet.shape[1] - half], labels)
        axes.tick_params(length=0)
        return written(figure, path)


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
