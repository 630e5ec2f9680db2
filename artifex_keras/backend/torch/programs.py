"""Compiled programs on torch that aren't a step, and what is read beside one."""

import functools

import torch
from keras import ops

EXPORT_OPTIONS = {}


def compiled(method):
    """The method without a gradient's graph: torch runs eagerly."""

    @functools.wraps(method)
    def call(self, *args, **static):
        with torch.no_grad():
            return method(self, *args, **static)

    return call


def reader(model, fn, weights=False):
    """A function that gives `fn()`, scalar tensors by name, as floats, in the middle of `fit`."""

    def read():
        return {name: float(ops.convert_to_numpy(value)) for name, value in fn().items()}

    return read


def global_norm(values):
    """The root of the sum of squares over all entries of a list of tensors, in float32."""
    norms = [torch.linalg.vector_norm(value.detach().float()) for value in values]
    return torch.linalg.vector_norm(torch.stack(norms))


def device_memory():
    """`(bytes in use, the most so far)` on the current GPU; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()


def rows_are_faster():
    """False: only JAX on a CPU gains from flattening."""
    return False
