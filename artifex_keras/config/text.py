"""Settings as plain values, which YAML text can hold."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from artifex_keras import trust
from artifex_keras.tracking.secrets import forbid_secrets

__all__ = ["dump_yaml", "plain_value"]


def plain_value(value):
    """`value` in the types that YAML and JSON have."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(
        value, keras.optimizers.Optimizer | keras.optimizers.schedules.LearningRateSchedule
    ):
        return json.loads(
            json.dumps(keras.saving.serialize_keras_object(value), default=plain_value)
        )
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {name: plain_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(inner) for inner in value]
    return value


def dump_yaml(values: Mapping[str, Any]) -> str:
    """`values` as YAML text, keys in their order.

    Raises:
        ValueError: for a secret among them, such as a password in an address.
    """
    values = plain_value(values)
    forbid_secrets(values, "the config")
    return trust.dump_yaml(values)
