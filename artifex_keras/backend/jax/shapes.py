"""Models made of shapes on JAX: their variables are abstract, and nothing is allocated."""

import contextlib
import functools
import math

import jax

from artifex_keras.backend import keras_internals


def from_shapes(make, asked):
    """What `make()` gives, called while JAX traces: no initializer runs, no array is made.

    In errors `make` is called `asked.name`, and `asked.otherwise` is another way to what it is for.
    Variables made in it hold tracers until `hold_shapes` is called with them. Keras's global state
    may have some besides: restore it.

    Raises:
        ValueError: where `make` needs the value of what is only a shape, or reads weights.
    """
    made = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(explained("while it was made", asked))
        stack.enter_context(keras_internals.numbers_in(jax.ensure_compile_time_eval))
        stack.enter_context(
            keras_internals.without_loading(functools.partial(_reject_loading, asked))
        )
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
def explained(when, asked):
    """Says in words what JAX raises where values are asked for and there are only shapes."""
    try:
        yield
    except jax.errors.JAXTypeError as error:
        said = str(error).splitlines()[0]
        raise ValueError(
            f"{asked.name} is called with shapes alone, and something needed values {when}. Let "
            "nothing in it read weights in Python, or keep an array that is no weight, or "
            f"{asked.otherwise}. JAX says: {said}"
        ) from error


def _reject_loading(asked):
    raise ValueError(
        f"{asked.name} must not read weights: it is called with shapes alone, which files would "
        f"not change. Leave out `load_weights` and `load_model`, or {asked.otherwise}."
    )
