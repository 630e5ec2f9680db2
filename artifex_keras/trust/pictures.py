"""Images, of the kinds that we read: Pillow knows many more, and runs programs for some."""

import contextlib
import functools

from artifex_keras.trust.reading import existing, reading

__all__ = ["open_image"]

WHAT = "an image"
# What stands in files of the endings in `artifex_keras.endings.IMAGES`, also under a wrong one.
# Pillow would open PostScript too, by a program that draws what the file says.
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")


@contextlib.contextmanager
def open_image(path):
    """A context with a `PIL.Image.Image`, open until its end.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: for one that is no ordinary file, is damaged or of another format, here or
            while its pixels are read inside the context.
    """
    from PIL import Image

    path = existing(path, WHAT)
    with reading(path, WHAT), Image.open(path, formats=_formats()) as image:
        yield image


@functools.cache
def _formats():
    """Those that the installed Pillow knows."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]
