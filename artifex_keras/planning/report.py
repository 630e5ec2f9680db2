"""What a plan says: the figures of one training step, and the table they are printed as."""

import dataclasses
import math

from artifex_keras.distributed.mesh import row_axes

__all__ = ["HELD", "WEIGHTS", "Plan", "bytes_text"]

WEIGHTS = ("parameters", "optimizer", "averages")
HELD = (*WEIGHTS, "state", "batch")  # in memory from step to step


@dataclasses.dataclass
class Plan:
    """What one training step costs. Printed, it is a table.

    Bytes and operations are those of one device where it isn't said otherwise.

    Attributes:
        model: the name of the family or algorithm.
        target: what it is for, "cpu", "gpu:h100", "tpu:v5e-256".
        mesh: the devices along each axis, by name; empty for one device.
        rows: of the batch, on all devices together.
        parameters, trainable: how many weights there are.
        memory: bytes by kind: `parameters`, `optimizer` (slots), `averages`, `state` (metrics,
            noise, buffers), `batch`, and `temporaries`: activations, gradients and all else that
            lives within a step, as the compiler has laid it out; None if unknown. `gradients` is
            what these take where all are there at once, a part of the temporaries.
        flops: multiplications and additions of the step's matrix products and convolutions on all
            devices together, with each turn of its loops.
        flops_per_device: all operations as the compiler counts them. It takes one turn of each
            loop: in a program with loops the rest is added in the proportion that `flops` has, and
            a device does at least its share of those.
        bytes_accessed: bytes that all operations read and write, counted likewise; what stays on
            the chip is among them.
        collectives: `{kind: {"count", "payload", "wire"}}` per step, bytes of results and bytes
            that a device sends in a ring; None if the step wasn't compiled.
        seconds: that a step takes at least, at the peak figures of the chip: `compute`, `memory`
            (each argument read, each result written, temporaries both), `links`; a part that isn't
            known is left out.
        programs: of a step, two if rewards on the host interrupt it.
        compiled: what the compiler's figures are for, None if it wasn't asked.
        remat: what the gradient finds again, "full" or "dots"; "none" where the networks could and
            don't, None where none of them can.
        chunk_size: how many tokens' logits exist at a time, "auto" or "all"; None of a model
            without this option.
        sampling: of an algorithm that samples, else None: `mesh`, the devices along each axis
            meanwhile; `dtype` of the copy of the weights, None for their own; `copy`, the bytes
            of this copy, 0 without one; `copy_wire`, what a device sends for it by the layouts;
            `wire`, what a device sends before the first token in all, among the `collectives`;
            `token_wire`, what it sends for each token of all rows; None of what isn't compiled.
            `token_seconds` is what a token takes at least: `compute`, `memory` (weights are read
            once, without the cache) and `links`.
        unknown: what isn't known, and why.
        warnings: what won't work, or costs more than it should, and what helps.
    """

    model: str
    target: str
    mesh: dict
    rows: int
    parameters: int
    trainable: int
    memory: dict
    flops: int
    flops_per_device: float | None
    bytes_accessed: float | None
    collectives: dict | None
    seconds: dict
    programs: tuple
    compiled: str | None
    remat: str | None = None
    chunk_size: int | str | None = None
    sampling: dict | None = None
    unknown: list = dataclasses.field(default_factory=list)
    warnings: list = dataclasses.field(default_factory=list)

    @property
    def devices(self):
        """How many there are."""
        return math.prod(self.mesh.values())

    @property
    def num_shards(self):
        """How many shards the batch has: those of the mesh's first axis, of three the first two."""
        return math.prod(self.mesh[name] for name in row_axes(self.mesh))

    @property
    def total(self):
        """Bytes on a device at once; at least so many where `temporaries` aren't known."""
        within = self.memory["temporaries"]
        held = sum(self.memory[kind] for kind in HELD)
        return held + (self.memory["gradients"] if within is None else within)

    @property
    def wire(self):
        """Bytes that a device sends in a step; None if unknown."""
        if self.collectives is None:
            return None
        return sum(row["wire"] for row in self.collectives.values())

    @property
    def intensity(self):
        """Operations per byte read or written; None if unknown."""
        if not self.flops_per_device or not self.bytes_accessed:
            return None
        return self.flops_per_device / self.bytes_accessed

    @property
    def step_seconds(self):
        """A step's least time, all parts at once; None if the chip isn't known."""
        return max(self.seconds.values(), default=None)

    @property
    def bound(self):
        """What a step waits for: "compute", "memory" or "links"; None if the chip isn't known, or
        the step wasn't compiled."""
        if self.collectives is None:
            return None
        return max(self.seconds, key=self.seconds.get, default=None)

    def to_dict(self):
        """All of it as plain numbers, strings, lists and dicts."""
        derived = ("devices", "total", "wire", "intensity", "step_seconds", "bound")
        found = {**dataclasses.asdict(self), **{name: getattr(self, name) for name in derived}}
        return {**found, "programs": list(self.programs)}

    def __str__(self):
        return "\n".join(_lines(self))


def _lines(plan):
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items()) or "one device"
    yield f"{plan.model}: a step of {plan.rows} rows on {plan.target}, {mesh}"
    counted = f"compiled for {plan.compiled}" if plan.compiled else "not compiled"
    yield f"  {'programs':22}{', '.join(plan.programs)}; {counted}"
    yield f"  {'parameters':22}{plan.parameters:,}, of which {plan.trainable:,} are trained"
    for name in ("remat", "chunk_size"):
        if getattr(plan, name) is not None:
            yield f"  {name:22}{getattr(plan, name)}"
    yield "  bytes on a device"
    for kind in (*HELD, "temporaries"):
        yield f"    {kind:20}{bytes_text(plan.memory[kind]):>12}"
    yield f"    {'  all gradients':20}{bytes_text(plan.memory['gradients']):>12}  among them"
    least = " at least" if plan.memory["temporaries"] is None else ""
    yield f"    {'all':20}{bytes_text(plan.total):>12}{least}"
    yield "  operations of a step"
    yield f"    {'in matrix products':20}{quantity_text(plan.flops, 'FLOP'):>12}"
    yield f"    {'on a device':20}{quantity_text(plan.flops_per_device, 'FLOP'):>12}"
    yield f"    {'bytes accessed':20}{bytes_text(plan.bytes_accessed):>12}"
    if plan.intensity is not None:
        yield f"    {'operations per byte':20}{plan.intensity:>10.1f}"
    yield "  sent by a device in a step"
    for kind, row in (plan.collectives or {}).items():
        size = f"{bytes_text(row['wire']):>12}  {row['count']} of {bytes_text(row['payload'])}"
        yield f"    {kind:20}{size}"
    yield f"    {'all':20}{bytes_text(plan.wire):>12}"
    if plan.seconds and plan.bound is None:
        time = seconds_text(plan.step_seconds)
        yield f"  {'least time of a step':22}{time}, of its compute alone"
    elif plan.seconds:
        parts = ", ".join(f"{name} {seconds_text(value)}" for name, value in plan.seconds.items())
        yield (
            f"  {'least time of a step':22}{seconds_text(plan.step_seconds)}, "
            f"bound by {plan.bound}; {seconds_text(sum(plan.seconds.values()))} "
            f"one after the other ({parts}), at peak figures"
        )
    if plan.sampling is not None:
        yield from _sampling_lines(plan.sampling)
    for text in plan.unknown:
        yield f"  ? {text}"
    for text in plan.warnings:
        yield f"  ! {text}"


def _sampling_lines(sampling):
    mesh = " x ".join(f"{name} {size}" for name, size in sampling["mesh"].items()) or "one device"
    yield f"  sampling, on {mesh}"
    if sampling["copy"]:
        own = sampling["dtype"] or "the weights' own dtype"
        yield f"    {'copy of weights':20}{bytes_text(sampling['copy']):>12}  in {own}"
        yield f"    {'sent for the copy':20}{bytes_text(sampling['copy_wire']):>12}  by the layouts"
    yield f"    {'sent before tokens':20}{bytes_text(sampling['wire']):>12}  among those above"
    yield f"    {'sent for a token':20}{bytes_text(sampling['token_wire']):>12}  of all rows"
    seconds = sampling["token_seconds"]
    if seconds:
        parts = ", ".join(f"{name} {seconds_text(value)}" for name, value in seconds.items())
        least = seconds_text(max(seconds.values()))
        yield f"    {'least time of one':20}{least:>12}  ({parts}), the cache left out"


def quantity_text(value, unit):
    if value is None:
        return "unknown"
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def bytes_text(value):
    return quantity_text(value, "B")


def seconds_text(seconds):
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
