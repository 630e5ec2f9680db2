"""The devices of a plan, here or not: a target, and a distribution that fits it."""

import math
import re
from collections.abc import Mapping

import keras

from artifex_keras.arguments import broken_rule
from artifex_keras.distributed.data_parallel import DataParallel
from artifex_keras.distributed.mesh import (
    DeviceMesh,
    VirtualMesh,
    mesh_axes_of,
    mesh_axis_names,
    sampling_sizes,
)
from artifex_keras.distributed.model_parallel import ModelParallel, model_parallel
from artifex_keras.planning.chips import Target, chip_of, target_of

__all__ = ["mesh_axes", "mesh_shape", "resolve_distribution", "resolve_target"]

NAMED = re.compile(r"\w+=\d+(,\w+=\d+)*")


def mesh_and_names(mesh, name="mesh"):
    """`(shape, axis names)` of a mesh, which may be named: `{"data": 2, "context": 4}`, or
    "data=2,context=4"; else as `mesh_shape` reads it."""
    if isinstance(mesh, str) and NAMED.fullmatch(mesh):
        pairs = [pair.split("=") for pair in mesh.split(",")]
        said, mesh = mesh, {axis: int(size) for axis, size in pairs}
        if len(mesh) < len(pairs):
            raise broken_rule(name, said, "one size for each axis: one is named twice")
    if isinstance(mesh, Mapping):
        return mesh_axes_of(name, mesh)
    shape = mesh_shape(mesh, name)
    return shape, mesh_axis_names(len(shape))


def mesh_shape(mesh, name="mesh"):
    """The shape of a mesh said as a number, as "4x8", as a tuple, or by a `DeviceMesh`.

    Raises:
        ValueError: for what is none of these, and for meshes of more than three axes.
    """
    shape = getattr(mesh, "shape", mesh)
    if isinstance(shape, str) and re.fullmatch(r"\d+(x\d+)*", shape):
        shape = shape.split("x")
    try:
        shape = tuple(map(int, shape if isinstance(shape, (list, tuple)) else [shape]))
    except (TypeError, ValueError):
        shape = ()
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise ValueError(
            f"`{name}` must say how many devices the data are sharded over, and perhaps how many "
            "the layers are, as in '8', '4x8' or (4, 8); of three numbers, as in '2x16x8', the "
            "first is that of groups with all weights in each. Axes may be named, as in "
            f"'data=2,context=4'. Received: {name}={mesh!r}."
        )
    return shape


def resolve_target(target):
    """The `Target` that a text names; for None the devices that are here."""
    from artifex_keras.backend import lowering

    if target is not None:
        return target if isinstance(target, Target) else target_of(target)
    platform = lowering.platform_here()
    return Target(platform, chip_of(lowering.device_kind()) if platform != "cpu" else None)


def resolve_distribution(distribution, mesh, target, rollout_mesh=None):
    """`(distribution, target)` that fit each other; the distribution is None for one device.

    Args:
        distribution: the one in force, or None.
        mesh: the devices that were asked for in its place, as `mesh_and_names` reads them, or None.
        target: a `Target`.
        rollout_mesh: how devices are grouped while a policy samples; None as the given one has it.

    Raises:
        ValueError: for a mesh and a target of different numbers of devices.
    """
    from artifex_keras.backend import lowering

    shape, names = (None, None) if mesh is None else mesh_and_names(mesh)
    size = 1 if distribution is None else math.prod(distribution.device_mesh.shape)
    if shape is None and target.count not in (None, size):
        shape, names = (target.count,), mesh_axis_names(1)
    devices = math.prod(shape) if shape else size
    if target.count not in (None, devices):
        raise ValueError(
            f"`mesh` must have as many devices as `target`. Received: mesh={mesh!r}, "
            f"target={str(target)!r}."
        )
    if target.chip is not None:
        target = target._replace(count=devices)
    if shape is None and rollout_mesh is None:
        return distribution, target
    if shape is None:
        return _on_mesh(distribution, distribution.device_mesh, rollout_mesh), target
    here = target.platform == lowering.platform_here()
    there = len(keras.distribution.list_devices())
    kind = DeviceMesh if here and devices <= there else VirtualMesh
    return _on_mesh(distribution, kind(shape, names), rollout_mesh), target


def _on_mesh(distribution, mesh, rollout_mesh):
    """A distribution over `mesh` by the rules of the given one."""
    rollouts = {} if rollout_mesh is None else {"rollout_mesh": _sampling_shape(rollout_mesh)}
    if isinstance(distribution, ModelParallel):
        rules = {"rollout_mesh": distribution.rollout_mesh, **distribution.rules, **rollouts}
        return model_parallel(mesh, None, distribution.given, **rules)
    if len(mesh.shape) == 1 and not rollouts:
        return DataParallel(device_mesh=mesh, auto_shard_dataset=False)
    if len(mesh.shape) == 1:
        raise ValueError(
            "A `rollout_mesh` needs a mesh that shards weights, of two axes or more, as in "
            f"'{mesh.shape[0]}x1'. Received: rollout_mesh={rollout_mesh!r} and {mesh.shape[0]} "
            "devices in a row."
        )
    return model_parallel(mesh, **rollouts)


def _sampling_shape(mesh):
    """The shape of a `rollout_mesh` said in one of the ways of a `mesh`."""
    shape, names = mesh_and_names(mesh, "rollout_mesh")
    return sampling_sizes("rollout_mesh", dict(zip(names, shape, strict=True)))


def mesh_axes(distribution):
    """The size of each axis of the distribution's mesh, by name; empty for one device."""
    if distribution is None:
        return {}
    mesh = distribution.device_mesh
    return dict(zip(mesh.axis_names, map(int, mesh.shape), strict=True))
