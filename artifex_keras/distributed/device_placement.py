"""Where arrays lie: putting them on devices, ahead of time too, and what they take there."""

import collections
from collections.abc import Iterable
from typing import Any

import keras

from artifex_keras.arguments import checked, count
from artifex_keras.backend.placement import bytes_on_devices, put_on
from artifex_keras.distributed.mesh import devices_here

__all__ = ["memory_report", "place", "prefetch"]


def place(tree: Any, device: Any):
    """The arrays of `tree` on that device.

    Args:
        tree: an array, or a structure of arrays; None stays None.
        device: a name as `keras.distribution.list_devices` gives them ("gpu:1"); a
            `keras.distribution.TensorLayout`; or a distribution, which shards the rows.

    Raises:
        ValueError: for a device that there isn't.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        device = keras.distribution.list_devices()[0]
        batch = ak.distributed.place({"x": np.zeros((4, 2), "float32")}, device)
        ```
    """
    if isinstance(device, str) and device not in devices_here():
        try:
            there = keras.distribution.list_devices(device.split(":")[0])
        except RuntimeError:
            there = devices_here()
        if device not in there:
            raise ValueError(
                f"`device` must be one of {', '.join(there)}. Received: device={device!r}."
            )

    def put(array):
        array = array if hasattr(array, "shape") else keras.ops.convert_to_numpy(array)
        if hasattr(device, "get_data_layout"):
            return put_on(array, device.get_data_layout(array.shape).backend_layout)
        return put_on(array, getattr(device, "backend_layout", device))

    return keras.tree.map_structure(lambda leaf: None if leaf is None else put(leaf), tree)


@checked(size=count())
def prefetch(batches: Iterable[Any], device: Any, size: int = 2):
    """The batches in order, each placed on `device` as `place` does, `size` of them ahead.

    While a step computes, the next batch is on its way: with 2, one is used and one is sent.

    Raises:
        ValueError: for a `size` below 1.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        batches = (np.full((4, 2), i, "float32") for i in range(3))
        for batch in ak.distributed.prefetch(batches, keras.distribution.list_devices()[0]):
            print(float(batch[0, 0]))
        ```
    """
    return _ahead(iter(batches), device, size)


def _ahead(batches, device, size):
    waiting = collections.deque()
    for batch in batches:
        waiting.append(place(batch, device))
        if len(waiting) == size:
            yield waiting.popleft()
    yield from waiting


def memory_report():
    """What this process's devices hold: `{device: {"arrays": bytes, ...}}`.

    `arrays` are those that Python can still reach, sharded ones by their shard. Where the device
    reports them (GPU, TPU), `in_use`, `peak` and `limit` are its own figures.

    Example:

        ```python
        import artifex_keras as ak

        for device, held in ak.distributed.memory_report().items():
            print(device, held["arrays"])
        ```
    """
    return bytes_on_devices()
