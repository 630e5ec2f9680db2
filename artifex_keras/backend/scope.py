"""The one idea behind the seam: a stateless scope that sees through to the scope around it."""

import contextlib
import math

import keras
from keras import ops

from artifex_keras.backend import keras_internals

__all__ = [
    "FrozenScope",
    "ReadThroughScope",
    "assign_all",
    "pairs",
    "pure",
    "restored_on_error",
    "undoable",
    "values_of",
]


KEPT_NUMBERS = 2**26  # of a model and its optimizer, of which an eager step keeps a copy


class ReadThroughScope(keras.StatelessScope):
    """A `keras.StatelessScope` that reads through to the scope around it.

    Keras's own scope shows only the values it was given: opened inside another one, it falls back
    to what a variable holds outside both, which during `fit` on JAX is nothing at all. This one
    starts with the surrounding scope's values, so scopes nest: a step, in it a gradient, in that a
    scan.
    It also remembers which variables were assigned, so that their values can be handed outwards.

    Args:
        state_mapping: pairs of variable and value to use inside the scope.
        keep_dtypes: whether values are read in their own dtype, and not in the variable's.
    """

    def __init__(self, state_mapping=None, keep_dtypes=False):
        pairs = list(state_mapping or ())
        super().__init__(pairs, collect_losses=True)
        if keep_dtypes:
            self.state_mapping |= {id(variable): value for variable, value in pairs}
        self._known = {id(variable): variable for variable, _ in pairs}
        self._assigned = {}

    def __enter__(self):
        super().__enter__()
        # Nothing reaches the surrounding scope while this one is open: its values are copied once,
        # so that reading a variable asks one dict.
        if self.original_scope is not None:
            self.state_mapping = self.original_scope.state_mapping | self.state_mapping
            self._known = getattr(self.original_scope, "_known", {}) | self._known
        return self

    def add_update(self, update):
        self._assigned[id(update[0])] = self._known[id(update[0])] = update[0]
        super().add_update(update)

    @property
    def variables(self):
        """The variables whose values this scope and those around it were given."""
        return list(self._known.values())

    def updates(self, excluding=()):
        """The assigned variables and their new values, without those in `excluding`."""
        skipped = {id(variable) for variable in excluding}
        assigned = [v for key, v in self._assigned.items() if key not in skipped]
        return assigned, [self.get_current_value(v) for v in assigned]


class FrozenScope(ReadThroughScope):
    """A scope around whole calls of a model, which then use the values given and change nothing.

    It is not part of a program: what is `compiled` stays so inside, and reads the scope's values.
    Other threads don't see it.
    """

    @staticmethod
    def is_open():
        """Whether this thread is inside such a scope, at any depth."""
        scope = keras_internals.stateless_scope()
        while scope is not None and not isinstance(scope, FrozenScope):
            scope = scope.original_scope
        return scope is not None


def pure(method, model, static):
    """`program(values, args)` gives the method's result and the changes of the model's variables,
    a dict of new values by their place in `model.variables`."""

    def program(values, args):
        variables = model.variables
        with ReadThroughScope(zip(variables, values, strict=True)) as scope:
            result = method(model, *args, **static)
            changed = {id(variable) for variable in scope.updates()[0]}
            changes = {
                index: scope.get_current_value(variable)
                for index, variable in enumerate(variables)
                if id(variable) in changed
            }
        return result, changes

    return program


def values_of(variables):
    """The current values of `variables`, as seen by the scope we are in."""
    return [variable.value for variable in variables]


def assign_all(variables, values):
    """Assigns each of `values` to its variable, in the scope we are in."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


@contextlib.contextmanager
def restored_on_error(variables):
    """Variables whose values come back if an exception passes: for TensorFlow and torch."""
    before = [ops.copy(variable.value) for variable in variables]
    try:
        yield
    except BaseException:  # an interrupt among them
        assign_all(variables, before)
        raise


def undoable(model):
    """The variables of which an eager step keeps copies: all that it may change, of a large model
    those that aren't trained, which change before anything of a user's may raise."""
    slots = model.optimizer.variables if getattr(model, "optimizer", None) is not None else []
    state = {id(v): v for v in (*model.variables, *model.metrics_variables, *slots)}
    numbers = sum(math.prod(variable.shape) for variable in state.values())
    if numbers <= KEPT_NUMBERS:
        return list(state.values())
    others = (*model.non_trainable_variables, *model.metrics_variables)
    return list({id(v): v for v in others}.values())


def pairs(groups, state):
    """Each variable of some groups with its value in a state, which has a list for each group."""
    return [
        pair
        for group, values in zip(groups, state, strict=True)
        for pair in zip(group, values, strict=True)
    ]
