"""Animations."""

from collections.abc import Sequence

import numpy as np

from artifex_keras.aliases import FilePath
from artifex_keras.atomic import atomic_file, user_path
from artifex_keras.trust import open_image

__all__ = ["animation"]


def animation(
    paths: Sequence[FilePath],
    path: FilePath,
    *,
    seconds: float = 0.25,
    hold: float = 1.5,
    frames: int = 100,
    width: int = 800,
):
    """Writes a GIF of pictures; the file is replaced atomically.

    Args:
        paths: picture files, in their order.
        path: the file to write.
        seconds: the duration of a picture.
        hold: the duration of the last picture, in seconds.
        frames: the largest number of pictures; of more, evenly spaced ones with the last are taken.
        width: the largest width in pixels; wider pictures are scaled down.

    Returns:
        The path.

    Raises:
        ValueError: without a picture.

    Example:

        ```python
        import numpy as np
        from artifex_keras import pictures

        states = np.random.default_rng(0).uniform(size=(2, 4, 8, 8))
        files = [pictures.image_grid(images, f"{i}.png") for i, images in enumerate(states)]
        pictures.animation(files, "moving.gif")
        ```
    """
    paths, path = list(paths), user_path(path)
    if not paths:
        raise ValueError("An animation needs pictures. Received: none.")
    if len(paths) > frames:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, frames).round().astype(int)]
    images = []
    for name in paths:
        with open_image(name) as image:
            images.append(image.convert("RGB"))
    size = tuple(max(image.size[side] for image in images) for side in (0, 1))
    scale = min(1.0, width / size[0])
    sheets = [_frame(image, size, scale) for image in images]
    times = [round(1000 * seconds)] * (len(sheets) - 1) + [round(1000 * hold)]
    with atomic_file(path) as temporary:
        sheets[0].save(
            temporary, format="GIF", save_all=True, append_images=sheets[1:], duration=times, loop=0
        )
    return path


def _frame(image, size, scale):
    """The picture centred on a white sheet of that size, in 256 colours of its own."""
    from PIL import Image

    sheet = Image.new("RGB", size, "white")
    sheet.paste(
        image, tuple((outer - inner) // 2 for outer, inner in zip(size, image.size, strict=True))
    )
    if scale < 1:
        sheet = sheet.resize([round(side * scale) for side in size], Image.Resampling.LANCZOS)
    # Rare colours count: by their numbers alone those of small dots would be lost.
    return sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2)
