"""Models from `.keras` files."""

from pathlib import Path

import keras

from artifex_keras.trust.arrays import check_archive
from artifex_keras.trust.reading import reading

__all__ = ["load_model"]


def load_model(path, **options):
    """The model in a `.keras` file, by Keras, which runs no code out of it.

    Args:
        path: the file.
        **options: what `keras.saving.load_model` takes.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: whatever else is wrong with it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no model {str(path)!r}.")
    with reading(path, "a Keras model"):
        if path.is_file():
            check_archive(path)
        return keras.saving.load_model(path, **options)
