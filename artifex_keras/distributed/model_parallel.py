"""Weights cut over the devices, for models that are too large for one."""

import functools

import keras

from artifex_keras.distributed.layouts import auto_layout_map
from artifex_keras.distributed.mesh import DeviceMesh
from artifex_keras.distributed.sharding import Sharding

__all__ = ["ModelParallel", "model_parallel"]


class ModelParallel(Sharding, keras.distribution.ModelParallel):
    """A `keras.distribution.ModelParallel` that finds the layouts by itself.

    `model_parallel` makes one. Printed, it shows the mesh, and the table of layouts once it has
    seen a model.
    """

    def __init__(self, mesh, layout_map=None, **rules):
        empty = keras.distribution.LayoutMap(mesh)
        super().__init__(layout_map=empty, auto_shard_dataset=False)
        self.given, self.rules = layout_map, rules
        self._output_layout = lambda path: None

    def layouts(self, model):
        self._layout_map = auto_layout_map(model, self.device_mesh, self.given, **self.rules)
        # Keras asks at each call of a layer.
        self._output_layout = functools.cache(self._layout_map.output_layout)
        return self._layout_map

    def get_tensor_layout(self, path):
        return self._output_layout(path)

    def __str__(self):
        return f"{self.device_mesh}\n{self._layout_map if len(self._layout_map) else ''}".rstrip()


def model_parallel(mesh, model=None, layout_map=None, *, fsdp=True, min_size=1024):
    """A distribution that cuts a model's weights over `mesh`, by `auto_layout_map`'s rules.

    On a mesh of one axis that is fully sharded data parallelism; a second axis cuts the layers.

    Args:
        mesh: a `DeviceMesh`, or its shape, with the axes "data" and "model".
        model: one to lay out at once, as `redistribute` does; others are laid out as they are
            built or trained under the distribution.
        layout_map: layouts that override the rules, `{pattern: axes}`.
        fsdp, min_size: see `auto_layout_map`.
    """
    if not isinstance(mesh, keras.distribution.DeviceMesh):
        shape = tuple(mesh)
        mesh = DeviceMesh(shape, ("data", "model")[: len(shape)])
    distribution = ModelParallel(mesh, layout_map, fsdp=fsdp, min_size=min_size)
    if model is not None:
        distribution.shard(model)
    return distribution
