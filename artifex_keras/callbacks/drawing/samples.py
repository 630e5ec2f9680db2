"""Samples: images in a grid, points over those of the data."""

import inspect

import numpy as np

from artifex_keras import pictures
from artifex_keras.callbacks.drawing.examples import EXAMPLES
from artifex_keras.callbacks.drawing.kind import Kind
from artifex_keras.callbacks.drawing.view import POINTS

__all__ = ["SAMPLES"]


def _samples(view):
    n = view.num_samples
    return view.samples(n if view.layout == "images" else max(n, POINTS))


def _has_samples(view):
    seeded = view.has("sample") and "seed" in inspect.signature(view.model.sample).parameters
    flat = view.layout == "vectors" and view.x is None
    return seeded and view.layout is not None and not flat


def _draw_samples(view, samples, path, title):
    if view.layout == "images":
        classes = view.conditions(len(samples))
        columns = None if classes is None else len(np.unique(classes, axis=0))
        columns = columns if columns in range(2, 13) else None
        images, limits = view.images(samples), view.limits(samples)
        return pictures.image_grid(images, path, title=title, columns=columns, limits=limits)
    if view.layout == "plane":
        reference = None if view.x is None else view.subset(EXAMPLES)
        return pictures.scatter(samples, path, reference=reference, title=title)
    flat = pictures.principal_plane(view.x)
    names = ("first principal component", "second")
    reference = flat(view.x)
    return pictures.scatter(
        flat(samples), path, reference=reference, title=title, axes_labels=names
    )


SAMPLES = Kind(
    title="Samples",
    needs="`sample(n, seed=...)`, and images or points; `data` for points of more than two axes",
    applies=_has_samples,
    content=_samples,
    draw=_draw_samples,
)
