"""Calls outside `fit` as one compiled program: operation by operation JAX compiles each alone."""

import keras

from artifex_keras.backend import ReadThroughScope, assign_all


def in_one_program(fn):
    """`fn()`, whose assignments are carried on."""
    if keras.backend.backend() != "jax":
        return fn()
    import jax

    assigned = []

    def pure():
        with ReadThroughScope() as scope:
            result = fn()
        assigned[:], values = scope.updates()
        return result, values

    result, values = jax.jit(pure)()
    assign_all(assigned, values)
    return result
