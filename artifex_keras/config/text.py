"""Settings as plain values and YAML text."""

import json
import re
from pathlib import Path

import keras
import numpy as np

__all__ = ["dump_yaml", "parse_yaml", "plain_value"]


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


def parse_yaml(text):
    """The content of a YAML text, in which `1e-3` is a number: YAML 1.1 alone calls it a string.

    Raises:
        ValueError: for text that isn't YAML, with the place.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark
        raise ValueError(
            f"This is not YAML: line {place.line + 1}, column {place.column + 1}: {error.problem}."
        ) from error


def dump_yaml(values):
    """`values` as YAML text, keys in their order."""
    import yaml

    return yaml.safe_dump(plain_value(values), sort_keys=False, allow_unicode=True)
