"""The seam on TensorFlow: Keras traces the step into a graph, tapes give the gradients."""

import functools
import itertools

import keras
import tensorflow as tf
from keras import ops

SHAPES_ARE_KNOWN = False  # Keras traces its steps for batches of any size


class TrainStep:
    """Turns `train_on(data)` and `test_on(data)` into Keras's steps on TensorFlow.

    A step of which the middle runs on the host is `interrupted`: its parts `begin_on` and
    `finish_on` are a graph each, and `on_host` runs between them.
    """

    interrupted = False

    def train_step(self, data):
        return self.train_on(data)

    def test_step(self, data):
        return self.test_on(data)

    def make_train_function(self, force=False):
        if not self.interrupted:
            super().make_train_function(force=force)
        elif self.train_function is None or force:
            self.train_function = self._in_parts(True)

    def make_test_function(self, force=False):
        if not self.interrupted:
            super().make_test_function(force=force)
        elif self.test_function is None or force:
            self.test_function = self._in_parts(False)

    def _in_parts(self, training):
        """A train or test function of steps that are interrupted by a part on the host."""

        def program(part):
            step = functools.partial(part, training=training)
            return step if self.run_eagerly else tf.function(step)

        begin, finish = program(self.begin_on), program(self.finish_on)

        def function(iterator):
            logs = None
            for data in itertools.islice(iterator, self.steps_per_execution):
                data = keras.tree.map_structure(tf.convert_to_tensor, data, none_is_leaf=False)
                made = begin(data)
                told = self.on_host(data, made, training=training)
                logs = finish(data, made, told)
            if logs is None:
                raise StopIteration
            return logs

        return function

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras leaves the building to the first trace; an optimizer built within two nested
        # traces would make its variables twice. So we build before, as on the other backends.
        self._symbolic_build(iterator=iterator, data_batch=data_batch)


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


def over_rows(fn, x):
    """As it stands."""
    return fn(x)


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
    """One update."""
    optimizer.apply(gradients, variables)


def compiled(method):
    """The method as one graph of the model's variables and the positional arguments.

    Keyword arguments are static. Called inside a graph, it is simply part of that graph.
    """

    @functools.wraps(method)
    def call(self, *args, **static):
        if not tf.executing_eagerly():
            return method(self, *args, **static)
        key = (method.__qualname__, tuple(sorted(static.items())))
        if key not in self.compiled_methods:
            program = functools.partial(method, self, **static)
            self.compiled_methods[key] = tf.function(program, reduce_retracing=True)
        tensors = keras.tree.map_structure(tf.convert_to_tensor, args, none_is_leaf=False)
        return self.compiled_methods[key](*tensors)

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


def spread(x, axis=0):
    """`x`: Keras distributes on JAX alone."""
    return x


def shard_batches(epoch_iterator):
    """Nothing: Keras distributes on JAX alone."""
