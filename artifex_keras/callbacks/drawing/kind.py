"""What a kind of picture is: a row of `KINDS`."""

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Kind"]


class Kind(NamedTuple):
    """A kind of picture.

    Attributes:
        title: what stands above it.
        needs: what it needs, in words.
        applies: whether a view has that.
        content: from a view what there is to see; asks the model.
        draw: writes that, `draw(view, content, path, title)`.
        animated: whether the pictures make an animation.
        suffix: of the file.
    """

    title: str
    needs: str
    applies: Callable
    content: Callable
    draw: Callable
    animated: bool = True
    suffix: str = ".png"
