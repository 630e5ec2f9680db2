"""What is computed once more for the gradient, on torch, by Keras's `remat`."""

import keras
from keras import ops

from artifex_keras.backend.scope import ReadThroughScope, assign_all

__all__ = ["recomputed"]


def recomputed(fn, *xs, mode="full"):
    """`fn(*xs)`, computed once more for the gradient: what it makes on the way isn't kept.

    What `fn` assigns, such as the state of a seed, is assigned once, and both computations begin
    with the values before. JAX has its own, with the mode "dots"; here that is "full".
    """
    before, changes = [], []

    def pure(*xs):
        with ReadThroughScope(before) as scope:
            result = fn(*xs)
        if not changes:
            changes.append(scope.updates())
        return result

    result = keras.remat(pure)(*xs)
    assigned, values = changes[0]
    before[:] = [(variable, ops.copy(variable.value)) for variable in assigned]
    assign_all(assigned, values)
    return result
