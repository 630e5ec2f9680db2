"""Sheets of samples as small PNG files."""

import numpy as np
from PIL import Image

from artifex_keras.atomic import atomic_file

__all__ = ["montage", "save_sheet", "sheet"]

ROWS, COLUMNS, GAP = 8, 10, 2
GREYS, COLOURS = 16, 64  # of a palette


def sheet(images, rows=ROWS, columns=COLUMNS):
    """Images in [0, 1], (N, H, W, C), in rows and columns on white: bytes (H', W', C)."""
    count, height, width, channels = images.shape
    count = min(count, rows * columns)
    shape = (GAP + -(-count // columns) * (height + GAP), GAP + columns * (width + GAP), channels)
    paper = np.full(shape, 255, "uint8")
    for number, image in enumerate(images[:count]):
        row, column = divmod(number, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        paper[top : top + height, left : left + width] = np.round(255 * np.clip(image, 0, 1))
    return paper


def save_sheet(paper, path, scale=2, colours=COLOURS):
    """Writes a sheet with a small palette, each pixel `scale` wide."""
    grey = paper.shape[-1] == 1
    if grey:
        paper = (np.round(paper[..., 0] / 255 * (GREYS - 1)) * (255 / (GREYS - 1))).astype("uint8")
    image = Image.fromarray(paper)
    image = image.quantize(GREYS if grey else colours, dither=Image.Dither.NONE)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    with atomic_file(path) as temporary:
        image.save(temporary, optimize=True)


def montage(sheets, path, columns=2):
    """Writes several sheets of one size as one picture, grey and coloured ones together."""
    sheets = [np.repeat(each, 3 // each.shape[-1], axis=-1) for each in sheets]
    height, width = (min(each.shape[axis] for each in sheets) for axis in (0, 1))
    sheets = [each[:height, :width] for each in sheets]
    rows = [np.concatenate(sheets[i : i + columns], 1) for i in range(0, len(sheets), columns)]
    save_sheet(np.concatenate(rows), path)
