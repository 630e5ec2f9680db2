"""Generated texts as a file."""

from collections.abc import Sequence

from artifex_keras.aliases import FilePath
from artifex_keras.atomic import user_path, write_text

__all__ = ["joined", "texts"]


def joined(rows: Sequence[str]):
    """One string of all rows: texts with a line between them, rows of ids as lines.

    Example:

        ```python
        from artifex_keras import pictures

        assert pictures.joined([[1, 2], [3, 4]]) == "1 2\\n3 4\\n"
        ```
    """
    if all(isinstance(row, str) for row in rows):
        return f"\n{'-' * 40}\n".join(rows) + "\n"
    return "\n".join(" ".join(map(str, row)) for row in rows) + "\n"


def texts(rows: Sequence[str], path: FilePath):
    """Writes texts or rows of ids to a file, as `joined` puts them. Returns the path.

    Example:

        ```python
        from artifex_keras import pictures

        path = pictures.texts(["first", "second"], "samples.txt")
        assert path.read_text().startswith("first")
        ```
    """
    path = user_path(path)
    write_text(path, joined(rows))
    return path
