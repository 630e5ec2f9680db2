"""Variables: their values, paths and layouts, and the scopes in which they have others."""

import contextlib
import math

import keras

from .names import keras_module, uses


@uses("keras.src.backend.common.stateless_scope", "in_stateless_scope")
def in_stateless_scope():
    """Whether variables are traced here, as in a step: Keras offers no public question."""
    return keras_module("backend.common.stateless_scope").in_stateless_scope()


@uses("keras.src.backend.common.stateless_scope", "get_stateless_scope")
def stateless_scope():
    """The innermost `keras.StatelessScope` that is open in this thread, or None."""
    return keras_module("backend.common.stateless_scope").get_stateless_scope()


def stateless_value(variable):
    """The value that the innermost `keras.StatelessScope` has for a variable; None without any."""
    scope = stateless_scope()
    return None if scope is None else scope.get_current_value(variable)


@uses("variable", "_layout")
def layout_of(variable):
    """The layout that a variable was made or moved with; None where it has none."""
    return getattr(variable, "_layout", None)


def set_layout(variable, layout):
    """Notes the layout by which Keras places the variable's later values."""
    variable._layout = layout


@uses("variable", "_value")
def is_inside_step(variable):
    """Whether a running loop on JAX holds the variable's value, which nobody else can read."""
    return variable._value is None


@uses("variable", "_value")
def framework_variable(variable):
    """What the framework keeps for a variable, whatever scope we are in; None before it is made."""
    return variable._value


@uses("variable", "_value")
def set_value(variable, value):
    """Puts an array into a variable as it lies; `assign` would move it to the old place."""
    variable._value = value


@uses("variable", "_path")
def set_path(variable, path):
    """Gives a variable a path that its name and the open scopes don't make."""
    variable._path = path


@uses("variable", "_autocast")
def autocasts(variable):
    """Whether layers read a variable in their compute dtype."""
    return variable._autocast


@uses("variable", "_value")
@uses("variable", "_initializer")
def empty(variables, on_read):
    """Takes the arrays out of variables, as a running loop on JAX does. `on_read(shape, dtype=...)`
    is called where one is read, until `end_emptiness`."""
    for variable in variables:
        variable._value, variable._initializer = None, on_read


@uses("variable", "_initializer")
def end_emptiness(variables):
    """Variables that have been assigned again are as others."""
    for variable in variables:
        variable._initializer = None


SMALL = 2  # entries, which a seed has


@uses("variable", "_convert_to_tensor", "_initialize_with_initializer")
@contextlib.contextmanager
def numbers_in(scope):
    """Inside, variables of one or two entries are made in `scope()`, as is what a Python number
    that is assigned to one becomes: in a trace, values that can be read, as learning rates are."""
    kind = keras.Variable  # which inherits both
    convert, initialize = kind._convert_to_tensor, kind._initialize_with_initializer

    def in_scope(small):
        return scope() if small else contextlib.nullcontext()

    def converted(variable, value, dtype=None):
        with in_scope(isinstance(value, int | float)):
            return convert(variable, value, dtype)

    def initialized(variable, initializer):
        with in_scope(math.prod(variable.shape) <= SMALL):
            initialize(variable, initializer)

    kind._convert_to_tensor, kind._initialize_with_initializer = converted, initialized
    try:
        yield
    finally:
        del kind._convert_to_tensor, kind._initialize_with_initializer
