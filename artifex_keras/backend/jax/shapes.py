"""Models made of shapes on JAX: their variables are abstract, and nothing is allocated."""

import contextlib
import math

import jax

from artifex_keras.backend import keras_internals


def from_shapes(make):
    """What `make()` gives, called while JAX traces: no initializer runs, no array is made.

    Variables made in it hold tracers until `hold_shapes` is called with them. Keras's global state
    may have some besides: restore it.

    Raises:
        ValueError: where `make` needs the value of what is only a shape, or reads weights.
    """
    made = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(explained("while it was made"))
        stack.enter_context(keras_internals.numbers_in(jax.ensure_compile_time_eval))
        stack.enter_context(keras_internals.without_loading(_reject_loading))
        jax.eval_shape(lambda: made.append(make()))
    return made[0]


def hold_shapes(variables):
    """Lets variables hold their shapes in place of tracers. Gives those that hold arrays instead,
    made elsewhere; single numbers and seeds are left as they are."""
    others = []
    for variable in variables:
        value = variable.value
        if isinstance(value, jax.core.Tracer):
            keras_internals.set_value(variable, jax.ShapeDtypeStruct(value.shape, value.dtype))
        elif isinstance(value, jax.Array) and math.prod(value.shape) > keras_internals.SMALL:
            others.append(variable)
    return others


@contextlib.contextmanager
def explained(when):
    """Says in words what JAX raises where values are asked for and there are only shapes."""
    try:
        yield
    except jax.errors.JAXTypeError as error:
        said = str(error).splitlines()[0]
        raise ValueError(
            f"`model`, a callable, is called with shapes alone, and something needed values {when}."
            " What reads weights in Python, or keeps an array that is no weight, can't be planned "
            f"so: plan the finished model itself. JAX says: {said}"
        ) from error


def _reject_loading():
    raise ValueError(
        "`model`, a callable, must not read weights: it is called with shapes alone, which files "
        "would not change. Leave out `load_weights` and `load_model`, or plan the loaded model "
        "itself."
    )
