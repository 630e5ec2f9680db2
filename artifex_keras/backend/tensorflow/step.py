"""The seam on TensorFlow: Keras traces the step into a graph, tapes give the gradients."""

import contextlib
import functools
import itertools

import keras
import numpy as np
import tensorflow as tf

from artifex_keras.backend import keras_internals
from artifex_keras.backend.ahead import overlap_of
from artifex_keras.backend.scope import ReadThroughScope, assign_all, restored_on_error, undoable
from artifex_keras.utils import ThreadFlag

SHAPES_ARE_KNOWN = False  # Keras traces its steps for batches of any size


def _as_it_was(name):
    """Keras's method of that name, which raises what looking at a batch raised.

    TensorFlow reports it in an error of its own.
    """

    @functools.wraps(getattr(keras.Model, name))
    def method(self, *args, **kwargs):
        before, _raised[:] = _raised[:], []
        try:
            return getattr(super(TrainStep, self), name)(*args, **kwargs)
        except tf.errors.OpError:
            if _raised:
                raise _raised[0] from None
            raise
        finally:
            _raised[:] = before

    return method


_raised = []  # by `watch_batches`, while a loop of Keras's runs


class TrainStep:
    """Turns `train_on(data)` and `test_on(data)` into Keras's steps on TensorFlow.

    A step of which the middle runs on the host is `interrupted`: its parts `begin_on` and
    `finish_on` are a graph each. Between them `between` runs on the host; it may call another
    graph, `turn_on`, as often as it likes.
    """

    interrupted = False
    fit = _as_it_was("fit")
    evaluate = _as_it_was("evaluate")
    predict = _as_it_was("predict")

    def train_step(self, data):
        kept = undoable(self) if tf.executing_eagerly() else []
        with _after(data), _inside_step.raised(), restored_on_error(kept):
            return self.train_on(data)

    def test_step(self, data):
        with _after(data), _inside_step.raised():
            return self.test_on(data)

    def make_train_function(self, force=False):
        self.live_values.variables()  # a graph can't make them
        if not self.interrupted:
            super().make_train_function(force=force)
        elif self.train_function is None or force:
            self.train_function = self._in_parts(True)

    def make_test_function(self, force=False):
        self.live_values.variables()
        if not self.interrupted:
            super().make_test_function(force=force)
        elif self.test_function is None or force:
            self.test_function = self._in_parts(False)

    def _in_parts(self, training):
        """A train or test function of steps that are interrupted by a part on the host.

        The part on the host may raise. So what the graph before it changes, such as seeds, is
        assigned after it. Of several steps an execution it is all or none.
        """
        changed = []  # variables, known once `begin` is traced

        def begin_on(data):
            with _inside_step.raised(), ReadThroughScope() as scope:
                outputs = self.begin_on(data, training=training)
                changed[:], values = scope.updates()
            return outputs, values

        def finish_on(data, outputs, values):
            with _inside_step.raised():
                return self.finish_on(data, outputs, values, training=training)

        def turn_on(*arrays):
            with _inside_step.raised():
                return self.turn_on(*arrays, training=training)

        begin, turn, finish = (
            part if self.run_eagerly else tf.function(part)
            for part in (begin_on, turn_on, finish_on)
        )

        def tensors(data):
            return keras.tree.map_structure(tf.convert_to_tensor, data, none_is_leaf=False)

        def in_turn(data):
            data = tensors(data)
            outputs, changes = begin(data)
            outputs, values = self.between(turn, data, outputs, training)
            with restored_on_error(changed):
                assign_all(changed, changes)
                return finish(data, outputs, values)

        def overlapping(overlap, data):
            with contextlib.ExitStack() as kept:

                def begin_next(data):
                    outputs, changes = begin(tensors(data))
                    kept.enter_context(restored_on_error(changed))
                    assign_all(changed, changes)
                    return outputs

                outputs, values = overlap.step(data, begin_next, self.between)
                return finish(tensors(data), outputs, values)

        def function(iterator):
            logs, steps, overlap = None, self.steps_per_execution, overlap_of(self, training)
            step = in_turn if overlap is None else functools.partial(overlapping, overlap)
            state = [*self.variables, *self.optimizer.variables, *self.metrics_variables]
            with restored_on_error(state if steps > 1 else []):
                for data in itertools.islice(iterator, steps):
                    logs = step(data)
            if logs is None:
                raise StopIteration
            return logs

        return function

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras leaves the building to the first trace; an optimizer built within two nested
        # traces would make its variables twice. So we build before, as on the other backends.
        self._symbolic_build(iterator=iterator, data_batch=data_batch)
        if iterator is not None and "get_tf_dataset" in vars(iterator.data_adapter):
            keras_internals.open_dataset_again(iterator)


_inside_step = ThreadFlag()


def live_value(variable):
    """The value of a live variable, as a tensor within a step; None outside of one."""
    return variable.value if _inside_step.up else None


def _after(data):
    """Inside, a graph does nothing before it has the batch.

    A source that raises would else leave counters and seeds a step further.
    """
    leaves = keras.tree.flatten(data)
    return tf.control_dependencies([leaf for leaf in leaves if tf.is_tensor(leaf)])


def shard_batches(epoch_iterator):
    """Does nothing: Keras distributes on JAX only."""


def watch_batches(adapter, begin):
    """Shows each batch to `begin()`, made anew each pass, before it gets into a step."""
    if "get_tf_dataset" in vars(adapter):
        return
    open_dataset = adapter.get_tf_dataset

    def dataset():
        return _watched(open_dataset(), begin)

    adapter.get_tf_dataset = dataset


def _watched(dataset, begin):
    if not isinstance(dataset, tf.data.Dataset):  # one that a strategy distributes
        return dataset
    look = []

    def show(structure, index, *leaves):
        if not index or not look:
            look[:] = [begin()]
        try:
            look[0](tf.nest.pack_sequence_as(structure, leaves))
        except ValueError as error:
            _raised.append(error)
            raise
        return np.bool_(True)

    def shown(index, batch):
        leaves = tf.nest.flatten(batch)
        if any(not isinstance(leaf, tf.Tensor) for leaf in leaves):  # sparse or ragged
            return batch
        looked = tf.numpy_function(functools.partial(show, batch), [index, *leaves], tf.bool)
        with tf.control_dependencies([looked]):
            return tf.nest.map_structure(tf.identity, batch)

    return dataset.enumerate().map(shown)
