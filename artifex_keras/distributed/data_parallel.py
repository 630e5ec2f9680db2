"""Each device trains on its share of the batch, with weights that all of them hold whole."""

import keras

from artifex_keras.distributed.mesh import DeviceMesh, devices_for
from artifex_keras.distributed.sharding import Sharding

__all__ = ["DataParallel", "data_parallel"]


class DataParallel(Sharding, keras.distribution.DataParallel):
    """A `keras.distribution.DataParallel` that takes batches of any size, and models already built.

    `data_parallel` makes one.
    """

    def layouts(self, model):
        """No weight has a layout of its own: all are held whole."""
        return {}


def data_parallel(num_devices=None):
    """A distribution over the first `num_devices` devices, or over all of them.

    Batches are cut along their rows; the weights' gradients are summed over the devices, so that
    the numbers are those of one device.

    Raises:
        ValueError: for more devices than there are.
    """
    devices = devices_for(num_devices, f"num_devices={num_devices}")
    mesh = DeviceMesh((len(devices),), ("data",), devices)
    return DataParallel(device_mesh=mesh, auto_shard_dataset=False)
