"""Sampling on devices of its own, on JAX: the first program of a step runs on those of the actors,
the second on those of the learners.

A program waits for all that it is given. So what the first one changes of the state, such as seeds,
is also made on the learners, by a program that leaves all else out: else an update would wait for
the batch that is being sampled.
"""

import weakref

import jax
import keras
from jax import numpy as jnp

from artifex_keras.backend.scope import pairs

__all__ = ["OnActors", "kind_of", "put_rows", "read_leaves", "unchanged_leaves"]


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
        self._copies = {}  # weak references to leaves, with their copies, by their numbers
        self._unchanged = {}  # the numbers of leaves that an update leaves as they are, by the kind

    def begin(self, state, fed):
        """`(outputs, changes)`: the former on the actors' devices, the latter on the learners'."""
        kind = kind_of(fed)
        if kind not in self._programs:
            self._programs[kind] = self._program(state, fed)
        program, places = self._programs[kind]
        values = self._copied(jax.tree.leaves(state), places)
        with self.actors.scope():
            outputs = program(values, put_rows(fed, self.actors))
        return outputs, self._changes(state, fed)

    def finishing(self, compiled, finish):
        """The program `finish(state, fed, outputs, ...)`, with outputs on the actors' devices.
        `compiled` is what it runs."""

        def program(state, fed, outputs, *more):
            given = fed, put_rows(outputs, self.learners), *more
            kind = kind_of(fed)
            if kind not in self._unchanged:
                self._unchanged[kind] = unchanged_leaves(compiled, state, *given)
            copies = self._newest(jax.tree.leaves(state), self._unchanged[kind])
            logs, state = finish(state, *given)
            leaves = jax.tree.leaves(state)
            for index, copy in copies.items():
                self._keep(index, leaves[index], copy)
            return logs, state

        return program

    def _copied(self, leaves, places):
        """Leaves of the state on the actors' devices, of which those are copied that are new."""
        kept = self._newest(leaves, places)
        new = [index for index in places if index not in kept]
        copies = jax.device_put([leaves[i] for i in new], [places[i] for i in new])
        for index, copy in zip(new, copies, strict=True):
            self._keep(index, leaves[index], copy)
        return [self._copies[i][1] for i in places]

    def _newest(self, leaves, numbers):
        """Those copies of the leaves of these numbers that are of these leaves, by number."""
        found = {index: self._copies[index] for index in numbers if index in self._copies}
        return {index: copy for index, (leaf, copy) in found.items() if leaf() is leaves[index]}

    def _keep(self, index, leaf, copy):
        """Keeps the copy of a leaf for as long as that is there."""

        def forget(reference):
            if self._copies.get(index, (None,))[0] is reference:
                del self._copies[index]

        self._copies[index] = weakref.ref(leaf, forget), copy

    def _program(self, state, fed):
        """The compiled program of the values that it reads, and where these lie, by number."""
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
        layouts = self.actors.layouts_by_id(self.model)
        places = {index: self._place(variables[index], layouts) for index in used}
        return jax.jit(program), places

    def _place(self, variable, layouts):
        """The sharding of a variable's value on the actors' devices."""
        layout = layouts.get(id(variable))
        if layout is None:
            axes = [None] * len(variable.shape)
            layout = keras.distribution.TensorLayout(axes, self.actors.device_mesh)
        return layout.backend_layout


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


def unchanged_leaves(finish, state, *more):
    """The numbers of those leaves of the state that the compiled `finish(state, ...)` gives back as
    they are, such as frozen weights."""
    jaxpr = finish.trace(state, *more).jaxpr.jaxpr
    count = len(jax.tree.leaves(state))
    before, after = jaxpr.invars[:count], jaxpr.outvars[len(jaxpr.outvars) - count :]
    return [index for index in range(count) if before[index] is after[index]]


def kind_of(fed):
    """What says which program runs: the structure and the shapes of a batch."""
    return jax.tree.structure(fed), tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(fed))


def _description(leaf):
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
