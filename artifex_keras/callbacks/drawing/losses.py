"""The loss curves."""

import types

from artifex_keras import pictures
from artifex_keras.callbacks.drawing.kind import Kind

__all__ = ["LOSSES"]


def _losses(view):
    return types.SimpleNamespace(history=view.history, epoch=view.epochs)


def _draw_losses(view, history, path, title):
    quiet = getattr(view.model, "quiet_metrics", ())
    return pictures.loss_curves(history, path, title=title, units=view.units, quiet=quiet)


LOSSES = Kind(
    title="Losses",
    needs="an epoch that is over",
    applies=lambda view: bool(view.epochs),
    content=_losses,
    draw=_draw_losses,
    animated=False,
)
