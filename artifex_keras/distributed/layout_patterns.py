"""Layouts that are given: by the user's patterns, or by the maps of KerasHub's models."""

import re

from artifex_keras.backend import keras_internals
from artifex_keras.backend.stacks import owned_parts, stand_in
from artifex_keras.distributed.mesh import (
    VirtualMesh,
    data_axis,
    num_shards,
    tensor_axis,
    weight_axes,
)

__all__ = ["OUTPUT", "given", "layers_of", "outputs", "path_of", "twins_of"]

OUTPUT = "/output"  # what Keras adds to a layer's path to ask where its output lies


def layers_of(model):
    """The model and all layers in it; the first one stands for layers with stacked variables."""
    found = keras_internals.all_layers(model)
    first = [parts[0] for parts in map(owned_parts, found) if parts]
    return [*found, *(layer for part in first for layer in keras_internals.all_layers(part))]


def twins_of(model):
    """Of a layer that stands for others with stacked variables these others, by its id."""
    found = {}
    for first, *others in filter(None, map(owned_parts, keras_internals.all_layers(model))):
        each = [keras_internals.all_layers(part) for part in (first, *others)]
        found |= {id(column[0]): column[1:] for column in zip(*each, strict=True)}
    return found


def path_of(layer):
    """The layer's path, "" for one that has none yet."""
    return getattr(layer, "path", None) or ""


def given(model, weights, axes, layout_map, fsdp=True):
    """`{path: (spec, why)}` of what patterns say, the user's before those of KerasHub."""
    found = _published(model, weights, axes, fsdp)
    mine = {}
    for pattern, layout in dict(layout_map or {}).items():
        if pattern.endswith(OUTPUT):
            continue
        spec = tuple(getattr(layout, "axes", layout))
        matched = [weight for weight in weights if re.fullmatch(pattern, weight.path)]
        _check_matched(pattern, matched, weights)
        for weight in map(stand_in, matched):
            _check_spec(pattern, spec, weight, axes)
            if weight.path in mine:
                raise ValueError(
                    f"Two patterns of `layout_map` match {weight.path!r}: "
                    f"{mine[weight.path][1]} and {pattern!r}. Let each weight match one."
                )
            mine[weight.path] = (spec, repr(pattern))
    return found | mine


def _published(model, weights, axes, fsdp):
    """What a backbone of KerasHub says of itself, where it divides; two axes are asked for."""
    tensor, found = tensor_axis(axes), {}
    data, weights_over = data_axis(axes), weight_axes(axes) if fsdp else None
    makers = {type(layer).get_layout_map for layer in layers_of(model) if _has_map(layer)}
    for maker in makers if tensor is not None else ():
        names = {"data_parallel_dim_name": data, "model_parallel_dim_name": tensor}
        published = maker(VirtualMesh(tuple(axes.values()), tuple(axes)), **names)
        for weight in weights:
            for pattern, layout in published.items():
                spec = tuple(weights_over if part == data else part for part in layout.axes)
                if re.search(pattern, weight.path) and _divides(spec, weight.shape, axes):
                    found[weight.path] = (spec, "KerasHub")
    return found


def outputs(model, layout_map):
    """`{pattern: axes}` for the outputs of layers."""
    paths = [path_of(layer) + OUTPUT for layer in layers_of(model) if path_of(layer)]
    outputs = {p: layout for p, layout in dict(layout_map or {}).items() if p.endswith(OUTPUT)}
    for pattern in outputs:
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise ValueError(
                f"The pattern {pattern!r} of `layout_map` matches no layer's output. The paths "
                f"here are {', '.join(map(repr, paths[:3]))}, ..."
            )
    return {p: tuple(getattr(layout, "axes", layout)) for p, layout in outputs.items()}


def _has_map(layer):
    return callable(getattr(type(layer), "get_layout_map", None))


def _divides(spec, shape, axes):
    return len(spec) == len(shape) and all(
        size % num_shards(part, axes) == 0 for part, size in zip(spec, shape, strict=True)
    )


def _check_matched(pattern, matched, weights):
    if not matched:
        some = ", ".join(repr(weight.path) for weight in weights[:3])
        raise ValueError(
            f"The pattern {pattern!r} of `layout_map` matches no weight. It must match a whole "
            f"path: begin it with '.*'. The paths here are {some}, ..."
        )


def _check_spec(pattern, spec, weight, axes):
    received = f"Received: {pattern!r}: {spec} for {weight.path!r} of shape {tuple(weight.shape)}."
    if len(spec) != len(weight.shape):
        raise ValueError(f"A layout must name an axis (or None) for each of a weight's. {received}")
    for part, size in zip(spec, weight.shape, strict=True):
        names = part if isinstance(part, tuple) else (part,)
        if any(name is not None and name not in axes for name in names):
            raise ValueError(f"The mesh has the axes {list(axes)}. {received}")
        if size % num_shards(part, axes):
            count = num_shards(part, axes)
            raise ValueError(f"{count} devices don't divide an axis of {size}. {received}")
