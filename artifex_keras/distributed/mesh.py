"""Devices in a grid with named axes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from artifex_keras.arguments import broken_rule, checked, known_name, sizes
from artifex_keras.backend.placement import ordered_devices

__all__ = [
    "CONTEXT",
    "DeviceMesh",
    "VirtualMesh",
    "data_axis",
    "devices_for",
    "devices_here",
    "mesh_axes_of",
    "mesh_axis_names",
    "num_shards",
    "regrouped_mesh",
    "row_axes",
    "sampling_sizes",
    "tensor_axis",
    "weight_axes",
]

MESH_AXES = ("replica", "data", "model")
CONTEXT = "context"  # the axis that the tokens of a row are sharded over
NAMED_AXES = ("replica", "data", CONTEXT, "model")  # in this order, where they are given by name


def mesh_axis_names(count):
    """The names of a mesh's axes: "data", then "model" behind it, then "replica" before both."""
    return MESH_AXES[0 if count > 2 else 1 :][:count]


def mesh_axes_of(name, value):
    """`(shape, axis names)` of a mesh given as `{"data": 2, "context": 4}`, in the order of
    `NAMED_AXES`; "data" is 1 where it isn't said.

    Raises:
        ValueError: for other names, and sizes that aren't positive integers.
    """
    for axis in value:
        known_name(axis, NAMED_AXES, f"axis of `{name}`")
    named = {"data": 1, **value}
    if "replica" in named:  # "model" is found by its place
        named = {"model": 1, **named}
    names = tuple(axis for axis in NAMED_AXES if axis in named)
    return tuple(sizes(f"{name}[{axis!r}]", named[axis])[0] for axis in names), names


def sampling_sizes(name, value):
    """The shape of a mesh to sample on, given as such or with names, `{"data": 2, "model": 4}`.

    Raises:
        ValueError: for what is neither, and for an axis of the context.
    """
    if not isinstance(value, Mapping):
        return sizes(name, value)
    shape, names = mesh_axes_of(name, value)
    if CONTEXT in names:
        raise broken_rule(name, value, 'without a "context": a token is sampled at a time')
    return shape


def row_axes(axes):
    """The names of those axes that the rows of a batch are sharded over: all but the last, and but
    for that of the context."""
    names = _without_context(axes)
    return names[: max(1, len(names) - 1)]


def data_axis(axes):
    """The name of the axis for FSDP: the last that a batch is sharded over."""
    return row_axes(axes)[-1]


def weight_axes(axes):
    """What FSDP shards weights over: the name of `data_axis`, or with that of the context both."""
    data = data_axis(axes)
    return (data, CONTEXT) if axes.get(CONTEXT, 1) > 1 else data


def tensor_axis(axes):
    """The name of the axis for tensor parallelism: the last, or None of one beside the context."""
    names = _without_context(axes)
    return names[-1] if len(names) > 1 else None


def _without_context(axes):
    return tuple(name for name in axes if name != CONTEXT)


def num_shards(part, axes):
    """How many shards an axis of a tensor has that lies over `part`: a name, several, or None."""
    names = part if isinstance(part, tuple) else (part,)
    return math.prod(axes[name] for name in names if name is not None)


def _axes(name, value):
    if not isinstance(value, list | tuple) or not all(isinstance(axis, str) for axis in value):
        raise broken_rule(name, value, "a tuple of names")
    return tuple(value)


def _check_devices(devices):
    listed = isinstance(devices, list | tuple | np.ndarray) and np.ndim(devices)
    if devices is not None and not listed:
        raise broken_rule("devices", devices, "a list of devices or None")


@checked(shape=sizes, axis_names=_axes)
class DeviceMesh(keras.distribution.DeviceMesh):
    """A `keras.distribution.DeviceMesh`, checked against the devices that there are.

    The devices stand in the order in which their links are short (JAX knows it for TPUs); Keras
    counts them row by row.

    Args:
        shape: how many devices along each axis.
        axis_names: a name for each axis; batches are sharded over the first, and of three over the
            first two. One that is called "context" besides shards the tokens of a row.
        devices: names as `keras.distribution.list_devices` gives them; None takes as many as the
            mesh needs.

    Raises:
        ValueError: for a shape and names that don't fit each other, or more devices than there are.

    Example:

        ```python
        import artifex_keras as ak

        mesh = ak.distributed.DeviceMesh((1, 1), ("data", "model"))
        print(mesh)  # DeviceMesh(data 1 x model 1)
        ```
    """

    def __init__(
        self,
        shape: Sequence[int],
        axis_names: Sequence[str] = ("data", "model"),
        devices: Sequence[Any] | None = None,
    ):
        _check_devices(devices)
        if not shape or len(shape) != len(axis_names) or len(set(axis_names)) < len(axis_names):
            raise ValueError(
                "`axis_names` must name each axis of `shape`, all differently. Received: "
                f"shape={shape}, axis_names={axis_names}."
            )
        if not _without_context(axis_names):
            raise ValueError(
                'A mesh needs an axis for the rows of a batch beside "context", of size 1 at '
                f'least, as in (1, 8) of ("data", "context"). Received: shape={shape}, '
                f"axis_names={axis_names}."
            )
        if devices is None:
            devices = ordered_devices(shape, devices_for(math.prod(shape), f"shape={shape}"))
        elif len(devices) != math.prod(shape):
            raise ValueError(
                f"A mesh of shape {shape} needs {math.prod(shape)} devices. Received: "
                f"{len(devices)} of them."
            )
        super().__init__(shape, axis_names, devices)

    def __str__(self):
        axes = " x ".join(
            f"{name} {size}" for name, size in zip(self.axis_names, self.shape, strict=True)
        )
        return f"DeviceMesh({axes})"


class VirtualMesh(keras.distribution.DeviceMesh):
    """A `keras.distribution.DeviceMesh` on which programs can be lowered, and nothing can lie.

    Args:
        shape: how many devices along each axis.
        axis_names: a name for each axis.
    """

    def __init__(self, shape, axis_names=("data", "model")):
        names = [f"virtual:{index}" for index in range(math.prod(shape))]
        super().__init__(tuple(shape), tuple(axis_names)[: len(shape)], names)

    @property
    def backend_mesh(self):
        from artifex_keras.backend import lowering

        return lowering.abstract_mesh(self.shape, self.axis_names)


def regrouped_mesh(name, mesh, shape):
    """The devices of `mesh` in the same order as a mesh of another shape, with our names of axes.

    Raises:
        ValueError: for a shape of another number of devices; `name` is the argument's.
    """
    shape = tuple(int(size) for size in shape)
    devices = math.prod(mesh.shape)
    if math.prod(shape) != devices or len(shape) > len(MESH_AXES):
        raise ValueError(
            f"`{name}` must group the {devices} devices of the mesh {tuple(mesh.shape)} anew, "
            f"along {len(MESH_AXES)} axes at most, as in ({devices},) or (1, {devices}). "
            f"Received: {name}={shape}."
        )
    if isinstance(mesh, VirtualMesh):
        return VirtualMesh(shape, mesh_axis_names(len(shape)))
    return DeviceMesh(shape, mesh_axis_names(len(shape)), list(mesh.devices.flatten()))


def devices_here():
    """The names of all devices. A NotImplementedError on torch, of which Keras lists none."""
    try:
        return keras.distribution.list_devices()
    except AttributeError:
        raise NotImplementedError(
            "Many devices need the JAX backend: set KERAS_BACKEND=jax before Keras is imported."
        ) from None


def devices_for(count, received):
    """The first `count` devices' names.

    Raises:
        ValueError: if there are fewer; `received` is what the user gave.
    """
    devices = devices_here()
    if count is None:
        return devices
    if not 1 <= count <= len(devices):
        raise ValueError(
            f"There are {len(devices)} devices here ({', '.join(devices[:8])}"
            f"{', ...' if len(devices) > 8 else ''}), and {count} were asked for. Received: "
            f"{received}. On a CPU, XLA_FLAGS=--xla_force_host_platform_device_count={count} in "
            "the environment, before Python starts, shows it as that many."
        )
    return devices[:count]
