"""One part of a run: `elastic.py LAYOUT EPOCHS FOLDER` trains up to that epoch, prints its losses.

LAYOUT is "none", "replicated" (data parallel) or "sharded" (weights and data over one axis). The
number of devices is that of XLA_FLAGS.
"""

import json
import sys

import keras
from families import FAMILIES, NAMES

from artifex_keras.callbacks import CheckpointCallback


def distribution(layout):
    devices = len(keras.distribution.list_devices())
    if layout == "replicated":
        return keras.distribution.DataParallel()
    mesh = keras.distribution.DeviceMesh((devices,), ("batch",))
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*hidden.*kernel"] = (None, "batch")
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


def main(layout, epochs, folder):
    if layout != "none":
        keras.distribution.set_distribution(distribution(layout))
    family = FAMILIES[NAMES.index("vae")]
    model = family.make(seed=1)
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(
        *family.arrays(48),
        batch_size=16,
        epochs=int(epochs),
        shuffle=False,
        verbose=0,
        callbacks=[CheckpointCallback(folder, resume="auto", verbose=False)],
    )
    kernel = next(v for v in model.trainable_variables if "hidden" in v.path and "kernel" in v.path)
    shard = kernel.value.addressable_shards[0].data.shape
    print(json.dumps({"losses": history.history["loss"], "shard": shard}))


if __name__ == "__main__":
    main(*sys.argv[1:])
