"""Curves over epochs."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from artifex_keras.aliases import FilePath
from artifex_keras.pictures.sheet import TRAINING, VALIDATION, new_figure, save_figure
from artifex_keras.trust import read_text, reading

__all__ = ["loss_curves", "read_history"]

WHAT = "a table of epochs"
LARGEST = 1e300  # that an axis can show


def loss_curves(
    history: Any,
    path: FilePath,
    *,
    title: str | None = None,
    units: Mapping[str, str] | None = None,
    first: str = "loss",
    quiet: Sequence[str] = (),
):
    """Draws the curves of a history: a panel for each metric, with training and validation.

    A scale is logarithmic if the values are positive and fall by more than a factor of 20.

    Args:
        history: the result of `fit`, a dict of lists, or the path of a `CSVLogger` file.
        path: the file to write.
        title: the title of the picture.
        units: a dict of units by metric.
        first: the metric of the first panel.
        quiet: metrics that get no panel, such as a model's `quiet_metrics`.

    Returns:
        The path.

    Raises:
        ValueError: for a history without an epoch.

    Example:

        ```python
        from artifex_keras import pictures

        history = {"loss": [3.0, 2.0, 1.5], "val_loss": [3.1, 2.2, 1.8]}
        pictures.loss_curves(history, "losses.png", units={"loss": "nats"})
        ```
    """
    epochs, curves = _curves(history)
    names = [name for name in curves if not name.startswith("val_") and name not in quiet]
    curves = {name: values for name, values in curves.items() if name not in quiet}
    names.sort(key=lambda name: (name != first, name != "loss"))
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    with new_figure((3.3 * columns, 2.5 * rows), title) as figure:
        panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
        for axes, name in zip(panels, names, strict=False):
            _curve(axes, epochs, name, curves, (units or {}).get(name))
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        if len(labels) > 1:
            panels[0].legend(handles, labels)
        return save_figure(figure, path)


def _curves(history):
    """The epochs, from 1, and the values of each metric."""
    if isinstance(history, str | Path):
        epochs, curves = read_history(history)
    else:
        curves = getattr(history, "history", history)
        curves = {name: np.asarray(values, dtype=float) for name, values in curves.items()}
        length = max(map(len, curves.values()), default=0)
        epochs = np.asarray(getattr(history, "epoch", range(length))) + 1
    if not len(epochs):
        raise ValueError("The history is empty: no epoch has been finished.")
    return epochs, curves


def read_history(path):
    """The epochs, from 1, and the values of each metric in a file that `CSVLogger` wrote."""
    text = read_text(path, WHAT)
    with reading(path, WHAT):
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
        if any(None in row for row in rows):
            raise ValueError("a line has more values than the first has names")
        epochs = np.array([int(row["epoch"]) + 1 for row in rows], "int64")
        names = [name for name in (rows[0] if rows else {}) if name != "epoch"]
        curves = {name: np.array([_number(row[name]) for row in rows]) for name in names}
        if len(rows) and not names:
            raise ValueError("there is no column beside the epochs")
    return epochs, curves


def _number(text):
    """The number in a cell; NaN in an empty one, of an epoch without validation."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return math.nan
    return value if abs(value) < LARGEST else math.nan


def _curve(axes, epochs, name, curves, unit):
    few = {"marker": "o", "markersize": 3} if len(epochs) < 10 else {}
    for key, label, colour in (
        (name, "training", TRAINING),
        (f"val_{name}", "validation", VALIDATION),
    ):
        if key in curves:
            values = curves[key]
            # Not every epoch need be validated; a NaN loss leaves a gap.
            known = ~np.isnan(values) if key != name else slice(None)
            at = epochs[-len(values) :]
            axes.plot(at[known], values[known], color=colour, lw=1.5, label=label, **few)
    if _falls_by_decades(curves[name]):
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set(title=name.replace("_", " "), xlabel="epoch", ylabel=unit or "")
    axes.margins(x=0.02)


def _falls_by_decades(curve):
    curve = curve[np.isfinite(curve)]
    positive = len(curve) > 1 and curve.min() > 0
    return positive and curve.max() > 20 * curve.min() and curve.argmax() < curve.argmin()
