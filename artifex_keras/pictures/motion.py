"""Pictures one after another."""

import os
from pathlib import Path

import numpy as np

__all__ = ["animation"]


def animation(paths, path, *, seconds=0.25, hold=1.5, frames=100, width=800):
    """A GIF of the pictures at `paths`, which stays at the last one for a while.

    The file is there whole or not at all: it takes the place of an earlier one in one move.

    Args:
        paths: picture files, in their order.
        path: the file to write.
        seconds: how long a picture is shown, `hold` the last one.
        frames: at most so many: of more, some at equal distances, the last one among them.
        width: of the widest picture, in pixels; wider ones are made smaller.
    """
    from PIL import Image

    paths, path = list(paths), Path(path)
    if not paths:
        raise ValueError("An animation needs pictures. Received: none.")
    if len(paths) > frames:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, frames).round().astype(int)]
    images = []
    for name in paths:
        with Image.open(name) as image:
            images.append(image.convert("RGB"))
    size = tuple(max(image.size[side] for image in images) for side in (0, 1))
    scale = min(1.0, width / size[0])
    shown = [_frame(image, size, scale) for image in images]
    times = [round(1000 * seconds)] * (len(shown) - 1) + [round(1000 * hold)]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    shown[0].save(
        unfinished, format="GIF", save_all=True, append_images=shown[1:], duration=times, loop=0
    )
    os.replace(unfinished, path)
    return path


def _frame(image, size, scale):
    """The picture in the middle of white paper of that size, in 256 colours of its own."""
    from PIL import Image

    sheet = Image.new("RGB", size, "white")
    sheet.paste(
        image, tuple((whole - part) // 2 for whole, part in zip(size, image.size, strict=True))
    )
    if scale < 1:
        sheet = sheet.resize([round(side * scale) for side in size], Image.Resampling.LANCZOS)
    # Rare colours count: by their numbers alone those of small dots would be lost.
    return sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2)
