"""The state of a running loop on JAX: which variables it came from, and its newest values.

Keras's loop takes the arrays out of the variables and gives them to the compiled step, which may
overwrite their memory; the results go back into the variables at the end of an epoch. An exception
or Ctrl-C before that would leave variables that are empty, or whose arrays are deleted. So the
newest state is noted here, and goes back into the variables whatever happens.
"""

import functools
import itertools

import keras

from artifex_keras.backend import keras_internals
from artifex_keras.backend.live import Fed
from artifex_keras.backend.scope import assign_all

__all__ = ["KeepsState"]


def _held(shape, dtype=None):
    """What is called where a variable is read while a step of `fit` has its value."""
    raise RuntimeError(
        "A variable can't be read while a step of `fit` or `evaluate` holds its value: in another "
        "thread wait until that ends, or share `model.sampler()`, made before; in a callback read "
        "it through the callback's `self.model`."
    )


class _Running:
    """`groups`: lists of variables. `newest`: one pair, the logs and the values of the groups."""

    def __init__(self):
        self.groups, self.newest = [], []


def _leaving_values(name):
    """Keras's method of that name; if it raises, the variables get the newest values."""

    @functools.wraps(getattr(keras.Model, name))
    def method(self, *args, **kwargs):
        try:
            return getattr(super(KeepsState, self), name)(*args, **kwargs)
        except BaseException:  # an interrupt among them
            self.jax_state_sync()
            raise

    return method


class KeepsState:
    """The part of a model on JAX that holds on to the state of a running loop."""

    fit = _leaving_values("fit")
    evaluate = _leaving_values("evaluate")
    predict = _leaving_values("predict")
    train_on_batch = _leaving_values("train_on_batch")
    test_on_batch = _leaving_values("test_on_batch")
    predict_on_batch = _leaving_values("predict_on_batch")

    @functools.cached_property
    def _running(self):
        return _Running()

    def _get_jax_state(self, purge_model_variables=False, **kinds):
        # Noted before any variable is emptied. The groups are noted too: a layer that is frozen
        # while the loop runs changes which variables stand in which place.
        groups = [list(group) for group in self._variables_of(**kinds)]
        state = tuple([variable.value for variable in group] for group in groups)
        self._running.groups, self._running.newest[:] = groups, [({}, state)]
        if purge_model_variables:
            keras_internals.mark_synced(self, False)
            keras_internals.empty(sum(groups, []), _held)
        return state

    def _variables_of(
        self,
        trainable_variables=False,
        non_trainable_variables=False,
        optimizer_variables=False,
        metrics_variables=False,
    ):
        """The variables of these kinds, in Keras's order of the kinds."""
        if trainable_variables:
            yield self.trainable_variables
        if non_trainable_variables:
            yield self.non_trainable_variables
        if optimizer_variables:
            yield self.optimizer.variables
        if metrics_variables:
            yield self.metrics_variables

    def jax_state_sync(self):
        """Gives the variables the newest values of the running loop, if they lack them."""
        running = self._running
        if not running.newest or not keras_internals.is_unsynced(self):
            return
        variables, values = sum(running.groups, []), itertools.chain(*running.newest[0][1])
        assign_all(variables, values)
        keras_internals.end_emptiness(variables)
        keras_internals.mark_synced(self)
        running.groups, running.newest[:] = [], []

    def _make_function(self, step_function, **options):
        kept = self._kept(step_function)
        predicts = "concatenate_outputs" in options
        return super()._make_function(kept if predicts else self._fed(kept), **options)

    def _fed(self, program):
        """The program of a state and a batch, which is given the live numbers of the moment too."""
        self.live_values.variables()  # made before a program is traced

        def run(state, data, *more):
            return program(state, Fed(data, self.live_values.array()), *more)

        return run

    def _kept(self, program):
        """The program of a state and data, whose results are noted as it gives them.

        An interrupt is raised as soon as Python goes on: often right after the program, which has
        overwritten the old state by then. So its results aren't handed through Python first.
        """
        newest = self._running.newest

        def run(state, *data):
            newest[:] = map(program, (state,), *zip(data))
            return newest[0]

        return run
