"""Gradients, loops and branches on JAX, which carry assignments of variables on."""

import warnings

import jax
from jax import numpy as jnp

from artifex_keras.backend.scope import ReadThroughScope, assign_all, values_of
from artifex_keras.backend.trained import known_places


def _recorded(fn, pairs, assigned):
    """`fn()` under a scope of `pairs`: its result and the values it assigned to other variables.

    The variables themselves are left in the list `assigned`: they are known once it was traced.
    """
    pairs = list(pairs)
    with ReadThroughScope(pairs) as scope:
        result = fn()
        assigned[:], values = scope.updates(excluding=[variable for variable, _ in pairs])
    return result, values


def value_and_grad(fn, variables):
    """`(loss, aux, gradients)` of `fn() -> (loss, aux)` with respect to `variables`.

    What `fn` assigns to other variables (batch statistics, seeds) is assigned here as well.
    """
    assigned = []

    def pure(values):
        pairs = zip(variables, values, strict=True)
        (loss, aux), changes = _recorded(fn, pairs, assigned)
        return loss, (aux, changes)

    (loss, (aux, changes)), gradients = jax.value_and_grad(pure, has_aux=True)(values_of(variables))
    assign_all(assigned, changes)
    return loss, aux, gradients


def without_gradient(fn):
    """`fn()` as a constant, through which no gradient flows."""
    return jax.lax.stop_gradient(fn())


def input_gradient(fn, x):
    """The gradient of the summed `fn(x)` with respect to `x`, of the shape of `x`.

    Differentiable once more, for gradient penalties and score matching.
    """
    assigned = []

    def pure(x):
        value, changes = _recorded(lambda: fn(x), (), assigned)
        return jnp.sum(value), changes

    gradient, changes = jax.grad(pure, has_aux=True)(jnp.asarray(x))
    assign_all(assigned, changes)
    return gradient


def repeat(body, xs):
    """The stacked results of `body(x)` for each row `x` of `xs`, in order, in one `lax.scan`.

    What `body` assigns is carried from row to row and on to the caller.
    """
    row = jax.eval_shape(lambda xs: jax.tree.map(lambda leaf: leaf[0], xs), xs)
    variables, run = _traced(body, row)

    def scanned(values, x):
        result, values = run(values, x)
        return values, result

    values, results = jax.lax.scan(scanned, values_of(variables), xs)
    assign_all(variables, values)
    return results


SAVED = {  # what of a function is kept for its gradient
    "full": None,  # its arguments alone
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def recomputed(fn, *xs, mode="full"):
    """`fn(*xs)`, computed once more for the gradient: what it makes on the way isn't kept.

    In the mode "dots" products with weights are kept. What `fn` assigns, such as the state of a
    seed, is assigned once, and both computations begin with the values before.
    """
    assigned = []

    def pure(*xs):
        return _recorded(lambda: fn(*xs), (), assigned)

    if mode == "full" and jax.default_backend() == "cpu":
        result, changes = _recomputed_on_cpu(pure, xs)
    else:
        result, changes = jax.checkpoint(pure, policy=SAVED[mode])(*xs)
    assign_all(assigned, changes)
    return result


def _recomputed_on_cpu(pure, xs):
    """`jax.checkpoint(pure)(*xs)` in a way that XLA's compiler for CPUs doesn't undo: it drops the
    barriers of JAX and then takes the second computation for the first. So the second has another
    argument, x + 0, in which the 0 depends on the gradient that comes in."""
    from jax.extend.core import ClosedJaxpr, jaxpr_as_fun  # only now: it imports much of jax

    # Everything that `pure` closes over is an argument, integers too: the state of a seed that an
    # earlier call has left belongs to the trace of a gradient.
    program, made = jax.make_jaxpr(pure, return_shape=True)(*xs)
    structure = jax.tree.structure(made)

    def converted(xs, hoisted):
        results = jaxpr_as_fun(ClosedJaxpr(program.jaxpr, hoisted))(*xs)
        return jax.tree.unflatten(structure, results)

    @jax.custom_vjp
    def run(xs, hoisted):
        return converted(xs, hoisted)

    def backward(given, gradients):
        xs, hoisted = given
        zero = _zero_of(gradients)
        xs = [x + zero.astype(x.dtype) for x in xs]
        return jax.vjp(converted, xs, hoisted)[1](gradients)

    run.defvjp(lambda xs, hoisted: (run(xs, hoisted), (xs, hoisted)), backward)
    return run(list(xs), list(program.consts))


def _zero_of(gradients):
    """A 0 of which a compiler doesn't know that it is one."""
    floating = [x for x in jax.tree.leaves(gradients[0]) if jnp.issubdtype(x.dtype, jnp.floating)]
    if not floating:  # of what has no gradient
        return jnp.zeros((), "int32")
    first = jnp.ravel(floating[0])[0]
    return jnp.minimum(jnp.isnan(first).astype("int32") + (first > 0).astype("int32"), 0)


def when(condition, body, otherwise):
    """`body()` if `condition`, else `otherwise()`: results of one structure.

    What `body` assigns stays as it was where the condition doesn't hold; only one is computed.
    """
    variables, run = _traced(body)
    values = values_of(variables)
    result, values = jax.lax.cond(condition, lambda: run(values), lambda: (otherwise(), values))
    assign_all(variables, values)
    return result


def _traced(body, *shapes):
    """`(variables, run)`: what `body` assigns, and `run(values, *xs)`, which is `body(*xs)` as a
    function of their values, and gives its result and the next values.

    `body` is traced once, for arguments of these shapes. Which variables it assigns is known only
    then: so all that the scope around us knows are arguments of that program.
    """
    with ReadThroughScope() as scope:
        known = scope.variables
    assigned = []

    def pure(values, *xs):
        with ReadThroughScope(zip(known, values, strict=True)) as scope:
            result = body(*xs)
            assigned[:], values = scope.updates()
        return result, values

    while True:
        values = values_of(known)
        program, made = jax.make_jaxpr(pure, return_shape=True)(values, *shapes)
        missing = {*map(id, assigned)} - {*map(id, known)}
        if not missing:
            break
        known += [v for v in assigned if id(v) in missing]  # outside any scope all of them
    variables, structure = list(assigned), jax.tree.structure(made)

    from jax.extend.core import jaxpr_as_fun  # only now: it imports much of jax

    def run(changing, *xs):
        current = dict(zip(map(id, variables), changing, strict=True))
        given = [current.get(id(v), value) for v, value in zip(known, values, strict=True)]
        results = jaxpr_as_fun(program)(*jax.tree.leaves((given, *xs)))
        return jax.tree.unflatten(structure, results)

    return variables, run


def apply_gradients(optimizer, gradients, variables):
    """One update; stateless inside, for a loss scale or an accumulator branches on its state.

    There may be fewer variables than the optimizer was built for, where layers are frozen.
    """
    known, places = known_places(optimizer, variables)
    if not variables:
        return
    given = dict(zip(places, gradients, strict=True))
    with warnings.catch_warnings():
        if len(given) < len(known):  # of the frozen ones, which Keras would name
            warnings.filterwarnings("ignore", "Gradients do not exist for variables")
        values, optimizer_values = optimizer.stateless_apply(
            values_of(optimizer.variables),
            list(map(given.get, range(len(known)))),
            values_of(known),
        )
    assign_all([*known, *optimizer.variables], [*values, *optimizer_values])
