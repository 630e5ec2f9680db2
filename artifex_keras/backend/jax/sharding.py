"""Where the tensors of a program lie, under the distribution in force."""

import jax
import keras

__all__ = ["num_context_shards", "over_context", "reshard", "spread"]


def spread(x, axis=0):
    """`x` with its rows sharded over the devices of the distribution; unchanged without one.

    Rows that the devices don't divide are padded by the compiler, and the padding left out again.
    """
    distribution = keras.distribution.distribution()
    if distribution is None or not isinstance(x, jax.core.Tracer) or x.ndim <= axis:
        return x
    rows = jax.sharding.PartitionSpec(*[None] * axis, distribution.batch_dim_name)
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


def num_context_shards(length):
    """Over how many devices a row of so many tokens lies: one where the context doesn't divide it,
    since XLA adds the gradients of what it pads to the table of embeddings."""
    distribution = keras.distribution.distribution()
    shards = getattr(distribution, "num_context_shards", 1)
    return shards if isinstance(length, int) and length % shards == 0 else 1
