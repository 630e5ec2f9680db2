"""Images in rows: samples, pairs, trajectories from noise."""

import math
from collections.abc import Sequence

import numpy as np

from artifex_keras.aliases import FilePath, Limits, Tensor
from artifex_keras.pictures.sheet import new_figure, save_figure

__all__ = ["image_grid", "reconstructions", "strips"]


def image_grid(
    images: Tensor,
    path: FilePath,
    *,
    title: str | None = None,
    columns: int | None = None,
    limits: Limits = (0.0, 1.0),
):
    """Draws images in rows and columns.

    Args:
        images: (N, height, width), or with 1 or 3 channels behind; clipped to `limits`.
        path: the file to write.
        title: the title of the picture.
        columns: images per row; by default the grid is about square.
        limits: the values of black and white.

    Returns:
        The path.

    Raises:
        ValueError: for images of another shape.

    Example:

        ```python
        import numpy as np
        from artifex_keras import pictures

        images = np.random.default_rng(0).uniform(size=(6, 8, 8))
        pictures.image_grid(images, "grid.png", title="Samples")
        ```
    """
    images = _images(images, limits)
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    sheet = _sheet(images, columns)
    with new_figure(_inches(sheet), title) as figure:
        _show(figure.add_subplot(), sheet)
        return save_figure(figure, path)


def reconstructions(
    originals: Tensor,
    rebuilt: Tensor,
    path: FilePath,
    *,
    title: str | None = None,
    columns: int = 10,
    limits: Limits = (0.0, 1.0),
    labels: Sequence[str] = ("original", "rebuilt"),
):
    """Draws each original above its reconstruction.

    Args:
        originals: images (N, height, width), or with 1 or 3 channels behind.
        rebuilt: images of the same shape.
        path: the file to write.
        title: the title of the picture.
        columns: pairs per row.
        limits: the values of black and white.
        labels: the names of the two rows.

    Returns:
        The path.

    Raises:
        ValueError: for images of another shape, or of two shapes.

    Example:

        ```python
        import numpy as np
        from artifex_keras import pictures

        images = np.random.default_rng(0).uniform(size=(6, 8, 8))
        pictures.reconstructions(images, 0.9 * images, "pairs.png", columns=3)
        ```
    """
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
    with new_figure((width + 0.8, (height + 0.1) * len(bands)), title) as figure:
        for axes, band in zip(np.ravel(figure.subplots(len(bands), 1)), bands, strict=True):
            _show(axes, band)
            quarter = band.shape[0] / 4
            axes.set_yticks([quarter, 3 * quarter], labels)
            axes.tick_params(length=0)
        return save_figure(figure, path)


def strips(
    states: Tensor,
    path: FilePath,
    *,
    title: str | None = None,
    limits: Limits = (0.0, 1.0),
    labels: Sequence[str] = ("noise", "sample"),
):
    """Draws a row of images for each example: its states from left to right, such as denoising.

    Args:
        states: (frames, N, height, width), or with 1 or 3 channels behind.
        path: the file to write.
        title: the title of the picture.
        limits: the values of black and white.
        labels: the names of the first and the last column.

    Returns:
        The path.

    Raises:
        ValueError: for states of another shape.

    Example:

        ```python
        import numpy as np
        from artifex_keras import pictures

        images = np.random.default_rng(0).uniform(size=(6, 8, 8))
        pictures.strips(images.reshape(3, 2, 8, 8), "strips.png")
        ```
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
    with new_figure(_inches(sheet), title) as figure:
        axes = figure.add_subplot()
        _show(axes, sheet)
        half = sheet.shape[1] / frames / 2
        axes.set_xticks([half, sheet.shape[1] - half], labels)
        axes.tick_params(length=0)
        return save_figure(figure, path)


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
    """Width and height of a sheet in inches; the longer side is at most 8."""
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
