"""Models from `.keras` files."""

import keras

from artifex_keras.remote import local_path
from artifex_keras.trust.arrays import check_archive
from artifex_keras.trust.reading import existing, reading

__all__ = ["load_model"]

WHAT = "a Keras model"


def load_model(path, **options):
    """The model in a `.keras` file, by Keras, which runs no code out of it.

    Args:
        path: the file.
        **options: what `keras.saving.load_model` takes.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: whatever else is wrong with it.
    """
    path = local_path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no model {str(path)!r}.")
    existing(path, WHAT)
    with reading(path, WHAT):
        check_archive(path)
        return keras.saving.load_model(path, **options)
