"""What a run is called and made of, as plain values: the parameters that trackers keep."""

import importlib.metadata
import math
import platform

import numpy as np

from artifex_keras import backend
from artifex_keras.tracking.secrets import SECRET, scrubbed

__all__ = ["description", "json_value", "table_of"]


def description(model, config=None):
    """What a tracker keeps of a run besides its numbers: a flat dict of plain values.

    The family with its options, the number of weights, the `config` (a dict) and the versions.
    """
    values = {
        "model": {
            "class": type(model).__name__,
            **{name: getattr(model, name) for name in getattr(model, "options", ())},
        },
        "parameters": model.count_params() if model.built else None,
        "config": config,
        "backend": backend.name(),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("artifex-keras", "keras", backend.name())},
        },
    }
    if config is None and getattr(model, "optimizer", None) is not None:
        values["optimizer"] = {
            "class": type(model.optimizer).__name__,
            **_arguments(model.optimizer),
        }
    return dict(_flat(values))


def _arguments(optimizer):
    try:
        return optimizer.get_config()
    except Exception:  # an optimizer that can't be written down
        return {}


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _flat(values, prefix=""):
    for name, value in values.items():
        key = f"{prefix}{name}"
        if SECRET.search(str(name)):
            yield key, "***"
        elif isinstance(value, dict) and value:
            yield from _flat(value, f"{key}.")
        elif value is None or isinstance(value, bool | int | float):
            yield key, value
        else:
            yield key, scrubbed(str(json_value(value)))


def json_value(value):
    """`value` in the types of JSON. What JSON has no number for is "nan", "inf" or "-inf"."""
    if isinstance(value, dict):
        return {str(name): json_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def table_of(rows):
    """`(columns, data)` of texts, or of dicts or tuples that hold some."""
    rows = [rows] if isinstance(rows, str) else list(rows)
    if rows and isinstance(rows[0], dict):
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return columns, [[json_value(row.get(name)) for name in columns] for row in rows]
    rows = [
        [json_value(v) for v in row] if isinstance(row, list | tuple) else [row] for row in rows
    ]
    width = max(map(len, rows), default=1)
    return ["text"] if width == 1 else [f"text {i + 1}" for i in range(width)], rows
