"""Where the tensors of a program lie, under the distribution in force."""

import contextlib
import math

import jax
import keras
from jax import numpy as jnp

from artifex_keras.backend.scope import ReadThroughScope

__all__ = [
    "by_device",
    "moves_weights",
    "num_context_shards",
    "num_model_shards",
    "over_context",
    "over_model",
    "reshard",
    "spread",
]


def spread(x, axis=0, all_devices=False):
    """`x` with its rows sharded over the devices of the distribution; unchanged without one.

    With `all_devices` also over those that share layers, which else have the same rows. Rows that
    the devices don't divide are padded by the compiler, and the padding left out again.
    """
    distribution = keras.distribution.distribution()
    if distribution is None or not isinstance(x, jax.core.Tracer) or x.ndim <= axis:
        return x
    names = _names((distribution.batch_dim_name, _model_axis()[0] if all_devices else None))
    rows = jax.sharding.PartitionSpec(*[None] * axis, tuple(names))
    mesh = distribution.device_mesh.backend_mesh
    return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, rows))


def reshard(values, layouts):
    """`values`, each through its layouts, lists of `keras.distribution.TensorLayout`, to the last.

    They are there before anything that uses them begins: a loop over them exchanges none of it.
    Outside of programs values stay where they are.
    """
    if not any(isinstance(value, jax.core.Tracer) for value in values):
        return values

    def constrained(value, layouts):
        for layout in layouts:
            value = jax.lax.with_sharding_constraint(value, layout.backend_layout)
        return value

    values = list(map(constrained, values, layouts))
    values = jax.lax.optimization_barrier(values)
    return [constrained(*pair) for pair in zip(values, [way[-1:] for way in layouts], strict=True)]


def over_context(x, axis=1, gathered=False):
    """`x` with its tokens, the axis `axis`, over the context of a distribution, or `gathered`, all
    on each device; its rows, the first axis if that isn't the tokens', over theirs. Unchanged
    without a context, and where it doesn't divide the tokens."""
    if num_context_shards(x.shape[axis]) == 1 or not isinstance(x, jax.core.Tracer):
        return x
    distribution = keras.distribution.distribution()
    parts = [jax.sharding.PartitionSpec.UNCONSTRAINED] * x.ndim
    if axis > 0:
        parts[0] = distribution.batch_dim_name if x.shape[0] > 1 else None
    parts[axis] = None if gathered else distribution.context_dim_name
    mesh = distribution.device_mesh.backend_mesh
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*parts))
    return jax.lax.with_sharding_constraint(x, layout)


def over_model(x):
    """`x` with its last axis over the devices that share layers, under tensor parallelism, where
    they divide it."""
    if num_model_shards(x.shape[-1]) == 1 or not isinstance(x, jax.core.Tracer):
        return x
    mesh = keras.distribution.distribution().device_mesh.backend_mesh
    parts = [jax.sharding.PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*parts, _model_axis()[0]))
    return jax.lax.with_sharding_constraint(x, layout)


def num_model_shards(size):
    """Over how many devices that share layers an axis of so many entries lies: one where they
    don't divide it."""
    count = _model_axis()[1]
    return count if isinstance(size, int) and size % count == 0 else 1


def moves_weights(x):
    """Whether devices that share a layer send less if its outputs come in another order by moving
    its weights than by moving what it makes of vectors `x` (..., C): where a device has more
    vectors than C."""
    if _model_axis()[1] == 1 or not isinstance(x, jax.core.Tracer):
        return False
    distribution = keras.distribution.distribution()
    shards = distribution.num_model_replicas * distribution.num_context_shards
    return math.prod(x.shape[:-1]) >= x.shape[-1] * shards


def _model_axis():
    """`(axis, count)` of the mesh that layers are sharded over, and over how many devices."""
    distribution = keras.distribution.distribution()
    axis = getattr(distribution, "model_dim_name", None)
    if axis is None:
        return None, 1
    mesh = distribution.device_mesh
    return axis, dict(zip(mesh.axis_names, map(int, mesh.shape), strict=True))[axis]


def num_context_shards(length):
    """Over how many devices a row of so many tokens lies: one where the context doesn't divide it,
    since XLA adds the gradients of what it pads to the table of embeddings."""
    distribution = keras.distribution.distribution()
    shards = getattr(distribution, "num_context_shards", 1)
    return shards if isinstance(length, int) and length % shards == 0 else 1


def by_device(fn, tensors):
    """`fn(*tensors)`, a tuple of (B, T, ...), for tensors (B, T, ...), where each device of the
    distribution calls it with its own rows, and its own tokens of them. Without a distribution, and
    where the devices don't divide them, `fn` sees all.

    `fn` must treat each token by itself. What it reads beside them, such as the weights of a head,
    is gathered once, before it begins, and the gradient of that is summed once: a loop in `fn`
    exchanges none of it. Axes of the mesh that hold neither rows nor tokens stay the compiler's.
    """
    found = _token_axes(tensors)
    if found is None:
        return fn(*tensors)
    mesh, axes, shards = found
    rows, length = tensors[0].shape[:2]
    own = (rows // shards[0], length // shards[1])
    structs = [jax.ShapeDtypeStruct((*own, *x.shape[2:]), x.dtype) for x in tensors]
    with _undistributed(), ReadThroughScope() as scope:
        program, made = jax.make_jaxpr(fn, return_shape=True)(*structs)
        assigned = scope.updates()[0]
    if assigned:  # state is of all tokens
        return fn(*tensors)

    from jax.extend.core import ClosedJaxpr, jaxpr_as_fun  # only now: it imports much of jax

    # The devices are one more axis, also of what is read beside the tensors: a copy for each.

    def parted(x):
        x = x.reshape(shards[0], own[0], shards[1], own[1], *x.shape[2:]).swapaxes(1, 2)
        return _first_over(axes, x.reshape(-1, *own, *x.shape[4:]), mesh)

    def joined(x):
        x = x.reshape(*shards, *own, *x.shape[3:]).swapaxes(1, 2)
        return x.reshape(rows, length, *x.shape[4:])

    def copied(x):
        return _first_over(axes, jnp.broadcast_to(x, (math.prod(shards), *jnp.shape(x))), mesh)

    def run(tensors, others):
        return jaxpr_as_fun(ClosedJaxpr(program.jaxpr, others))(*tensors)

    results = jax.vmap(run)(list(map(parted, tensors)), list(map(copied, program.consts)))
    return jax.tree.unflatten(jax.tree.structure(made), list(map(joined, results)))


def _first_over(axes, x, mesh):
    """`x` with its first axis over those axes of the mesh, its others wherever they are best."""
    rest = [jax.sharding.PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
    layout = jax.sharding.PartitionSpec(tuple(_names(axes)), *rest)
    return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, layout))


@contextlib.contextmanager
def _undistributed():
    """Inside no distribution is in force: what a layer makes of a device's own part stays there."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def _token_axes(tensors):
    """`(mesh, axes, shards)` of some tensors: the axes of the mesh that rows and tokens lie over,
    and over how many devices each. None where they lie on one."""
    distribution = keras.distribution.distribution()
    if distribution is None or not isinstance(tensors[0], jax.core.Tracer):
        return None
    parts = (distribution.batch_dim_name, getattr(distribution, "context_dim_name", None))
    mesh = distribution.device_mesh
    sizes = dict(zip(mesh.axis_names, map(int, mesh.shape), strict=True))
    shards = [math.prod(sizes[name] for name in _names((part,))) for part in parts]
    divide = all(
        isinstance(size, int) and size % count == 0
        for size, count in zip(tensors[0].shape, shards, strict=False)
    )
    return (mesh.backend_mesh, parts, shards) if divide and math.prod(shards) > 1 else None


def _names(parts):
    """The axes of the mesh in some parts of a layout, each a name, several or None."""
    several = (part if isinstance(part, tuple) else (part,) for part in parts)
    return [name for part in several for name in part if name is not None]
