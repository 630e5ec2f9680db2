"""Meshes of devices that needn't exist, for plans."""

import math
import re

import keras

__all__ = ["VirtualMesh", "mesh_shape"]


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


def mesh_shape(mesh):
    """The shape of a mesh said as a number, as "4x8", as a tuple, or by a `DeviceMesh`.

    Raises:
        ValueError: for what is none of these, and for meshes of more than two axes.
    """
    shape = getattr(mesh, "shape", mesh)
    if isinstance(shape, str) and re.fullmatch(r"\d+(x\d+)*", shape):
        shape = shape.split("x")
    try:
        shape = tuple(map(int, shape if isinstance(shape, (list, tuple)) else [shape]))
    except (TypeError, ValueError):
        shape = ()
    if not 1 <= len(shape) <= 2 or min(shape) < 1:
        raise ValueError(
            "`mesh` must say how many devices the data are cut over, and perhaps how many the "
            f"layers are, as in '8', '4x8' or (4, 8). Received: mesh={mesh!r}."
        )
    return shape
