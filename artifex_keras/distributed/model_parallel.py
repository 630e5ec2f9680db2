"""FSDP and tensor parallelism: weights sharded over devices, for models too large for one."""

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from artifex_keras.arguments import broken_rule, checked, instance_of, optional, sizes
from artifex_keras.backend import keras_internals, processes
from artifex_keras.distributed.layout_patterns import layers_of
from artifex_keras.distributed.layouts import MIN_BYTES, auto_layout_map, held_whole
from artifex_keras.distributed.layouts import RULES as LAYOUT_RULES
from artifex_keras.distributed.mesh import (
    CONTEXT,
    DeviceMesh,
    mesh_axes_of,
    mesh_axis_names,
    regrouped_mesh,
    row_axes,
    sampling_sizes,
    tensor_axis,
)
from artifex_keras.distributed.output_layouts import rows_of
from artifex_keras.distributed.redistribute import is_sharded
from artifex_keras.distributed.rollouts import layouts_to
from artifex_keras.distributed.sharding import Sharding

__all__ = ["ModelParallel", "model_parallel"]

RULES = {**LAYOUT_RULES, "rollout_mesh": optional(sampling_sizes)}


@checked(RULES)
class ModelParallel(Sharding, keras.distribution.ModelParallel):
    """A `keras.distribution.ModelParallel` that finds the layouts by itself.

    `model_parallel` makes one. Printed, it shows the mesh, and the table of layouts once it has
    seen a model.
    """

    def __init__(
        self,
        mesh: Any,
        layout_map: Mapping[str, Any] | None = None,
        *,
        fsdp: bool = True,
        min_bytes: int = MIN_BYTES,
        rollout_mesh: Sequence[int] | Mapping[str, int] | None = None,
    ):
        empty = keras.distribution.LayoutMap(mesh)
        super().__init__(layout_map=empty, auto_shard_dataset=False)
        self.given, self.rules = layout_map, {"fsdp": fsdp, "min_bytes": min_bytes}
        self.rollout_mesh, self.rollouts = rollout_mesh, None
        if rollout_mesh is not None:
            other = regrouped_mesh("rollout_mesh", mesh, rollout_mesh)
            self.rollouts = Rollouts(other, fsdp=False)
        self._output_layout = lambda path: None
        keras_internals.place_by_shape()

    @property
    def batch_dim_name(self):
        """The axis that a batch is sharded over; of a mesh of three a tuple, the first two."""
        return rows_of(self.device_mesh)

    @property
    def context_dim_name(self):
        """The axis that the tokens of a row are sharded over; None where there is none."""
        return CONTEXT if self.num_context_shards > 1 else None

    @property
    def model_dim_name(self):
        """The axis that layers are sharded over; None where there is none."""
        return tensor_axis(self.device_mesh.axis_names)

    @property
    def num_context_shards(self):
        """How many shards the tokens of a row have."""
        mesh = self.device_mesh
        return dict(zip(mesh.axis_names, mesh.shape, strict=True)).get(CONTEXT, 1)

    @property
    def num_model_replicas(self):
        """How many shards a batch has."""
        mesh = self.device_mesh
        sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
        return math.prod(sizes[name] for name in row_axes(mesh.axis_names))

    def num_logit_shards(self, vocabulary_size):
        """How many shards logits have: of rows, tokens and the vocabulary."""
        axes = dict(zip(self.device_mesh.axis_names, self.device_mesh.shape, strict=True))
        parts = axes.get(tensor_axis(axes), 1)
        shards = self.num_model_replicas * self.num_context_shards
        return shards * (parts if vocabulary_size % parts == 0 else 1)

    def shard(self, model):
        if self.num_context_shards > 1 and not _takes_rows(model):
            raise ValueError(
                f"{type(model).__name__} {model.name!r} has no rows of tokens that an axis "
                '"context" could shard: put its devices on "data". Received: '
                f"{self.device_mesh}."
            )
        is_new = not is_sharded(model, self)
        super().shard(model)
        if is_new and processes.index() == 0:
            for text in held_whole(self._layout_map):
                warnings.warn(text, stacklevel=2)

    def layouts(self, model):
        self._layout_map = auto_layout_map(model, self.device_mesh, self.given, **self.rules)
        # Keras asks at each call of a layer.
        self._output_layout = functools.cache(self._layout_map.output_layout)
        return self._layout_map

    @property
    def layout_map(self):
        """The `Layouts` of the model that was sharded last."""
        return self._layout_map

    def get_tensor_layout(self, path):
        return self._output_layout(path)

    def __str__(self):
        return f"{self.device_mesh}\n{self._layout_map if len(self._layout_map) else ''}".rstrip()


class Rollouts(ModelParallel):
    """The distribution by which a policy samples: the devices of another, in groups of their own,
    each of which has all weights."""

    def layouts_from(self, distribution, network):
        """The layouts that each weight passes, see `layouts_to`."""
        return layouts_to(self, network, distribution.layout_map)


def _takes_rows(model):
    """Whether a model embeds ids (B, T). Those of classes, which are one for a row, are none."""
    tables = (layer for layer in layers_of(model) if isinstance(layer, keras.layers.Embedding))
    shapes = ((table.get_build_config() or {}).get("input_shape") for table in tables)
    return any(shape is None or (len(shape) == 2 and shape[1] != 1) for shape in shapes)


@checked(RULES, model=optional(instance_of(keras.Layer, what="a Keras model")))
def model_parallel(
    mesh: Sequence[int] | Mapping[str, int] | keras.distribution.DeviceMesh,
    model: keras.Model | None = None,
    layout_map: Mapping[str, Any] | None = None,
    *,
    fsdp: bool = True,
    min_bytes: int = MIN_BYTES,
    rollout_mesh: Sequence[int] | Mapping[str, int] | None = None,
) -> keras.distribution.ModelParallel:
    """A distribution that shards a model's weights over `mesh`, by `auto_layout_map`'s rules.

    One axis is fully sharded data parallelism (FSDP); a second adds tensor parallelism. Three, as
    in (2, 16, 8), are FSDP within groups of 16, data parallelism across 2 of them, and tensor
    parallelism over 8: `(2, 16, 1)` is that without the last. Let a group be the devices that fast
    links join, a pod of TPUs or a host of GPUs: groups exchange gradients alone.

    `{"data": 2, "context": 4}` names the axes. "context" is for rows too long for one device: their
    tokens are sharded over it, and weights over "data" and "context" together. Each device attends
    from its part of a row to all of it, for which keys and values are gathered. "replica", "data",
    "context" and "model" may stand together, in this order.

    Args:
        mesh: a `DeviceMesh`, or its shape, with the axes "data" and "model", and of three "replica"
            before them; or a dict of sizes by the names of axes.
        model: one to shard at once, as `redistribute` does; others are sharded when they are
            built or trained under the distribution.
        layout_map: layouts that override the rules, `{pattern: axes}`.
        fsdp, min_bytes: see `auto_layout_map`.
        rollout_mesh: how the same devices are grouped while a policy samples, for algorithms that
            learn from its own completions. Once a step its weights are copied into the layouts
            that `auto_layout_map` finds for a mesh of this shape with `fsdp=False`, all tokens are
            sampled with the copy, and the step learns with the weights where they are. (1, 8) is
            tensor parallelism over all of 8 devices, (2, 4) two groups of 4, each with all weights
            and half of the rows, (8,) all weights on each device; or named, as in
            `{"data": 2, "model": 4}`. Under FSDP without it every token gathers all weights.
            `layout_map` doesn't apply to the copy.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        encoder = ak.networks.mlp_encoder((6,), 2, (8,))
        vae = ak.VAE(encoder, ak.networks.mlp_decoder(2, (6,), (8,)))
        vae.compile(optimizer="adamw")
        x = np.random.default_rng(0).uniform(size=(32, 6)).astype("float32")
        distribution = ak.distributed.model_parallel((1, 1))  # (2, 4) on eight devices
        with distribution.scope():
            vae.fit(x, epochs=1, verbose=0)
        print(distribution)  # the layout of each weight
        ```
    """
    if isinstance(mesh, Mapping):
        mesh = DeviceMesh(*mesh_axes_of("mesh", mesh))
    if not isinstance(mesh, keras.distribution.DeviceMesh):
        shape = sizes("mesh", mesh)
        if len(shape) > 3:
            raise broken_rule("mesh", mesh, "one size, two or three, a dict, or a DeviceMesh")
        mesh = DeviceMesh(shape, mesh_axis_names(len(shape)))
    rules = {"fsdp": fsdp, "min_bytes": min_bytes, "rollout_mesh": rollout_mesh}
    distribution = ModelParallel(mesh, layout_map, **rules)
    if model is not None:
        distribution.shard(model)
    return distribution
