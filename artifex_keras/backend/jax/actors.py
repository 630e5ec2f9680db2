"""Sampling on devices of its own, on JAX: the first program of a step runs on those of the actors,
the second on those of the learners.

A program waits for all that it is given. So what the first one changes of the state, such as seeds,
is also made on the learners, by a program that leaves all else out: else an update would wait for
the batch that is being sampled.
"""

import jax
import keras
from jax import numpy as jnp

from artifex_keras.backend.scope import pairs

__all__ = ["OnActors", "put_rows", "read_leaves"]


class OnActors:
    """The first program of a step on the actors' devices, `begin(state, fed)`.

    Args:
        model: whose step it is.
        begin: gives `(outputs, changes)`, the latter of the state.
        actors: the distribution over their devices.
        learners: that over the devices where the state lies.
    """

    def __init__(self, model, begin, actors, learners):
        self.model, self.actors, self.learners = model, actors, learners
        self._begin = begin
        self._changes = jax.jit(lambda state, fed: begin(state, fed)[1])
        self._programs = {}  # with what each reads of the state, by the kind of batch

    def begin(self, state, fed):
        """`(outputs, changes)`: the former on the actors' devices, the latter on the learners'."""
        kind = jax.tree.structure(fed), tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(fed))
        if kind not in self._programs:
            self._programs[kind] = self._program(state, fed)
        program, used, places = self._programs[kind]
        leaves = jax.tree.leaves(state)
        values = jax.device_put([leaves[index] for index in used], places)
        with self.actors.scope():
            outputs = program(values, put_rows(fed, self.actors))
        return outputs, self._changes(state, fed)

    def finishing(self, finish):
        """The program `finish(state, fed, outputs, ...)`, with outputs on the actors' devices."""

        def program(state, fed, outputs, *more):
            return finish(state, fed, put_rows(outputs, self.learners), *more)

        return program

    def _program(self, state, fed):
        """The compiled program of the values that it reads, which these are, where they lie."""
        leaves, structure = jax.tree.flatten(state)
        shapes = jax.tree.map(_description, leaves)
        with self.actors.scope():
            used, _ = read_leaves(self._begin, state, fed)

        def program(values, fed):
            given = dict(zip(used, values, strict=True))
            others = (jnp.zeros(shape.shape, shape.dtype) for shape in shapes)
            filled = [given.get(index, zeros) for index, zeros in enumerate(others)]
            return self._begin(jax.tree.unflatten(structure, filled), fed)[0]

        variables = [variable for variable, _ in pairs(self.model._groups(state), state)]
        return jax.jit(program), used, self._places([variables[index] for index in used])

    def _places(self, variables):
        """Where the values of variables lie on the actors' devices, a list of shardings."""
        layouts, places = self.actors.layouts_by_id(self.model), []
        for variable in variables:
            layout = layouts.get(id(variable))
            if layout is None:
                axes = [None] * len(variable.shape)
                layout = keras.distribution.TensorLayout(axes, self.actors.device_mesh)
            places.append(layout.backend_layout)
        return places


def put_rows(tree, distribution=None):
    """Arrays with their rows over the devices of a distribution, by default of that in force."""
    distribution = distribution or keras.distribution.distribution()
    return jax.tree.map(
        lambda leaf: jax.device_put(
            leaf, distribution.get_data_layout(jnp.shape(leaf)).backend_layout
        ),
        tree,
    )


def read_leaves(begin, state, fed):
    """`(numbers, structure)`: of those leaves of the state that `begin(state, fed)` reads to make
    its outputs, and the structure of these."""
    leaves, structure = jax.tree.flatten(state)
    leaves, fed = jax.tree.map(_description, (leaves, fed))

    def outputs(leaves, fed):
        return begin(jax.tree.unflatten(structure, leaves), fed)[0]

    jaxpr, found = jax.make_jaxpr(outputs, return_shape=True)(leaves, fed)
    jaxpr = jaxpr.jaxpr
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    read |= set(map(id, jaxpr.outvars))
    numbers = [i for i, v in enumerate(jaxpr.invars[: len(leaves)]) if id(v) in read]
    return numbers, jax.tree.structure(found)


def _description(leaf):
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
