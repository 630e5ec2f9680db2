"""The parameters of a run and the values of trackers, in plain types."""

import importlib.metadata
import math
import platform

import numpy as np

from artifex_keras import backend
from artifex_keras.tracking.secrets import is_secret_name, scrubbed

__all__ = ["description", "json_value", "table_of"]


def description(model, config=None):
    """The parameters of a run for its trackers: a flat dict of plain values, without secrets.

    Args:
        model: its class, the options of its family, the number of weights, the optimizer.
        config: a dict, such as that of a `TrainingConfig`.

    Returns:
        A dict with names such as "model.class", "config.batch_size" and "versions.keras".

    Example:

        ```python
        import keras
        from artifex_keras.tracking import description

        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        params = description(model, {"batch_size": 8, "api_key": "secret"})
        assert params["model.class"] == "Sequential" and params["parameters"] == 5
        assert params["config.api_key"] == "***"
        ```
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
    except Exception:  # an optimizer without a config
        return {}


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _flat(values, prefix=""):
    for name, value in values.items():
        key = f"{prefix}{name}"
        if is_secret_name(name):
            yield key, "***"
        elif isinstance(value, dict) and value:
            yield from _flat(value, f"{key}.")
        elif value is None or isinstance(value, bool | int | float):
            yield key, value
        else:
            yield key, scrubbed(str(json_value(value)))


def json_value(value):
    """`value` in the types of JSON; NaN and infinity are the strings "nan", "inf" and "-inf"."""
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
    """Texts, or dicts or tuples of texts, as a table: `(columns, rows)`."""
    rows = [rows] if isinstance(rows, str) else list(rows)
    if rows and isinstance(rows[0], dict):
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return columns, [[json_value(row.get(name)) for name in columns] for row in rows]
    rows = [
        [json_value(v) for v in row] if isinstance(row, list | tuple) else [row] for row in rows
    ]
    width = max(map(len, rows), default=1)
    return ["text"] if width == 1 else [f"text {i + 1}" for i in range(width)], rows
