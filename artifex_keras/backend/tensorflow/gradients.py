"""Gradients, loops and branches on TensorFlow."""

import keras
import tensorflow as tf

from artifex_keras.backend.tensorflow.remat import recomputed  # noqa: F401
from artifex_keras.backend.trained import known_places


def value_and_grad(fn, variables):
    """`(loss, aux, gradients)` of `fn() -> (loss, aux)` with respect to `variables`."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([variable.value for variable in variables])
        loss, aux = fn()
    gradients = tape.gradient(
        loss, [v.value for v in variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    # Dense on purpose: Keras's Adam applies the slices of a repeated row one after the other.
    return loss, aux, [tf.convert_to_tensor(gradient) for gradient in gradients]


def without_gradient(fn):
    """`fn()` as a constant, through which no gradient flows."""
    return keras.tree.map_structure(tf.stop_gradient, fn(), none_is_leaf=False)


def input_gradient(fn, x):
    """The gradient of the summed `fn(x)` with respect to `x`, of the shape of `x`.

    Differentiable once more, for gradient penalties and score matching.
    """
    x = tf.identity(x)  # another use of the same tensor inside `fn` must not count
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = tf.reduce_sum(fn(x))
    return tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def repeat(body, xs):
    """The stacked results of `body(x)` for each row `x` of `xs`, in order."""
    rows = keras.tree.flatten(xs)[0].shape[0]
    results = [body(_row(xs, i)) for i in range(rows)]
    return keras.tree.map_structure(lambda *leaves: tf.stack(leaves), *results)


def _row(xs, i):
    return keras.tree.map_structure(lambda leaf: leaf[i], xs, none_is_leaf=False)


def when(condition, body, otherwise):
    """`body()` if `condition`, else `otherwise()`: results of one structure; one is computed."""
    return tf.cond(condition, body, otherwise)


def apply_gradients(optimizer, gradients, variables):
    """One update of the variables that train, which may be fewer than the optimizer knows."""
    known_places(optimizer, variables)
    optimizer.apply(gradients, variables)
