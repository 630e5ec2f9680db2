"""What a training step costs on devices, known before they are rented."""

import dataclasses
import math
import re

import keras

from artifex_keras.distributed.chips import Target, chip_of, target_of
from artifex_keras.distributed.collectives import traffic
from artifex_keras.distributed.data_parallel import DataParallel
from artifex_keras.distributed.mesh import DeviceMesh
from artifex_keras.distributed.model_parallel import ModelParallel, model_parallel
from artifex_keras.distributed.redistribute import layouts_of
from artifex_keras.distributed.virtual import VirtualMesh, mesh_shape

__all__ = ["Plan", "plan"]

WEIGHTS = ("parameters", "optimizer", "averages")
HELD = (*WEIGHTS, "state", "batch")  # in memory from step to step
FULL = 0.9  # of a device's memory: what runs besides needs some, too
SHARE = 0.6  # of a device's memory that weights and what belongs to them may take
WASTE = 1.5  # times its share of the work that a device may do before we wonder
LARGE = 1e9  # operations, from which on that is worth a word


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
            that a device sends in a ring.
        seconds: that a step takes at least, at the peak figures of the chip: `compute`, `memory`
            (each argument read, each result written, temporaries both), `links`; a part that isn't
            known is left out.
        programs: of a step, two if rewards on the host interrupt it.
        compiled: what the compiler's figures are for, None if it wasn't asked.
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
    collectives: dict
    seconds: dict
    programs: tuple
    compiled: str | None
    unknown: list = dataclasses.field(default_factory=list)
    warnings: list = dataclasses.field(default_factory=list)

    @property
    def devices(self):
        """How many there are."""
        return math.prod(self.mesh.values())

    @property
    def shares(self):
        """How many shares the batch is cut into: the size of the mesh's first axis."""
        return next(iter(self.mesh.values()), 1)

    @property
    def total(self):
        """Bytes on a device at once; at least so many where `temporaries` aren't known."""
        within = self.memory["temporaries"]
        held = sum(self.memory[kind] for kind in HELD)
        return held + (self.memory["gradients"] if within is None else within)

    @property
    def wire(self):
        """Bytes that a device sends in a step."""
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
        """What a step waits for: "compute", "memory" or "links"; None if the chip isn't known."""
        return max(self.seconds, key=self.seconds.get, default=None)

    def to_dict(self):
        """All of it as plain numbers, strings, lists and dicts."""
        derived = ("devices", "total", "wire", "intensity", "step_seconds", "bound")
        found = {**dataclasses.asdict(self), **{name: getattr(self, name) for name in derived}}
        return {**found, "programs": list(self.programs)}

    def __str__(self):
        return "\n".join(_lines(self))


def plan(model, batch, distribution=None, target=None, mesh=None):
    """The `Plan` of a training step of `model` on such a batch. Nothing runs, no weight moves.

    Where there are the devices, the compiled step is looked at. For more CPUs than there are, it is
    compiled in a process of its own, and for TPUs too if libtpu is installed, which needs no TPU.
    Otherwise it is lowered for the platform, which shows that it can be, and figures are those of
    as many CPUs, as far as they mean anything there.

    Args:
        model: a compiled `GenerativeModel`.
        batch: one batch as `fit` delivers it, of all rows that a step takes on all devices; of a
            built model anything with the same shapes and dtypes will do.
        distribution: how it is spread, by default as `keras.distribution` has it now.
        target: "cpu", "gpu", "gpu:h100", "tpu", "tpu:v5e-256", ...; by default what is here.
        mesh: devices that needn't exist, in place of those of the distribution: 8 or "8" cuts the
            batch over so many, each with all weights; (4, 8) or "4x8" cuts it over 4 and the
            weights by the rules of `auto_layout_map`, "8x1" over the data's devices alone. Layouts
            of a given `model_parallel` are kept.

    Raises:
        ValueError: for a model that isn't compiled, another backend than JAX, a target or a mesh
            that there can't be.
    """
    if keras.config.backend() != "jax":
        raise ValueError(
            f"A plan needs the JAX backend. Received: KERAS_BACKEND={keras.config.backend()!r}."
        )
    from artifex_keras.backend import lowering

    _prepare(model, batch)
    target = _target(target, lowering)
    current = keras.distribution.distribution() if distribution is None else distribution
    distribution, target = _spread(current, mesh, target, lowering)
    layouts = {} if distribution is None else layouts_of(model, distribution)
    axes = _axes(distribution)
    programs = lowering.step_programs(model, batch, layouts, distribution)
    figures, compiled, unknown = _figures(programs, target, distribution, lowering)
    sent = [traffic(each.hlo, math.prod(axes.values())) for each in figures]
    made = Plan(
        model=type(model).__name__,
        target=str(target),
        mesh=axes,
        rows=_rows(batch),
        **_parameters(model),
        memory=_memory(model, batch, layouts, distribution, figures),
        flops=sum(program.work.flops for program in programs),
        **_counts(programs, figures, sent, math.prod(axes.values())),
        collectives=_by_kind(sent),
        seconds={},
        programs=tuple(program.name for program in programs),
        compiled=compiled,
        unknown=[*unknown, *_unknown_loops(programs, sent)],
    )
    if target.chip is not None:
        made.seconds = _seconds(made, figures, sent, target.chip, _precision(model))
    made.warnings += [text for rule in RULES for text in rule(made, target.chip)]
    return made


def _prepare(model, batch):
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"`model` must be compiled before its step can be planned: {type(model).__name__} "
            "has no optimizer. Call `compile`, or use a trainer's `plan`."
        )
    if not model.built:
        model._symbolic_build(data_batch=batch)
    model.build_optimizer()


# Where it shall run


def _target(given, lowering):
    """The `Target` that was asked for, or what is here."""
    if given is not None:
        return given if isinstance(given, Target) else target_of(given)
    platform = lowering.platform_here()
    return Target(platform, chip_of(lowering.device_kind()) if platform != "cpu" else None)


def _spread(given, mesh, target, lowering):
    """`(distribution, target)` that fit each other; the distribution is None for one device."""
    shape = None if mesh is None else mesh_shape(mesh)
    size = 1 if given is None else math.prod(given.device_mesh.shape)
    if shape is None and target.count not in (None, size):
        shape = (target.count,)
    devices = math.prod(shape) if shape else size
    if target.count not in (None, devices):
        raise ValueError(
            f"`mesh` must have as many devices as `target`. Received: mesh={mesh!r}, "
            f"target={str(target)!r}."
        )
    if target.chip is not None:
        target = target._replace(count=devices)
    if shape is None:
        return given, target
    here = target.platform == lowering.platform_here()
    there = len(keras.distribution.list_devices())
    names = ("data", "model")[: len(shape)]
    kind = DeviceMesh if here and devices <= there else VirtualMesh
    return _like(given, kind(shape, names)), target


def _like(given, mesh):
    """A distribution over `mesh` by the rules of the given one."""
    if isinstance(given, ModelParallel):
        return model_parallel(mesh, None, given.given, **given.rules)
    if len(mesh.shape) == 1:
        return DataParallel(device_mesh=mesh, auto_shard_dataset=False)
    return model_parallel(mesh)


def _axes(distribution):
    if distribution is None:
        return {}
    mesh = distribution.device_mesh
    return dict(zip(mesh.axis_names, map(int, mesh.shape), strict=True))


def _figures(programs, target, distribution, lowering):
    """`(figures, what they are for, what isn't known)`."""
    virtual = distribution is not None and isinstance(distribution.device_mesh, VirtualMesh)
    axes = _axes(distribution) or {"data": 1}
    if target.platform == lowering.platform_here() and not virtual:
        return lowering.compiled_here(programs), f"{target.platform} here", []
    if target.platform == "cpu":
        return lowering.compiled_elsewhere(programs, "cpu", axes), "cpu, virtual devices", []
    if target.topology and lowering.has_libtpu():
        grid = {"topology_name": target.topology, **target.topology_options}
        found = lowering.compiled_elsewhere(programs, "tpu", axes, grid, target.accelerator)
        return found, target.topology, []
    for program in programs:
        lowering.exported(program, target.platform)
    found = lowering.compiled_elsewhere(programs, "cpu", axes)
    return [_elsewhere(each) for each in found], "cpu, virtual devices", _unknowns(target)


def _elsewhere(figures):
    """What figures of CPUs say of other devices: not what is fused, nor what takes which place."""
    return figures._replace(bytes_accessed=None, memory={})


def _unknowns(target):
    way = "plan on a machine with such GPUs"
    if target.platform == "tpu":
        way = "install libtpu, pip install 'artifex-keras[tpu]'"
    if target.platform == "tpu" and target.topology is None:
        way += ", and name a chip and a number that it comes in, as in 'tpu:v5e-8'"
    return [
        f"The step was lowered for {target.platform}, and not compiled: {way}.",
        "Bytes of temporaries and bytes read and written are unknown.",
        "Operations and collectives are those that XLA makes for as many CPUs, which never have a "
        "reduce-scatter: an all-reduce stands in its place, of up to twice its bytes.",
    ]


# The figures


def _rows(batch):
    return int(keras.tree.flatten(batch)[0].shape[0])


def _parameters(model):
    groups = {
        "parameters": _kinds(model)["parameters"],
        "trainable": model.trainable_variables,
    }
    return {
        name: sum(math.prod(variable.shape) for variable in group) for name, group in groups.items()
    }


def _kinds(model):
    """All variables of a training step by what they are."""
    averages = {id(v) for v in getattr(model, "_average", ())}
    own = {id(v) for v in model._non_trainable_variables} | averages
    weights = [v for v in model.weights if id(v) not in own]
    known = averages | {id(v) for v in weights}
    others = [v for v in model.variables if id(v) not in known]
    found = {
        "parameters": weights,
        "optimizer": model.optimizer.variables,
        "averages": getattr(model, "_average", []),
        "state": [*others, *model.metrics_variables],
    }
    return {kind: list({id(v): v for v in group}.values()) for kind, group in found.items()}


def _memory(model, batch, layouts, distribution, figures):
    sizes = _axes(distribution)

    def part(variable):
        layout = layouts.get(id(variable))
        return _part(variable.shape, variable.dtype, getattr(layout, "axes", ()), sizes)

    found = {kind: sum(map(part, group)) for kind, group in _kinds(model).items()}
    found["batch"] = sum(_batch_part(leaf, distribution) for leaf in keras.tree.flatten(batch))
    found["temporaries"] = None
    if all(each.memory for each in figures):
        held = sum(found[kind] for kind in HELD)
        found["temporaries"] = max(_within(each.memory, held) for each in figures)
    found["gradients"] = sum(map(part, model.trainable_variables))
    return found


def _within(memory, held):
    """Bytes that a program needs beyond what is held anyhow; a TPU pads some of that."""
    padding = max(0, memory["arguments"] - held)
    return padding + memory["results"] - memory["in_place"] + memory["temporary"]


def _batch_part(leaf, distribution):
    layout = None if distribution is None else distribution.get_data_layout(tuple(leaf.shape))
    axes = getattr(layout, "axes", ())
    return _part(leaf.shape, leaf.dtype, axes, _axes(distribution))


def _part(shape, dtype, axes, sizes):
    """Bytes on one device of a tensor cut along these axes of a mesh."""
    axes = [*axes, *[None] * (len(shape) - len(axes))]
    counts = [sizes.get(axis, 1) for axis in axes]
    entries = math.prod(-(-int(n) // count) for n, count in zip(shape, counts, strict=True))
    bits = re.search(r"\d+", keras.backend.standardize_dtype(dtype))
    width = 8 if bits is None else min(int(bits[0]), 32)  # JAX keeps 32 bits of 64
    return entries * width // 8


def _counts(programs, figures, sent, devices):
    """Operations and bytes with all turns of loops; compilers count one of each."""
    flops = accessed = 0
    for program, each, messages in zip(programs, figures, sent, strict=True):
        work = program.work
        turns = work.flops / work.once if work.once else 1.0
        least = work.flops / devices if messages.loops else 0
        flops = _sum(flops, each.flops and max(turns * each.flops, least))
        accessed = _sum(accessed, each.bytes_accessed and turns * each.bytes_accessed)
    return {"flops_per_device": flops, "bytes_accessed": accessed}


def _sum(first, second):
    return None if first is None or second is None else first + second


def _by_kind(sent):
    """The collectives of all programs of a step, summed by kind."""
    found = {}
    for kind, row in (pair for each in sent for pair in each.by_kind().items()):
        sums = found.setdefault(kind, dict.fromkeys(row, 0))
        for name, value in row.items():
            sums[name] += value
    return found


def _unknown_loops(programs, sent):
    computing = sum(program.work.unknown_loops for program in programs)
    sending = sum(each.unknown_loops for each in sent)
    if computing or sending:
        yield (
            f"How often some loops turn, {computing} that compute and {sending} that send between "
            "devices, depends on the data: what they do counts once."
        )


def _precision(model):
    """What most is computed in."""
    found = {layer.compute_dtype for layer in model._flatten_layers()}
    return next((dtype for dtype in ("bfloat16", "float16") if dtype in found), "float32")


def _seconds(made, figures, sent, chip, dtype):
    """Seconds that each part of a step takes at least, at the chip's peak figures."""
    found = {}
    if made.flops_per_device is not None:
        found["compute"] = made.flops_per_device / chip.peak(dtype)
    if all(each.memory for each in figures):
        found["memory"] = sum(each.least_traffic for each in figures) / chip.bandwidth
    each = [one for part in sent for one in part.collectives]
    speeds = [chip.sending(one.group) for one in each]
    if None in speeds:
        made.unknown.append("How fast bytes go between islands of chips is unknown.")
    else:
        found["links"] = sum(one.wire / speed for one, speed in zip(each, speeds, strict=True))
    return found


# What to say of it


def _too_large(made, chip):
    if chip is None or made.total <= FULL * chip.memory:
        return
    some = "at least " if made.memory["temporaries"] is None else ""
    how = "doesn't fit" if made.total > chip.memory else "hardly fits"
    text = f"It {how}: {some}{_bytes(made.total)} of {_bytes(chip.memory)} on each device."
    weights = sum(made.memory[kind] for kind in WEIGHTS)
    if weights > SHARE * chip.memory:
        least = 2 ** math.ceil(math.log2(made.devices * weights / (SHARE * chip.memory)))
        text += (
            f" Its weights and what belongs to them take {_bytes(weights)}: cut them over devices, "
            f'as in mesh="{least}x1" (ModelParallelTrainer(mesh_shape=({least}, 1))), or take an '
            "optimizer with less state."
        )
    else:
        text += (
            " Most of it lives within a step: take a smaller batch "
            f"(there are {-(-made.rows // made.shares)} rows on a device) with "
            "`gradient_accumulation_steps`, `mixed_precision`, or more devices for the data."
        )
    yield text


def _wasted(made, chip):
    if made.flops_per_device is None or made.flops < LARGE:
        return
    times = made.flops_per_device * made.devices / made.flops
    if made.devices > 1 and times > WASTE:
        yield (
            f"The devices do {times:.1f} times the work of the step: parts of it are done by "
            "several of them. Look for weights that are held whole, and rows that don't divide."
        )


def _indivisible(made, chip):
    count = made.shares
    if made.rows % count:
        yield (
            f"{count} devices don't divide {made.rows} rows: some will wait for others. Take a "
            f"batch of {made.rows - made.rows % count or count} rows."
        )


RULES = (_too_large, _wasted, _indivisible)


def _lines(made):
    mesh = " x ".join(f"{name} {size}" for name, size in made.mesh.items()) or "one device"
    yield f"{made.model}: a step of {made.rows} rows on {made.target}, {mesh}"
    counted = f"compiled for {made.compiled}" if made.compiled else "not compiled"
    yield f"  {'programs':22}{', '.join(made.programs)}; {counted}"
    yield f"  {'parameters':22}{made.parameters:,}, of which {made.trainable:,} are trained"
    yield "  bytes on a device"
    for kind in (*HELD, "temporaries"):
        yield f"    {kind:20}{_bytes(made.memory[kind]):>12}"
    yield f"    {'  all gradients':20}{_bytes(made.memory['gradients']):>12}  among them"
    least = " at least" if made.memory["temporaries"] is None else ""
    yield f"    {'all':20}{_bytes(made.total):>12}{least}"
    yield "  operations of a step"
    yield f"    {'in matrix products':20}{_quantity(made.flops, 'FLOP'):>12}"
    yield f"    {'on a device':20}{_quantity(made.flops_per_device, 'FLOP'):>12}"
    yield f"    {'bytes accessed':20}{_bytes(made.bytes_accessed):>12}"
    if made.intensity is not None:
        yield f"    {'operations per byte':20}{made.intensity:>10.1f}"
    yield "  sent by a device in a step"
    for kind, row in made.collectives.items():
        size = f"{_bytes(row['wire']):>12}  {row['count']} of {_bytes(row['payload'])}"
        yield f"    {kind:20}{size}"
    yield f"    {'all':20}{_bytes(made.wire):>12}"
    if made.seconds:
        parts = ", ".join(f"{name} {_time(value)}" for name, value in made.seconds.items())
        yield (
            f"  {'least time of a step':22}{_time(made.step_seconds)}, bound by {made.bound}; "
            f"{_time(sum(made.seconds.values()))} one after the other ({parts}), at peak figures"
        )
    for text in made.unknown:
        yield f"  ? {text}"
    for text in made.warnings:
        yield f"  ! {text}"


def _quantity(value, unit):
    if value is None:
        return "unknown"
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def _bytes(value):
    return _quantity(value, "B")


def _time(seconds):
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
