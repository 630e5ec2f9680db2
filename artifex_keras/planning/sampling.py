"""What sampling costs in a step that learns from the policy's own completions, beside learning."""

import math
import re
from typing import NamedTuple

import keras

from artifex_keras.backend.stacks import each_by_itself
from artifex_keras.distributed.mesh import num_shards, tensor_axis
from artifex_keras.planning.collectives import wire_bytes
from artifex_keras.rl.rollout_weights import castable_ids

__all__ = ["sampling"]


def sampling(model, distribution, sent, rows, chip=None, peak=None):
    """The figures of a `Plan` about sampling, a dict; None for a model that samples nothing.

    Args:
        model: one that samples has a `rollout_dtype`.
        distribution: in which the step runs, or None.
        sent: the collectives of all programs; None where they aren't compiled.
        rows: prompts of a batch, on all devices.
        chip: a `Chip`, for times; or None.
        peak: its operations a second in the dtype of the model.
    """
    if not hasattr(model, "rollout_dtype"):
        return None
    rollouts = getattr(distribution, "rollouts", None)
    weights = list(_weights(model, distribution, rollouts))
    copied = rollouts is not None or model.rollout_dtype is not None
    tokens = None if sent is None else [one for one in sent if one.part == "token"]
    found = {
        "mesh": _place(rollouts or distribution, ()).sizes,
        "dtype": model.rollout_dtype,
        "copy": sum(each.bytes for each in weights) if copied else 0,
        "copy_wire": sum(each.wire for each in weights),
        "wire": None if sent is None else sum(one.wire for one in sent if one.part == "rollout"),
        "token_wire": None if tokens is None else sum(one.wire / one.times for one in tokens),
        "token_seconds": {},
    }
    if chip is not None:
        size = rows * getattr(model, "num_generations", 1)
        axes = found["mesh"]
        groups = math.prod(axes.values()) // axes.get(tensor_axis(axes) if axes else None, 1)
        products = 2 * sum(each.numbers for each in weights) * -(-size // groups)
        found["token_seconds"] = {
            "compute": products / peak,
            "memory": sum(each.bytes for each in weights) / chip.bandwidth,
            **_links(tokens, chip),
        }
    return found


def _links(tokens, chip):
    """The seconds that a token's collectives take, if they and the speeds of links are known."""
    speeds = [chip.sending(one.reach) for one in tokens or ()]
    if tokens is None or None in speeds:
        return {}
    pairs = zip(tokens, speeds, strict=True)
    return {"links": sum(one.wire / one.times / speed for one, speed in pairs)}


class _Weight(NamedTuple):
    """A weight as a device samples with it: numbers and bytes there, bytes sent for the copy."""

    numbers: int
    bytes: int
    wire: float


class _Place(NamedTuple):
    """How a weight lies: over which axes of a mesh of which sizes."""

    axes: tuple
    sizes: dict

    @property
    def counts(self):
        """How many shards each axis of the weight has."""
        return [num_shards(part, self.sizes) for part in self.axes]


def _weights(model, distribution, rollouts):
    network, dtype = model.actor.sampled_by, model.rollout_dtype
    named = getattr(distribution, "layout_map", None)
    ways = {} if rollouts is None else rollouts.layouts_from(distribution, network)
    cast = castable_ids(network) if dtype else set()
    for variable in each_by_itself(network.variables):
        shape, stack = tuple(map(int, variable.shape)), getattr(variable, "stack", variable)
        layout = None if named is None else named.get(stack.path)
        axes = () if layout is None else tuple(layout.axes)[-len(shape) :]
        begin = _place(layout, axes)
        places = [begin, *(_place(each, each.axes) for each in ways.get(id(variable), ()))]
        if rollouts is None:  # FSDP gathers what it has sharded for the products
            tensor = tensor_axis(begin.sizes) if begin.sizes else None
            axes = [part if part == tensor else None for part in axes]
            places = [begin._replace(axes=tuple(axes))]
        bits = _bits(dtype if id(variable) in cast else variable.dtype)
        numbers = math.prod(shape)
        hops = zip(places, places[1:], strict=False)
        wire = sum(_sent(numbers * bits // 8, *hop) for hop in hops)
        numbers //= math.prod(places[-1].counts)
        yield _Weight(numbers, numbers * bits // 8, wire)


def _place(placed, axes):
    mesh = getattr(placed, "device_mesh", None)
    names, sizes = ((), ()) if mesh is None else (mesh.axis_names, map(int, mesh.shape))
    return _Place(tuple(axes), dict(zip(names, sizes, strict=True)))


def _sent(size, before, after):
    """Bytes that a device sends so that a weight of `size` bytes goes from one place to another."""
    olds = before.counts or [1] * len(after.axes)
    old, new = math.prod(olds), math.prod(after.counts)
    kept = math.prod(map(math.gcd, olds, after.counts))
    if old > new:
        return wire_bytes("all-gather", old // new, size // new)
    if kept < old:
        return wire_bytes("all-to-all", old // kept, size // new)
    orders = any(isinstance(part, tuple) and len(part) > 1 for part in after.axes)
    return wire_bytes("collective-permute", old, size // new) if orders and old == new else 0.0


def _bits(dtype):
    return int(re.search(r"\d+", keras.backend.standardize_dtype(dtype))[0])
