"""The seam on TensorFlow: Keras traces the step into a graph, tapes give the gradients."""

import functools
import itertools

import keras
import tensorflow as tf

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
                outputs = begin(data)
                values = self.on_host(data, outputs, training=training)
                logs = finish(data, outputs, values)
            if logs is None:
                raise StopIteration
            return logs

        return function

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras leaves the building to the first trace; an optimizer built within two nested
        # traces would make its variables twice. So we build before, as on the other backends.
        self._symbolic_build(iterator=iterator, data_batch=data_batch)


def shard_batches(epoch_iterator):
    """Does nothing: Keras distributes on JAX only."""
