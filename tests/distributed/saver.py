"""One process of a group that saves: `saver.py FOLDER`; what it found is a line of JSON at the end.

A file `kill` beside the folder says where one of the processes kills itself, once; or that its disk
is full.
"""

import contextlib
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import standin  # noqa: F401 - its addresses
from jax.experimental import multihost_utils

from artifex_keras import VAE
from artifex_keras.callbacks import CheckpointCallback
from artifex_keras.callbacks.checkpoint import callback, parts
from artifex_keras.callbacks.checkpoint.arrays import snapshot
from artifex_keras.callbacks.checkpoint.remote_store import store_in
from artifex_keras.distributed import processes

X = np.random.default_rng(0).normal(size=(32, 64)).astype("float32")
KILLED_AT = 4  # the step of the save


def spread(shape, devices=None):
    """Kernels in as many shards as there are devices, biases whole on each."""
    mesh = keras.distribution.DeviceMesh(shape, ("batch", "model"), devices)
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*kernel"] = ("batch", "model")
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
    )


def model():
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense
    encoder = keras.Sequential([keras.Input((64,)), dense(256, name="wide"), dense(8, name="code")])
    decoder = keras.Sequential([keras.Input((4,)), dense(256, name="far"), dense(64, name="row")])
    made = VAE(encoder, decoder, seed=1)
    made.compile(keras.optimizers.Adam(1e-3))
    return made


def digests(made):
    """A digest of each variable of model and optimizer."""
    return {
        array.name: hashlib.sha256(array.value.tobytes()).hexdigest()
        for array in snapshot(made)
        if not array.name.startswith("metrics/")
    }


class Watched(CheckpointCallback):
    """Notes how many bytes a save holds, and the most that go between processes at once."""

    held = gathered = 0

    def _save(self, *arguments, **options):
        with self.watching():
            super()._save(*arguments, **options)

    def _resume(self, *arguments):
        with self.watching():
            super()._resume(*arguments)

    @contextlib.contextmanager
    def watching(self):
        gather, own = multihost_utils.process_allgather, parts.own_parts

        def process_allgather(value, tiled=False):
            sizes = [v.nbytes for v in keras.tree.flatten(value)]
            self.gathered = max([self.gathered, *sizes])
            return gather(value, tiled=tiled)

        def own_parts(made):
            mine = own(made)
            self.held = sum(array.value.nbytes for array in mine)
            return mine

        multihost_utils.process_allgather, callback.own_parts = process_allgather, own_parts
        try:
            yield
        finally:
            multihost_utils.process_allgather, callback.own_parts = gather, own


def end():
    os.kill(os.getpid(), signal.SIGKILL)


def killed_in(place):
    """Lets a process die inside of its second save, at a place of it; or its disk be full."""
    write_part, as_bytes, join, saves = parts.write_part, parts.as_bytes, parts.join, []

    def is_here(where):
        process = 0 if where == "joined" else 1
        second = len(saves) == KILLED_AT // 2
        return where == place and second and processes.process_index() == process

    def write(*arguments):
        saves.append(0)
        if is_here("full"):
            raise OSError(28, "No space left on device")
        write_part(*arguments)
        if is_here("written"):
            end()

    def some_bytes(array):
        saves[-1] += 1
        if is_here("writing") and saves[-1] == 5:
            end()
        return as_bytes(array)

    def join_parts(*arguments):
        join(*arguments)
        if is_here("joined"):
            end()

    parts.write_part, parts.as_bytes, parts.join = write, some_bytes, join_parts


def main(folder):
    processes.initialize(initialization_timeout=120)
    store = store_in(folder)
    kill = Path(folder.removeprefix("standin://")).with_name("kill")
    if kill.exists() and not store.steps():
        killed_in(kill.read_text())
    found = {"at start": [store.path(step).name for step in sorted(store.steps())]}
    with spread((2, 4)).scope():
        made = model()
        keeper = Watched(folder, save_every_n_steps=2, max_to_keep=2, resume="auto", verbose=False)
        history = made.fit(X, batch_size=8, epochs=2, verbose=0, callbacks=[keeper])
        found |= {"digests": digests(made), "losses": history.history["loss"]}
        found |= {"held": keeper.held, "gathered": keeper.gathered}
        apart = f"{folder}-{processes.process_index()}"  # no folder that all see
        made.fit(X, batch_size=8, verbose=0, callbacks=[CheckpointCallback(apart)])
        found["apart"] = digests(made)
        found["whole"] = sum(array.value.nbytes for array in snapshot(made))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
