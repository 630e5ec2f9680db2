"""Layouts: which axis of each weight is sharded, and over which axis of the mesh."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from artifex_keras.arguments import boolean, checked, count, instance_of, optional
from artifex_keras.backend import keras_internals
from artifex_keras.backend.stacks import owned_parts, stand_in
from artifex_keras.distributed.layout_patterns import OUTPUT, given, layers_of, outputs, twins_of
from artifex_keras.distributed.mesh import num_shards, tensor_axis, weight_axes
from artifex_keras.distributed.output_layouts import PinnedOutput
from artifex_keras.distributed.sharding import layout_of_axes
from artifex_keras.distributed.tensor_rules import TensorRules

__all__ = ["Layouts", "Placement", "auto_layout_map", "held_whole", "placements", "specs_for"]

RULES = {
    "layout_map": optional(instance_of(Mapping, what="a dict of axes by pattern")),
    "fsdp": boolean,
    "min_bytes": count(0),
}
MIN_BYTES = 4096  # a tile of a TPU, 8 x 128 numbers of 32 bits: less is padded to as much

NO_BURDEN = 1 << 24  # bytes
WEIGHT_DTYPES = re.compile(r"b?float|u?int[48]$")


class Placement(NamedTuple):
    """Where a weight lies: `spec` names an axis of the mesh, or None, for each of its own; `why`
    says by which rule."""

    spec: tuple
    why: str


class Layouts(keras.distribution.LayoutMap):
    """A `keras.distribution.LayoutMap` with a line for each weight of a model.

    `print` shows the table: path, shape, axes, bytes on each device, and the rule.
    """

    def __init__(self, mesh, weights, placed, pinned=(), outputs=None):
        super().__init__(mesh)
        self.weights = {weight.path: weight for weight in weights}
        self.placed = placed
        self.pinned = {path: PinnedOutput(mesh, *table) for path, table in dict(pinned).items()}
        self.outputs = outputs or {}
        for path, placement in placed.items():
            self[path] = layout_of_axes(placement.spec, mesh)

    def output_layout(self, path):
        """The layout of the output of the layer at that path, or None where it is left open."""
        spec = next((s for p, s in self.outputs.items() if re.fullmatch(p, path)), None)
        if spec is not None:
            return layout_of_axes(spec, self.device_mesh)
        layer = path.removesuffix(OUTPUT)
        found = (
            pinned
            for p, pinned in self.pinned.items()
            if layer == p or layer.endswith("/" + p) or p.endswith("/" + layer)
        )
        return next(found, None)

    @property
    def sizes(self):
        """`{path: (bytes, bytes on each device)}`."""
        axes = dict(zip(self.device_mesh.axis_names, self.device_mesh.shape, strict=True))
        return {
            path: (_bytes(self.weights[path]), _shard_bytes(self.weights[path], spec, axes))
            for path, (spec, _) in self.placed.items()
        }

    def __str__(self):
        rows = [("weight", "shape", "axes", "bytes a device", "why")]
        sizes = self.sizes
        total, local = (sum(pair[i] for pair in sizes.values()) for i in (0, 1))
        for path, (spec, why) in self.placed.items():
            shape, axes = str(tuple(self.weights[path].shape)), ", ".join(map(_axis_text, spec))
            rows.append((path, shape, f"({axes})", f"{sizes[path][1]:,}", why))
        rows.append(("all", "", "", f"{local:,}", f"of {total:,} ({local / max(total, 1):.1%})"))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if i == 3 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


@checked(
    RULES,
    model=instance_of(keras.Layer, what="a Keras model"),
    mesh=instance_of(keras.distribution.DeviceMesh, what="a DeviceMesh"),
)
def auto_layout_map(
    model: keras.Model,
    mesh: Any,
    layout_map: Mapping[str, Any] | None = None,
    *,
    fsdp: bool = True,
    min_bytes: int = MIN_BYTES,
):
    """The layouts of all weights of a built Keras model on `mesh`, as `Layouts`.

    The first axis of the mesh is the data's. Batches are sharded over it, and with `fsdp` also the
    weights, each on its largest free axis that divides (a table of embeddings by its width); it is
    gathered where it is used. A second axis is for tensor parallelism, so that layers exchange
    little: a projection is sharded by its outputs (column), the one that reads it by its inputs
    (row), attention by its heads, embeddings by the vocabulary, convolutions by their channels,
    experts by their number, the factors of LoRA like their kernel. Whatever doesn't divide is
    replicated.

    Of three axes, as in (2, 16, 8), batches are sharded over the first two, and weights over the
    second and the third: FSDP within a group of 16, data parallelism across 2 groups, which send
    each other gradients alone. What norms, embeddings, rows and, without tensor parallelism, all
    projections give is pinned to the rows of its device, or the compiler would pass it around.
    Logits stay sharded by the vocabulary where their table is, and losses are made of them so.

    Args:
        model: a built `keras.Model`, or any layer.
        mesh: a `DeviceMesh`, of ours or of Keras.
        layout_map: layouts that override the rules, `{pattern: axes}` or a Keras `LayoutMap`; a
            pattern is a regular expression for a whole path, "/output" at its end for an output.
        fsdp: whether weights are sharded over the data axis too.
        min_bytes: a weight of which a device would hold fewer bytes isn't sharded over the data
            axis: gathering it would take longer than it spares.

    Raises:
        ValueError: for a pattern that matches no weight, two that match the same, axes that the
            mesh or the weight doesn't have or that don't divide it.

    Example:

        ```python
        import keras
        import artifex_keras as ak

        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(8)])
        mesh = ak.distributed.DeviceMesh((1, 1))
        print(ak.distributed.auto_layout_map(model, mesh))
        ```
    """
    axes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    weights = _weights(model)
    placed = placements(model, axes, layout_map, fsdp=fsdp, min_bytes=min_bytes)
    pinned = _pinned(model, placed, axes)
    return Layouts(mesh, weights, placed, pinned, outputs(model, layout_map))


def held_whole(layouts):
    """What to say of `Layouts` by which each device holds more than half of the bytes whole; an
    iterator of one text, or of none.

    Nothing is said of less than 16 MiB, which is no burden, nor by a mesh of one device.
    """
    sizes = getattr(layouts, "sizes", {})
    total = sum(size for size, _ in sizes.values())
    unsharded = {path: size for path, (size, local) in sizes.items() if size == local}
    held = sum(unsharded.values())
    if held < NO_BURDEN or 2 * held <= total or math.prod(layouts.device_mesh.shape) == 1:
        return
    largest = max(unsharded, key=unsharded.get)
    yield (
        f"Each device holds {held / 1e6:,.0f} of {total / 1e6:,.0f} MB of weights whole: "
        f"{layouts.placed[largest].why} ({largest!r}, {tuple(layouts.weights[largest].shape)}, is "
        "the largest). Take a mesh whose sizes divide the weights' axes, or say in `layout_map` "
        "which axis to shard; printed, the distribution shows the layout of each weight."
    )


def specs_for(model, axes, layout_map=None, **options):
    """`{path: (axis or None, ...)}` on a mesh of the sizes `axes`, which needn't exist."""
    placed = placements(model, axes, layout_map, **options)
    return {path: placement.spec for path, placement in placed.items()}


def placements(model, axes, layout_map=None, *, fsdp=True, min_bytes=MIN_BYTES):
    """`{path: Placement}` on a mesh of the sizes `axes`, by name, the data's first."""
    owners = _owners(model)
    data, tensor = weight_axes(axes), tensor_axis(axes)
    weights = _weights(model)
    said = given(model, weights, axes, layout_map, fsdp)
    rules = TensorRules(model, axes.get(tensor, 1))
    placed = {}
    for variable in weights:
        weight = stand_in(variable)
        stacked = [None] * (weight is not variable)  # the axis of the layers
        if weight.path in said:
            spec, why = said[weight.path]
            placed[weight.path] = Placement((*stacked, *spec), why)
            continue
        spec, why, owner = [None] * len(weight.shape), "replicated", owners.get(id(weight))
        if axes.get(tensor, 1) > 1:
            axis, why = rules.axis_of(weight, owner)
            if axis is not None:
                spec[axis] = tensor
        if fsdp and num_shards(data, axes) > 1:
            axis, chosen = _fsdp_axis(weight, owner, spec, axes, data, min_bytes)
            if axis is not None:
                spec[axis] = data
            if axis is not None or not any(spec):
                why = chosen if why == "replicated" else f"{why}; {chosen}"
        placed[weight.path] = Placement((*stacked, *spec), why)
    return placed


def _weights(model):
    """Floating and quantized weights, and not what a model counts or draws noise by."""
    kept = {id(variable): variable for variable in model.variables if len(variable.shape)}
    return [v for v in kept.values() if WEIGHT_DTYPES.match(_dtype(v))]


def _owners(model):
    """The layer that has made a weight, by the weight's id."""
    return {
        id(weight): layer
        for layer in layers_of(model)
        for weight in keras_internals.own_variables(layer)
    }


def _fsdp_axis(weight, layer, spec, axes, data, min_bytes):
    """`(axis or None, why)` of the free axis to shard over the data's devices."""
    count = num_shards(data, axes)
    if _shard_bytes(weight, spec, axes) < min_bytes * count:
        return None, "small"
    fitting = [i for i, n in enumerate(weight.shape) if spec[i] is None and n % count == 0]
    if not fitting:
        return None, "indivisible"
    # A table by its vocabulary would be gathered for each of its uses, its gradient sent for each.
    if isinstance(layer, keras.layers.Embedding) and weight.name == "embeddings" and 1 in fitting:
        return 1, "its width"
    return max(fitting, key=lambda i: weight.shape[i]), "its largest axis"


def _pinned(model, placed, axes):
    """`{path: (vocabulary, looks_up)}` of the layers whose outputs are pinned to the rows of their
    device, as `PinnedOutput` takes them.

    Under tensor parallelism norms, embeddings and rows: what columns give stays sharded. Without it
    projections too, so that weights are gathered, and not what they are applied to.
    """
    if math.prod(axes.values()) == 1:
        return {}
    tensor, pinned = tensor_axis(axes), {}
    tensor = tensor if axes.get(tensor, 1) > 1 else None
    twins = twins_of(model)
    for layer in layers_of(model):
        if owned_parts(layer):  # what these give is pinned, each by itself
            continue
        weights = [w for w in keras_internals.own_trainable_variables(layer) if w.path in placed]
        kernels = [w for w in weights if w.name == "kernel"]
        projects = any(_gives_rows(placed[w.path], layer, tensor) for w in kernels)
        normalises = "Normalization" in type(layer).__name__
        if weights and (projects or normalises or isinstance(layer, keras.layers.Embedding)):
            looks_up = isinstance(layer, keras.layers.Embedding)
            for each in (layer, *twins.get(id(layer), ())):
                path = keras_internals.own_trainable_variables(each)[0].path.rpartition("/")[0]
                pinned[path] = _logits_of(layer, placed, tensor), looks_up
    return pinned


def _logits_of(layer, placed, tensor):
    """`(V, axis)` of a table that makes logits too, with the axis of the mesh that its vocabulary
    is sharded over, or None. None for other layers.

    One as wide as its vocabulary is none: what it gives can't be known by its shape.
    """
    reversible = isinstance(layer, keras.layers.ReversibleEmbedding)
    if not reversible or layer.input_dim == layer.output_dim:
        return None
    own = keras_internals.own_variables(layer)
    heads = [w for w in own if w.name in ("embeddings", "reverse_embeddings") and w.path in placed]
    table = heads[-1]  # of two the second is the head
    part = placed[table.path].spec[0 if table.name == "embeddings" else 1]
    return layer.input_dim, part if part == tensor else None


def _gives_rows(placement, layer, tensor):
    """Whether what a layer gives by such a kernel is sharded by its rows alone."""
    if tensor is not None:
        return tensor in placement.spec and placement.why.startswith("row")
    dense = isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense)
    return dense or hasattr(layer, "kernel_size")


def _axis_text(part):
    return "+".join(part) if isinstance(part, tuple) else part or "-"


def _dtype(weight):
    return keras.backend.standardize_dtype(weight.dtype)


def _bytes(weight):
    return int(np.prod(weight.shape)) * int(re.search(r"\d+$", _dtype(weight))[0]) // 8


def _shard_bytes(weight, spec, axes):
    """Bytes of a weight on each device."""
    return _bytes(weight) // math.prod(num_shards(part, axes) for part in spec)
