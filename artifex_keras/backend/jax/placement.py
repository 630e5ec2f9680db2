"""Where arrays lie on JAX."""

import jax
import numpy as np

from artifex_keras.backend import keras_internals


def ordered_devices(shape, names):
    """The devices of these names in a grid of that shape, those with short links beside another.

    Slices of TPUs, which the network of the data centre joins, lie along the first axis.
    """
    from jax.experimental import mesh_utils  # which `import keras` doesn't bring along

    known = {f"{device.platform}:{device.id}": device for device in jax.devices()}
    if any(name not in known for name in names):
        return names
    devices = [known[name] for name in names]
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        grid = mesh_utils.create_device_mesh(shape, devices)
    elif shape[0] % slices == 0:
        within = (shape[0] // slices, *shape[1:])
        across = (slices, *[1] * len(within[1:]))
        grid = mesh_utils.create_hybrid_device_mesh(within, across, devices)
    else:
        return names
    return [f"{device.platform}:{device.id}" for device in grid.flatten()]


def place_variable(variable, layout):
    """Puts a variable's value where `layout` says. Gives whether it wasn't there already.

    None is the default device.
    """
    value, sharding = variable.value, getattr(layout, "backend_layout", None)
    keras_internals.set_layout(variable, layout)
    if isinstance(value, jax.core.Tracer):  # of a model that is made from shapes
        return False
    here = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if value.sharding.is_equivalent_to(here, value.ndim):
        return False
    # By way of the host where it leaves a mesh: a copy shares no buffer that a step would donate.
    moved = jax.device_put(np.asarray(value) if sharding is None else value, sharding)
    keras_internals.set_value(variable, moved)
    return True


def put_on(array, where):
    """The array on a device, by its name, or laid out by a sharding of JAX."""
    if isinstance(where, str):
        kind, _, number = where.partition(":")
        where = next(d for d in jax.devices(kind) if d.id == int(number or 0))
    return jax.device_put(array, where)


def bytes_on_devices():
    """What each local device holds, in bytes: the arrays alive, and what it says itself."""
    held = {device: {"arrays": 0} for device in jax.local_devices()}
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            if shard.device in held:
                held[shard.device]["arrays"] += shard.data.nbytes
    names = {"bytes_in_use": "in_use", "peak_bytes_in_use": "peak", "bytes_limit": "limit"}
    for device, found in held.items():
        stats = device.memory_stats() or {}
        found |= {name: stats[key] for key, name in names.items() if key in stats}
    return {f"{device.platform}:{device.id}": found for device, found in held.items()}
