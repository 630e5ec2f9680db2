"""Compiled programs on JAX that aren't a step, and what is read beside one."""

import functools

import jax
import numpy as np
from jax import numpy as jnp

from artifex_keras.backend import keras_internals
from artifex_keras.backend.scope import FrozenScope, ReadThroughScope, pairs, pure, values_of
from artifex_keras.backend.tracing import TracedAlone

EXPORT_OPTIONS = {"jax2tf_kwargs": {"with_gradient": False}}  # what is exported isn't trained


def compiled(method):
    """The method as one jitted program of the model's variables and the positional arguments.

    Keyword arguments are static. Called inside a step, it is simply part of that step.
    """

    @functools.wraps(method)
    def call(self, *args, **static):
        if not isinstance(keras_internals.stateless_scope(), FrozenScope | None):
            return method(self, *args, **static)
        variables, programs = self.variables, self.compiled_methods
        key = (method.__qualname__, tuple(sorted(static.items())))
        if key not in programs:
            programs.setdefault(key, TracedAlone(jax.jit(pure(method, self, static))))
        leaves, structure = jax.tree.flatten(args)
        kind = structure, *((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        result, changes = programs[key](kind, values_of(variables), args)
        for index, value in changes.items():
            variables[index].assign(value)
        return result

    return call


def reader(model, fn, weights=False):
    """A function that gives `fn()`, scalar tensors by name, as floats, in the middle of `fit`.

    `fn` may read metrics, scalars of the optimizer and, with `weights`, the trainable weights:
    between two steps Keras's loop holds their values itself, and the variables are empty. All is
    one program, which waits for the step and leaves the values where they are.
    """
    scalars = [i for i, v in enumerate(model.optimizer.variables) if v.shape == ()]
    groups = [
        model.trainable_variables if weights else [],
        [model.optimizer.variables[i] for i in scalars],
        model.metrics_variables,
    ]
    names = []

    @jax.jit
    def program(values):
        with ReadThroughScope(pairs(groups, values)):
            found = fn()
        names[:] = found
        return jnp.asarray([jnp.asarray(value, "float32") for value in found.values()])

    def read():
        state = keras_internals.unsynced_state(model)
        if state:
            optimizer = state["optimizer_variables"]
            values = (
                list(state["trainable_variables"] if weights else []),
                [optimizer[i] for i in scalars],
                list(state["metrics_variables"]),
            )
        else:
            values = tuple([variable.value for variable in group] for group in groups)
        return dict(zip(names, np.asarray(program(values)).tolist(), strict=True))

    return read


@jax.jit
def global_norm(values):
    """The root of the sum of squares over all entries of a list of tensors, in float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(value.astype("float32"))) for value in values))


def device_memory():
    """`(bytes in use, the most so far)` on this process's first device; None on a CPU."""
    stats = _first_device().memory_stats() or {}
    in_use = stats.get("bytes_in_use")
    return None if in_use is None else (in_use, stats.get("peak_bytes_in_use", in_use))


@functools.cache
def _first_device():
    return jax.local_devices()[0]


@functools.cache
def rows_are_faster():
    """Whether a product over three axes is faster as one over rows: on a CPU.

    There, XLA turns its gradient into a transposed copy, for which it computes everything before
    the product a second time: with rows, a step of a four-layer transformer took a quarter less
    time. For TPUs it doesn't, and rows would move more bytes.
    """
    return jax.default_backend() == "cpu"
