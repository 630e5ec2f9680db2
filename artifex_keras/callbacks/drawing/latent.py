"""The data's latent codes, in two dimensions."""

import math

import numpy as np

from artifex_keras import pictures
from artifex_keras.callbacks.drawing.arrays import to_numpy
from artifex_keras.callbacks.drawing.kind import Kind

__all__ = ["LATENT"]


def _codes(view):
    mean = view.model.encode(view.x, *view.given(len(view.x)))[0]
    return to_numpy(mean).reshape(len(view.x), -1)


def _has_codes(view):
    if view.x is None or len(view.x) < 3 or not view.has("encode", "decode", "reconstruct"):
        return False
    return math.prod(getattr(view.model, "latent_shape", (0,))) >= 2


def _draw_codes(view, codes, path, title):
    names = ("$z_1$", "$z_2$")
    if codes.shape[1] > 2:
        codes = pictures.principal_plane(codes)(codes)
        names = ("first principal component", "second")
    labels = None if view.y is None else _one_number(view.y)
    return pictures.latent_map(codes, path, labels=labels, title=title, axes_labels=names)


def _one_number(labels):
    """Labels as one number each: the class of one-hot rows; None for other rows."""
    if labels.ndim == 1:
        return labels
    flat = labels.reshape(len(labels), -1)
    one_hot = np.isin(flat, (0, 1)).all() and (flat.sum(axis=1) == 1).all()
    return flat.argmax(axis=1) if one_hot else None


LATENT = Kind(
    title="Codes of the data",
    needs="`encode` and `decode` with codes of two dimensions or more, and data",
    applies=_has_codes,
    content=_codes,
    draw=_draw_codes,
)
