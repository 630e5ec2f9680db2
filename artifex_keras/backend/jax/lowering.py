"""Lowering on JAX: the programs of a step from shapes alone, and what XLA makes of them."""

import contextlib
import functools
import json
import math
import time
from typing import Any, NamedTuple

import jax
import jax.export
import keras
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from artifex_keras.backend.figures import Figures

LOWERED_FOR = {"gpu": "cuda"}  # a platform as `jax.export` calls it


class Work(NamedTuple):
    """Operations of matrix products and convolutions, before any partitioning: `flops` with each
    turn of loops, `once` with one turn of each, as compilers count. In `unknown_loops` there are
    some, and nobody knows how often they turn: they count once in both."""

    flops: int
    once: int
    unknown_loops: int


class Program(NamedTuple):
    """One program of a step, traced: what it takes are shapes, and where they lie.

    One that is `donated` its state, its first argument, overwrites it, and gives the new one. It
    has so many `equations` with those of its inner programs, which compiling takes longer with.
    """

    name: str
    step: Any
    arguments: tuple
    results: Any
    work: Work
    scope: Any
    donated: bool
    equations: int


def abstract_mesh(shape, axis_names):
    """A mesh of that shape without devices, for programs that shall only be lowered."""
    return jax.sharding.AbstractMesh(tuple(shape), tuple(axis_names))


def platform_here():
    """What JAX runs on: "cpu", "gpu" or "tpu"."""
    return jax.default_backend()


def device_kind():
    """The name that the maker gives the first device."""
    return jax.devices()[0].device_kind


# The programs


def step_programs(model, batch, layouts, distribution=None):
    """The programs of a training step of a built and compiled model.

    Args:
        model: a `GenerativeModel`.
        batch: one batch as `fit` delivers it, or anything with the same shapes and dtypes.
        layouts: a `keras.distribution.TensorLayout` or None by the id of a variable.
        distribution: says where the batch lies, and is in force while tracing.
    """
    scope = contextlib.nullcontext if distribution is None else distribution.scope
    replicated = None if distribution is None else _replicated(distribution)

    def placed(variable):
        layout = layouts.get(id(variable))
        place = replicated if layout is None else layout.backend_layout
        return _struct(variable.shape, variable.dtype, place)

    groups = model._variables_of(True, True, True, True)
    state = tuple([placed(variable) for variable in group] for group in groups)
    data = jax.tree.map(functools.partial(_batch_struct, distribution=distribution), batch)
    with scope():
        if not model.interrupted:
            return [_traced("step", model.train_step, state, (data,), scope)]
        begin, finish, _ = model._parts(training=True)
        structures = []  # of what begin gives: an exported program takes no named tuples

        def begin_flat(state, data):
            leaves, structure = jax.tree.flatten(begin(state, data))
            structures.append(structure)
            return leaves, ()

        def finish_flat(state, data, leaves, values):
            outputs, changes = jax.tree.unflatten(structures[0], leaves)
            return finish(state, data, outputs, values, changes)

        first = _traced("begin", begin_flat, state, (data,), scope, donated=False)
        leaves = [_struct(leaf.shape, leaf.dtype) for leaf in first.results[0]]
        outputs, _ = jax.tree.unflatten(structures[0], leaves)
        values = model.symbolic_on_host(outputs)
        rest = (data, leaves, _struct(values.shape, values.dtype, replicated))
        return [first, _traced("finish", finish_flat, state, rest, scope)]


def step_operations(model, rows=None):
    """Operations of the matrix products and convolutions of a training step that was traced.

    None where that isn't known: before the first step, and where nobody knows how often a loop
    turns.

    Args:
        rows: of the batch; None takes the largest.
    """
    batches = model.traced_batches
    if not batches or None in batches:
        return None
    batch = batches.get(rows) or batches[max(batches)]
    work = [program.work for program in step_programs(model, batch, {})]
    return None if any(each.unknown_loops for each in work) else sum(each.flops for each in work)


def _replicated(distribution):
    return NamedSharding(distribution.device_mesh.backend_mesh, PartitionSpec())


def _struct(shape, dtype, sharding=None):
    dtype = jax.dtypes.canonicalize_dtype(keras.backend.standardize_dtype(dtype))
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)


def _batch_struct(leaf, distribution):
    if distribution is None:
        return _struct(leaf.shape, leaf.dtype)
    layout = distribution.get_data_layout(tuple(leaf.shape))
    return _struct(leaf.shape, leaf.dtype, layout.backend_layout)


def _traced(name, function, state, rest, scope, donated=True):
    """The program of `function(state, *rest)`, whose new state lies where the old one does.

    One that isn't `donated` its state gives no new one.
    """
    laid_out = donated and any(leaf.sharding is not None for leaf in jax.tree.leaves(state))
    places = (None, jax.tree.map(lambda leaf: leaf.sharding, state)) if laid_out else None
    step = jax.jit(function, donate_argnums=0 if donated else (), out_shardings=places)
    traced = step.trace(state, *rest)
    if len(traced.jaxpr.jaxpr.invars) > len(jax.tree.leaves((state, *rest))):
        raise ValueError(
            "`model`, a callable, keeps arrays of its own that are no weights, and nobody knows "
            "their values in its step. Make them weights, as by `add_weight(trainable=False)`, or "
            "NumPy arrays."
        )
    work = _work(traced.jaxpr.jaxpr)
    equations = _equations(traced.jaxpr.jaxpr)
    return Program(name, step, (state, *rest), traced.out_info, work, scope, donated, equations)


def _equations(jaxpr):
    """How many equations a traced program has, with those of the programs in it."""
    inner = (_programs_in(equation.params) for equation in jaxpr.eqns)
    return len(jaxpr.eqns) + sum(_equations(getattr(p, "jaxpr", p)) for ps in inner for p in ps)


def _work(jaxpr):
    """The `Work` in a traced program."""
    work = Work(0, 0, 0)
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [_work(getattr(p, "jaxpr", p)) for p in _programs_in(equation.params)]
        if name == "cond":  # one of them
            inner = [max(inner)]
        own = OPERATIONS[name](equation) if name in OPERATIONS else 0
        turns = equation.params["length"] if name == "scan" else 1
        once = own + sum(each.once for each in inner)
        unknown = sum(each.unknown_loops for each in inner)
        work = Work(
            work.flops + own + turns * sum(each.flops for each in inner),
            work.once + once,
            work.unknown_loops + (1 if name == "while" and once else unknown),
        )
    return work


def _programs_in(parameters):
    leaves = jax.tree.leaves(parameters, is_leaf=_is_program)
    return [leaf for leaf in leaves if _is_program(leaf)]


def _is_program(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _product(equation):
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(result) * math.prod(left[axis] for axis in contracted)


def _convolution(equation):
    """Without the products with zeros that a stride leaves in the gradient of the input."""
    kernel, result = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    zeros = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(result) * math.prod(kernel) // features // zeros


OPERATIONS = {"dot_general": _product, "conv_general_dilated": _convolution}


# Compiling


def compiled_here(programs):
    """The `Figures` of each program, compiled for the devices that are here."""
    found = []
    for program in programs:
        with program.scope():
            lowered = program.step.trace(*program.arguments).lower()
        found.append(_figures(program.name, lowered))
    return found


def _figures(name, lowered):
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    costs, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    if memory is not None:
        memory = {
            "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes,
            "in_place": memory.alias_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
        }
    flops, accessed = costs.get("flops"), costs.get("bytes accessed")
    return Figures(name, flops, accessed, memory or {}, compiled.as_text(), seconds)


def exported(program, *platforms):
    """The program as portable bytes, lowered for "cpu", "gpu" or "tpu", or several of them.

    Raises what JAX raises for an operation that a platform doesn't have.
    """
    platforms = [LOWERED_FOR.get(platform, platform) for platform in platforms]
    with program.scope():
        export = jax.export.export(program.step, platforms=platforms)
        return bytes(export(*program.arguments).serialize())


def places(program):
    """Axes of the mesh for each argument and for each result of a program, flat; None is free."""
    arguments = jax.tree.leaves(program.arguments)
    loose = [None] * len(jax.tree.leaves(program.results[0]))
    given = program.arguments[0] if program.donated else ()
    state = [_axes(leaf) for leaf in jax.tree.leaves(given)]
    return [_axes(leaf) for leaf in arguments], loose + state


def _axes(leaf):
    if leaf.sharding is None:
        return None
    return [list(part) if isinstance(part, tuple) else part for part in leaf.sharding.spec]


# In a process of its own


def serve(folder):
    """Compiles what `process.compiled_elsewhere` has left in `folder`, and leaves figures there."""
    request = json.loads((folder / "request.json").read_text())
    mesh = _mesh(request)
    platform = request["platform"]
    found = [_compiled(folder, program, mesh, platform) for program in request["programs"]]
    (folder / "figures.json").write_text(json.dumps([each._asdict() for each in found]))


def _mesh(request):
    shape, names = tuple(request["axes"].values()), tuple(request["axes"])
    if request["topology"] is None:
        return jax.sharding.Mesh(np.array(jax.devices()).reshape(shape), names)
    from jax.experimental import mesh_utils, topologies

    described = topologies.get_topology_desc(platform="tpu", **request["topology"])
    # An axis of the mesh may have to be a part of a ring of links.
    grid = mesh_utils.create_device_mesh(
        shape, list(described.devices), allow_split_physical_axes=True
    )
    return jax.sharding.Mesh(grid, names)


def _compiled(folder, program, mesh, platform):
    export = jax.export.deserialize(bytearray((folder / program["file"]).read_bytes()))

    def place(axes):
        if axes is None:
            return None
        axes = [tuple(part) if isinstance(part, list) else part for part in axes]
        return NamedSharding(mesh, PartitionSpec(*axes))

    def step(*leaves):
        arguments, _ = jax.tree.unflatten(export.in_tree, leaves)
        return jax.tree.leaves(export.call(*arguments))

    leaves = [
        jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=place(axes))
        for value, axes in zip(export.in_avals, program["arguments"], strict=True)
    ]
    step = jax.jit(
        step,
        donate_argnums=tuple(range(program["donated"])),
        out_shardings=[place(axes) for axes in program["results"]],
    )
    lowered = step.trace(*leaves).lower(lowering_platforms=(platform,))
    return _figures(program["name"], lowered)
