"""Data parallelism: batches are sharded over devices, weights are replicated."""

import keras

from artifex_keras.arguments import checked, count
from artifex_keras.distributed.mesh import DeviceMesh, devices_for
from artifex_keras.distributed.sharding import Sharding

__all__ = ["DataParallel", "data_parallel"]


class DataParallel(Sharding, keras.distribution.DataParallel):
    """A `keras.distribution.DataParallel` that takes batches of any size, and models already built.

    `data_parallel` makes one.
    """

    def layouts(self, model):
        """No weight has a layout of its own: all are replicated."""
        return {}


@checked(num_devices=count(optional=True))
def data_parallel(num_devices: int | None = None) -> keras.distribution.DataParallel:
    """A distribution over the first `num_devices` devices, or over all of them.

    Batches are sharded by rows. Gradients are summed over the devices, so that the numbers are
    those of one device.

    Raises:
        ValueError: for more devices than there are.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        encoder = ak.networks.mlp_encoder((6,), 2, (8,))
        vae = ak.VAE(encoder, ak.networks.mlp_decoder(2, (6,), (8,)))
        vae.compile(optimizer="adamw")
        x = np.random.default_rng(0).uniform(size=(32, 6)).astype("float32")
        with ak.distributed.data_parallel(num_devices=1).scope():
            vae.fit(x, epochs=1, verbose=0)
        ak.distributed.redistribute(vae, None)
        ```
    """
    devices = devices_for(num_devices, f"num_devices={num_devices}")
    mesh = DeviceMesh((len(devices),), ("data",), devices)
    return DataParallel(device_mesh=mesh, auto_shard_dataset=False)
