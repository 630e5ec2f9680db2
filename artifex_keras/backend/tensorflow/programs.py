"""Compiled programs on TensorFlow that aren't a step, and what is read beside one."""

import functools

import keras
import tensorflow as tf
from keras import ops

from artifex_keras.backend import keras_internals
from artifex_keras.backend.scope import FrozenScope, pure, values_of
from artifex_keras.backend.tracing import TracedAlone

EXPORT_OPTIONS = {}


def compiled(method):
    """The method as one graph of the model's variables and the positional arguments.

    Keyword arguments are static. Called inside a graph, it is simply part of that graph.
    """

    @functools.wraps(method)
    def call(self, *args, **static):
        if not tf.executing_eagerly():
            return method(self, *args, **static)
        frozen = isinstance(keras_internals.stateless_scope(), FrozenScope)
        key = (method.__qualname__, tuple(sorted(static.items())), frozen)
        programs = self.compiled_methods
        if key not in programs:
            fn = pure(method, self, static) if frozen else functools.partial(method, self, **static)
            programs.setdefault(key, TracedAlone(tf.function(fn, reduce_retracing=True)))
        tensors = keras.tree.map_structure(tf.convert_to_tensor, args, none_is_leaf=False)
        leaves = keras.tree.flatten(tensors)
        kind = tuple((leaf.shape, leaf.dtype) for leaf in leaves if leaf is not None)
        if not frozen:
            return programs[key](kind, *tensors)
        variables = self.variables
        result, changes = programs[key](kind, values_of(variables), tensors)
        for index, value in changes.items():
            variables[index].assign(value)
        return result

    return call


def reader(model, fn, weights=False):
    """A function that gives `fn()`, scalar tensors by name, as floats, in the middle of `fit`."""

    def read():
        return {name: float(ops.convert_to_numpy(value)) for name, value in fn().items()}

    return read


def global_norm(values):
    """The root of the sum of squares over all entries of a list of tensors, in float32."""
    return tf.linalg.global_norm([tf.cast(value, "float32") for value in values])


def device_memory():
    """`(bytes in use, the most so far)` on the first GPU; None on a CPU."""
    if not tf.config.list_logical_devices("GPU"):
        return None
    stats = tf.config.experimental.get_memory_info("GPU:0")
    return stats["current"], stats["peak"]


def rows_are_faster():
    """False: only JAX on a CPU gains from flattening."""
    return False
