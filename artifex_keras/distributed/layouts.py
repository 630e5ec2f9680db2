"""Layouts: which axis of each weight is sharded, and over which axis of the mesh."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from artifex_keras.arguments import boolean, checked, count, instance_of, optional
from artifex_keras.backend import keras_internals
from artifex_keras.distributed.layout_patterns import (
    OUTPUT,
    given,
    layers_of,
    outputs,
    path_of,
    tensor_axis,
)

__all__ = ["Layouts", "Placement", "auto_layout_map", "placements", "specs_for"]

HEADS = {"query": "num_heads", "key": "num_kv_heads", "value": "num_kv_heads"}
PROJECTIONS = re.compile(r"(?:^|_)(query|key|value)$")
ATTENTION_OUTPUTS = re.compile(r"(?:^|_)(attention_output|attention_out)$")


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
        self.pinned = frozenset(pinned)
        self.outputs = outputs or {}
        for path, placement in placed.items():
            self[path] = keras.distribution.TensorLayout(placement.spec, mesh)

    def output_layout(self, path):
        """The layout of the output of the layer at that path, or None where it is left open."""
        spec = next((s for p, s in self.outputs.items() if re.fullmatch(p, path)), None)
        layer = path.removesuffix(OUTPUT)
        if spec is None and any(
            layer == p or layer.endswith("/" + p) or p.endswith("/" + layer) for p in self.pinned
        ):
            spec = self.device_mesh.axis_names[:1]  # the rows; replicated over the other axes
        return None if spec is None else keras.distribution.TensorLayout(spec, self.device_mesh)

    def __str__(self):
        sizes = dict(zip(self.device_mesh.axis_names, self.device_mesh.shape, strict=True))
        rows = [("weight", "shape", "axes", "bytes a device", "why")]
        total = local = 0
        for path, (spec, why) in self.placed.items():
            weight = self.weights[path]
            size = _bytes(weight)
            part = size // int(np.prod([sizes[axis] for axis in spec if axis]))
            total, local = total + size, local + part
            axes = ", ".join(axis or "-" for axis in spec)
            rows.append((path, str(tuple(weight.shape)), f"({axes})", f"{part:,}", why))
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
    model=instance_of(keras.Layer, what="a Keras model"),
    mesh=instance_of(keras.distribution.DeviceMesh, what="a DeviceMesh"),
    layout_map=optional(instance_of(Mapping, what="a dict of axes by pattern")),
    fsdp=boolean,
    min_size=count(0),
)
def auto_layout_map(
    model: keras.Model,
    mesh: Any,
    layout_map: Mapping[str, Any] | None = None,
    *,
    fsdp: bool = True,
    min_size: int = 1024,
):
    """The layouts of all weights of a built Keras model on `mesh`, as `Layouts`.

    The first axis of the mesh is the data's. Batches are sharded over it, and with `fsdp` also each
    weight of at least `min_size` entries, on its largest free axis that divides; it is gathered
    where it is used. A second axis is for tensor parallelism, so that layers exchange little: a
    projection is sharded by its outputs (column), the one that reads it by its inputs (row),
    attention by its heads, embeddings by the vocabulary, convolutions by their channels. Whatever
    doesn't divide is replicated. The outputs of rows, norms and embeddings are pinned to the rows
    of their device, or the compiler would pass them around.

    Args:
        model: a built `keras.Model`, or any layer.
        mesh: a `DeviceMesh`, of ours or of Keras.
        layout_map: layouts that override the rules, `{pattern: axes}` or a Keras `LayoutMap`; a
            pattern is a regular expression for a whole path, "/output" at its end for an output.
        fsdp: whether weights are sharded over the data axis too.
        min_size: entries below which it isn't worth it.

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
    placed = placements(model, axes, layout_map, fsdp=fsdp, min_size=min_size)
    tensor = tensor_axis(axes)
    pinned = _pinned(model, placed, tensor) if axes.get(tensor, 1) > 1 else ()
    return Layouts(mesh, weights, placed, pinned, outputs(model, layout_map))


def specs_for(model, axes, layout_map=None, **options):
    """`{path: (axis or None, ...)}` on a mesh of the sizes `axes`, which needn't exist."""
    placed = placements(model, axes, layout_map, **options)
    return {path: placement.spec for path, placement in placed.items()}


def placements(model, axes, layout_map=None, *, fsdp=True, min_size=1024):
    """`{path: Placement}` on a mesh of the sizes `axes`, by name, the data's first."""
    owners = _owners(model)
    data, tensor = next(iter(axes)), tensor_axis(axes)
    weights = _weights(model)
    said = given(model, weights, axes, layout_map)
    rules = _TensorRules(model, axes.get(tensor, 1))
    placed = {}
    for weight in weights:
        if weight.path in said:
            placed[weight.path] = Placement(*said[weight.path])
            continue
        spec, why = [None] * len(weight.shape), "replicated"
        if tensor is not None and axes[tensor] > 1:
            axis, why = rules.axis_of(weight, owners.get(id(weight)))
            if axis is not None:
                spec[axis] = tensor
        if fsdp and axes[data] > 1:
            axis = _largest(weight.shape, spec, axes[data], min_size)
            if axis is not None:
                spec[axis] = data
                why = "its largest axis" if why == "replicated" else f"{why}; its largest axis"
        placed[weight.path] = Placement(tuple(spec), why)
    return placed


def _weights(model):
    """Floating weights, and not what a model counts or draws noise by."""
    kept = {id(variable): variable for variable in model.variables if len(variable.shape)}
    return [v for v in kept.values() if "float" in keras.backend.standardize_dtype(v.dtype)]


def _owners(model):
    """The layer that has made a weight, by the weight's id."""
    return {
        id(weight): layer
        for layer in layers_of(model)
        for weight in keras_internals.own_variables(layer)
    }


def _largest(shape, spec, count, min_size):
    """The largest free axis that `count` divides, or None."""
    if np.prod(shape) < min_size:
        return None
    fitting = [i for i, n in enumerate(shape) if spec[i] is None and n % count == 0]
    return max(fitting, key=lambda i: shape[i]) if fitting else None


class _TensorRules:
    """Tensor parallelism: the axis of each weight to shard so that layers exchange little."""

    def __init__(self, model, count):
        self.count = count
        self.by_path = {path_of(layer): layer for layer in layers_of(model) if path_of(layer)}
        self.column = None  # the width of the projection before, if its outputs are sharded
        self.kinds = {}  # of kernels, by the layer's id: "column", "row" or "replicated"

    def axis_of(self, weight, layer):
        """`(axis or None, why)`."""
        if isinstance(layer, keras.layers.Embedding):
            return self._fits(weight, 0, "vocabulary")
        rank = len(weight.shape)
        if weight.name == "kernel" and rank >= 2:
            return self._kernel(weight, layer)
        if weight.name == "bias" and self.kinds.get(id(layer)) == "column":
            axis = 0 if rank > 1 else -1  # (heads, size) after a projection to heads
            return self._fits(weight, axis % rank, "with its kernel")
        return None, "replicated"

    def _kernel(self, weight, layer):
        kind, axis, why = self._preferred(weight, layer)
        found = self._fits(weight, axis, why)
        self.kinds[id(layer)] = kind = "replicated" if found[0] is None else kind
        self.column = weight.shape[-1] if kind == "column" else None
        return found

    def _preferred(self, weight, layer):
        """`("column" or "row", axis, why)` of a kernel."""
        rank, name = len(weight.shape), path_of(layer).rsplit("/", 1)[-1] if layer else ""
        if match := PROJECTIONS.search(name):
            if rank == 3:  # (width, heads, size)
                return "column", 1, "heads"
            heads = getattr(self.by_path.get(path_of(layer).rpartition("/")[0]), HEADS[match[1]], 0)
            return "column", rank - 1 if (heads or 0) % self.count == 0 else None, "heads"
        if ATTENTION_OUTPUTS.search(name):
            return "row", 0, "row: reads heads"
        if hasattr(layer, "kernel_size"):
            return "column", rank - 1, "channels"
        if self.column is not None and weight.shape[-2] == self.column:
            return "row", rank - 2, "row: reads a column"
        return "column", rank - 1, "column"

    def _fits(self, weight, axis, why):
        if axis is None:
            return None, f"replicated: {self.count} doesn't divide its {why}"
        if weight.shape[axis] % self.count:
            return None, f"replicated: {self.count} doesn't divide axis {axis} ({why})"
        return axis, why


def _pinned(model, placed, tensor):
    """The paths of the layers whose outputs are pinned: norms, embeddings, rows."""
    pinned = set()
    for layer in layers_of(model):
        weights = [w for w in keras_internals.own_trainable_variables(layer) if w.path in placed]
        kernels = [w for w in weights if w.name == "kernel"]
        reads_column = any(
            tensor in placed[w.path].spec and placed[w.path].why.startswith("row") for w in kernels
        )
        normalises = "Normalization" in type(layer).__name__
        if weights and (reads_column or normalises or isinstance(layer, keras.layers.Embedding)):
            pinned.add(weights[0].path.rpartition("/")[0])
    return pinned


def _bytes(weight):
    bits = re.search(r"\d+$", keras.backend.standardize_dtype(weight.dtype))[0]
    return int(np.prod(weight.shape)) * int(bits) // 8
