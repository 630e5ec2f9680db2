"""Batches on their way into a step on JAX: over the devices, and several as one."""

import functools

import jax
import keras
import numpy as np
from jax import numpy as jnp

from artifex_keras.backend import keras_internals, sources
from artifex_keras.backend.actors import role
from artifex_keras.backend.adapters import innermost, watched
from artifex_keras.backend.jax import processes
from artifex_keras.backend.jax.rows import take_late

ALIGNMENT = 64  # bytes, of memory that XLA shares with NumPy


def shard_batches(epoch_iterator):
    """Lets Keras's iterator over the data lay each batch out by its own shape, one at a time.

    Under a distribution Keras may lay all out like the first, and fail at a last one that the
    devices don't divide. Where its own loop takes several batches as one, it would stack them.
    """
    if keras.distribution.distribution() is None:
        if epoch_iterator.steps_per_execution > 1 and keras_internals.stacks_batches():
            batches = epoch_iterator.data_adapter.get_jax_iterator
            keras_internals.replace_passes(epoch_iterator, batches)
    else:
        if processes.count() > 1:
            take_late(epoch_iterator.data_adapter)
        batches = functools.partial(_distributed_batches, epoch_iterator)
        keras_internals.replace_passes(epoch_iterator, batches)


def watch_batches(adapter, begin):
    """Shows each batch to `begin()`, made anew each pass, before it gets into a step."""
    watched(adapter, "get_jax_iterator", begin)


def _distributed_batches(epoch_iterator):
    adapter = epoch_iterator.data_adapter
    batches = adapter.get_jax_iterator()
    if processes.count() > 1:
        own = getattr(adapter, "own_rows", False) or _reads_own_shard(adapter)
        if own and role() is not None:
            raise ValueError(
                "Under `actor_learner` both processes read the same batches: one samples for them, "
                "the other learns. Received: rows of each process's own. Give both all the data."
            )
        sure = keras_internals.has_arrays(innermost(adapter))  # no batch of arrays can fail
        return processes.shard_rows(batches, adapter.num_batches, own, sure)
    return map(keras_internals.distribute_batch, batches)


def _reads_own_shard(adapter):
    """Whether a grain loader's sampler gives each process its own shard."""
    if not keras_internals.reads_grain(adapter):
        return False
    dataset = keras_internals.dataset_of(adapter)
    return sources.shard_of(dataset) == (processes.index(), processes.count())


def together(batches):
    """The batches as the fused program takes them, or None if they differ in shape.

    NumPy arrays are stacked here, for one transfer; device arrays by the program.
    """
    leaves, structure = jax.tree.flatten(batches[0])
    columns = list(zip(*map(structure.flatten_up_to, batches), strict=True))
    if any(
        leaf.shape != column[0].shape or leaf.dtype != column[0].dtype
        for column in columns
        for leaf in column
    ):
        return None
    if not all(isinstance(leaf, np.ndarray) for column in columns for leaf in column):
        return batches
    return jax.tree.unflatten(structure, [_stacked_on_host(column) for column in columns])


def _stacked_on_host(arrays):
    """The arrays as one, in memory that XLA takes as it is: other memory it copies once more."""
    size = len(arrays) * arrays[0].nbytes
    memory = np.empty(size + ALIGNMENT, "uint8")
    start = -memory.ctypes.data % ALIGNMENT
    stacked = memory[start : start + size].view(arrays[0].dtype)
    stacked = stacked.reshape(len(arrays), *arrays[0].shape)
    for index, array in enumerate(arrays):
        stacked[index] = array
    return stacked


def stacked(batches):
    if isinstance(batches, list):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    return batches
