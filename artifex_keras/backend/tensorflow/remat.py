"""What is computed once more for the gradient, on TensorFlow.

`tf.recompute_grad` reads the weights a second time. Nothing but an edge of control keeps that read
before the update of the same weights, and TensorFlow's optimizer of graphs loses such edges: now
and then a gradient came from weights that were updated already. Here both computations have what
the first one read.
"""

import keras
import tensorflow as tf

from artifex_keras.backend import keras_internals
from artifex_keras.backend.scope import ReadThroughScope, assign_all

__all__ = ["recomputed"]


def recomputed(fn, *xs, mode="full"):
    """`fn(*xs)`, computed once more for the gradient: what it makes on the way isn't kept.

    What `fn` assigns, such as the state of a seed, is assigned once, and both computations begin
    with the values before. JAX has its own, with the mode "dots"; here that is "full".
    """
    with _ReadingScope() as scope:
        result = fn(*xs)
    variables, values = scope.variables_read(), scope.values_read()
    leaves = [tf.stop_gradient(leaf) for leaf in keras.tree.flatten(result)]

    @tf.custom_gradient
    def joined(xs, values, leaves):
        def gradient(*upstreams):
            again, read = _later(xs, upstreams[0]), [tf.identity(value) for value in values]
            with tf.GradientTape() as tape:
                tape.watch(_floats(again + read))
                with ReadThroughScope(zip(variables, read, strict=True)):
                    outputs = keras.tree.flatten(fn(*again))
            gradients = _gradients(tape, outputs, upstreams, again + read)
            return gradients[: len(xs)], gradients[len(xs) :], [None for _ in leaves]

        return [tf.identity(leaf) for leaf in leaves], gradient

    outputs = joined(list(xs), values, leaves)
    assign_all(*scope.updates())
    return keras.tree.pack_sequence_as(result, outputs)


class _ReadingScope(ReadThroughScope):
    """Remembers each variable that is read before it is assigned, with the value that it had."""

    def __init__(self):
        super().__init__()
        self._read = {}

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        if value is None:
            value = self._outside(variable)
        if value is not None and id(variable) not in self._assigned:
            self.state_mapping[id(variable)] = value
            self._read.setdefault(id(variable), (variable, value))
        return value

    def _outside(self, variable):
        """Its value in the scope around, else one read of it; None before it is made."""
        if self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
            if value is not None:
                return value
        value = keras_internals.framework_variable(variable)
        return None if value is None else tf.convert_to_tensor(value)

    def variables_read(self):
        return [variable for variable, _ in self._read.values()]

    def values_read(self):
        return [value for _, value in self._read.values()]


def _later(tensors, upstream):
    """`tensors` + 0, in which the 0 depends on the gradient that comes in: otherwise the second
    computation would be taken for the first."""
    first = tf.cast(tf.reduce_max(tf.reshape(upstream, [-1])[:1]), "bool")
    zero = tf.where(first == first, 0.0, float("nan"))
    return [
        x ^ tf.cast(zero, x.dtype) if x.dtype == tf.bool else x + tf.cast(zero, x.dtype)
        for x in tensors
    ]


def _floats(tensors):
    return [tensor for tensor in tensors if tensor.dtype.is_floating]


def _gradients(tape, outputs, upstreams, inputs):
    """The gradient of each input, dense; None for those of whole numbers."""
    used = [place for place, output in enumerate(outputs) if output.dtype.is_floating]
    gradients = tape.gradient(
        [outputs[place] for place in used],
        _floats(inputs),
        output_gradients=[upstreams[place] for place in used],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    gradients = iter(gradients)
    return [tf.convert_to_tensor(next(gradients)) if x.dtype.is_floating else None for x in inputs]
