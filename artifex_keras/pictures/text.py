"""Texts that a model has written, as a file."""

from pathlib import Path

__all__ = ["joined", "texts"]


def joined(rows):
    """Texts with a line between them; rows of ids, one below the other."""
    if all(isinstance(row, str) for row in rows):
        return f"\n{'-' * 40}\n".join(rows) + "\n"
    return "\n".join(" ".join(map(str, row)) for row in rows) + "\n"


def texts(rows, path):
    """The `joined` rows in a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(joined(rows), encoding="utf-8")
    return path
