"""What the shell knows of each family: a recipe that suits a data set, and how samples look.

A module of this folder with a table `RECIPES`, {name of the family: `Recipe`}, adds its families.
"""

import importlib
import pkgutil
from pathlib import Path

from artifex_keras import pictures

__all__ = ["FAMILIES", "TEXTS", "draw_samples", "in_units", "text_of"]


def _recipes():
    """The recipes of all modules of this folder, by the name of the family."""
    modules = [
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
    ]
    return {name: row for m in modules for name, row in getattr(m, "RECIPES", {}).items()}


FAMILIES = _recipes()
TEXTS = ("tokens", "rows")  # kinds of data whose samples are read rather than looked at


def draw_samples(samples, dataset, path, title=None):
    """A picture of samples beside the data they should resemble; None for more than the plane.

    Of tokens a text file, with the name of the picture but for its ending.
    """
    if dataset.kind in TEXTS:
        return pictures.texts(rows_of(samples, dataset), Path(path).with_suffix(".txt"))
    if dataset.kind == "images":
        limits = (-1.0, 1.0) if dataset.scale == "symmetric" else (0.0, 1.0)
        return pictures.image_grid(samples, path, title=title, limits=limits)
    if dataset.shape == (2,):
        reference = in_units(dataset.train[: max(len(samples), 500)], dataset)
        reference = reference if len(reference) else None
        samples = in_units(samples, dataset)
        names = {} if dataset.columns is None else {"axes_labels": dataset.columns.names}
        return pictures.scatter(samples, path, reference=reference, title=title, **names)
    return None


def in_units(samples, dataset):
    """Samples as their table has them; all others as they are."""
    return samples if dataset.columns is None else dataset.columns.in_units(samples)


def text_of(samples, dataset):
    """Rows of ids as text, with a line between them."""
    return pictures.joined(rows_of(samples, dataset))


def rows_of(samples, dataset):
    """Rows of ids as texts, or as they are where there is no tokenizer; texts as they are."""
    if samples.dtype.kind == "U":
        return samples.tolist()
    return samples if dataset.tokenizer is None else dataset.tokenizer.decode(samples)
