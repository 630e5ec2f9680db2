"""Tests on eight virtual devices and in several processes; `make devices` runs them.

They are skipped where a CPU doesn't show itself as eight devices, but for the slow ones, which
start processes of their own.
"""

from pathlib import Path

import keras
import pytest

HERE = Path(__file__).parent
COUNT = 8


def pytest_collection_modifyitems(items):
    ours = [i for i in items if i.path.parent == HERE and not i.get_closest_marker("slow")]
    if ours and (keras.config.backend() != "jax" or len(keras.distribution.list_devices()) < COUNT):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=f"for {COUNT} devices on JAX: make devices"))
