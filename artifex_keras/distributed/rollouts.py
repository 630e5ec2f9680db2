"""Layouts in which a policy samples, and the way of its weights to them."""

import math

from artifex_keras.distributed.mesh import num_shards, row_axes
from artifex_keras.distributed.sharding import layout_of_axes

__all__ = ["layouts_to"]


def layouts_to(rollouts, network, before):
    """Of each weight of a network the layouts that it passes on its way from `before`, where
    training has it, to where `rollouts` samples with it: `{id(variable): [layout, ...]}`.

    What FSDP has sharded over all devices comes there in two moves, within the groups of devices
    and then between them, for the compiler's own way would be to gather all of it first. Weights of
    stacked layers come layer by layer.
    """
    after, found = rollouts.layouts(network), {}
    for variable in network.variables:
        layout = after.get(variable.path)
        if layout is None:
            continue
        old = before.get(variable.path)
        shape, specs = tuple(variable.shape), [tuple(layout.axes)]
        between = _between(shape, old, specs[0], rollouts.device_mesh)
        specs = [spec for spec in (between, specs[0]) if spec is not None]
        parts = getattr(variable, "slices", None)
        if parts:
            specs = [spec[1:] for spec in specs]
        way = [layout_of_axes(spec, rollouts.device_mesh) for spec in specs]
        found |= {id(part): way for part in parts or [variable]}
    return found


def _between(shape, old, spec, mesh):
    """The axes on the way, where the rows' devices shard what `old` has sharded; None for none."""
    axes = dict(zip(mesh.axis_names, map(int, mesh.shape), strict=True))
    rows = tuple(name for name in row_axes(mesh.axis_names) if axes[name] > 1)
    if old is None or not rows or math.prod(old.device_mesh.shape) != math.prod(axes.values()):
        return None
    sizes = dict(zip(old.device_mesh.axis_names, map(int, old.device_mesh.shape), strict=True))
    more = [num_shards(a, sizes) > num_shards(b, axes) for a, b in zip(old.axes, spec, strict=True)]
    if True not in more:
        return None
    place = more.index(True)
    parts = (*([] if spec[place] is None else [spec[place]]), *rows)
    if shape[place] % num_shards(parts, axes):
        return None
    return (*spec[:place], parts if len(parts) > 1 else parts[0], *spec[place + 1 :])
