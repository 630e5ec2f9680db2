"""The description of a kind of picture: a row of `KINDS`."""

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Kind"]


class Kind(NamedTuple):
    """A kind of picture.

    Attributes:
        title: the title of the picture.
        needs: what it needs of model and data, in words.
        applies: a function from a `View` to whether it has that.
        content: a function from a `View` to what the picture shows; calls the model.
        draw: `draw(view, content, path, title)` writes the picture.
        animated: whether the pictures of a run become a GIF.
        suffix: the suffix of the file.
    """

    title: str
    needs: str
    applies: Callable
    content: Callable
    draw: Callable
    animated: bool = True
    suffix: str = ".png"
