"""Tests on eight virtual devices; `make devices` shows a CPU as that many."""

from pathlib import Path

import keras
import pytest

HERE = Path(__file__).parent
COUNT = 8


def pytest_collection_modifyitems(items):
    ours = [item for item in items if item.path.parent == HERE]
    marked = [item for item in ours if item.get_closest_marker("devices")]
    if marked and (
        keras.config.backend() != "jax" or len(keras.distribution.list_devices()) < COUNT
    ):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"for {COUNT} devices on JAX: make devices"))
