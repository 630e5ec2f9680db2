"""What a training step costs on devices, known before they are rented."""

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras

from artifex_keras import backend
from artifex_keras.aliases import Data
from artifex_keras.arguments import boolean, checked, optional
from artifex_keras.backend import keras_internals
from artifex_keras.backend.chips import precision
from artifex_keras.distributed.from_shapes import PLANNED, made_from_shapes, makes_model, prepare
from artifex_keras.distributed.layouts import held_whole
from artifex_keras.distributed.mesh import VirtualMesh, num_shards
from artifex_keras.distributed.redistribute import layouts_of
from artifex_keras.networks.recomputed import recomputable
from artifex_keras.planning.advice import warnings
from artifex_keras.planning.collectives import traffic
from artifex_keras.planning.report import HELD, Plan
from artifex_keras.planning.sampling import sampling
from artifex_keras.planning.virtual import mesh_axes, resolve_distribution, resolve_target

__all__ = ["plan"]

# What is compiled for devices that aren't here, unless it is asked for: about a minute's work.
MOST = 8_000  # equations
MOST_CPUS = 256  # virtual ones, which cost memory too


@checked(compile=optional(boolean))
def plan(
    model: keras.Model | Callable[[], Any],
    batch: Data = None,
    mesh: int | str | tuple[int, ...] | Mapping[str, int] | None = None,
    target: str | None = None,
    distribution: Any = None,
    compile: bool | None = None,
    rollout_mesh: int | str | tuple[int, ...] | None = None,
) -> Plan:
    """The `Plan` of a training step of `model` on such a batch. Nothing runs, no weight moves.

    A callable in the model's place makes the model, and is called with shapes alone: no weight is
    allocated, so a laptop plans what no machine holds. The figures are those of the model itself.

    Where there are the devices, the compiled step is looked at. For more CPUs than there are, it is
    compiled in a process of its own, and for TPUs too if libtpu is installed, which needs no TPU.
    Otherwise it is lowered for the platform, which shows that it can be, and figures are those of
    as many CPUs, as far as they mean anything there.

    Args:
        model: a compiled `GenerativeModel`, or a callable without arguments that makes, compiles
            and returns one, or a trainer with one. It must make all weights itself, and may not
            look at their values or read them from files.
        batch: one batch as `fit` delivers it, of all rows that a step takes on all devices; of a
            built model anything with the same shapes and dtypes will do. May be left out of a
            callable that makes a trainer, whose first batch is taken.
        mesh: devices that needn't exist, in place of those of the distribution: 8 or "8" shards
            the batch over so many, each with all weights; (4, 8) or "4x8" shards it over 4 and the
            weights by the rules of `auto_layout_map`, "8x1" over the data's devices alone. Of
            "2x16x8" the first number counts groups with all weights each. Axes may be named, as
            "data=2,context=4" or a dict. Layouts of a given `model_parallel` are kept.
        target: "cpu", "gpu", "gpu:h100", "tpu", "tpu:v5e-256", ...; by default what is here.
        distribution: how it is sharded, by default as `keras.distribution` has it now.
        compile: whether a step for devices that aren't here is compiled, which for tens of layers
            that stand one after the other takes minutes. False only lowers it: then the plan says
            what it counts without a compiler, and in `unknown` what it doesn't know. None compiles
            steps of up to 8,000 equations, and without libtpu for up to 256 devices.
            `CausalTransformer(scan_layers=True)` has few equations at any depth.
        rollout_mesh: of an algorithm that samples, how the devices of a mesh of two axes or more
            are grouped meanwhile, as "1x8" or (1, 8); see `distributed.model_parallel`.

    Raises:
        ValueError: for a model that isn't compiled, another backend than JAX, a target or a mesh
            that there can't be, a callable that makes no model, uses weights that were made before,
            reads weights, or needs their values.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        encoder = ak.networks.mlp_encoder((6,), 2, (8,))
        vae = ak.VAE(encoder, ak.networks.mlp_decoder(2, (6,), (8,)))
        vae.compile(optimizer="adamw")
        x = np.random.default_rng(0).uniform(size=(32, 6)).astype("float32")
        plan = ak.planning.plan(vae, x)
        print(plan)  # a table
        assert plan.total < 1e6  # bytes


        def model():
            network = ak.networks.CausalTransformer(32_000, 64, num_layers=2, width=4096)
            model = ak.Autoregressive(network)
            model.compile(optimizer="adamw")
            return model


        tokens = np.zeros((8, 64), "int32")
        plan = ak.planning.plan(model, tokens, mesh="4x8", target="tpu:v5e-32", compile=False)
        assert plan.parameters > 5e8  # and not one of them was made
        ```
    """
    if backend.name() != "jax":
        raise ValueError(
            f"A plan needs the JAX backend. Received: KERAS_BACKEND={backend.name()!r}."
        )
    target = resolve_target(target)
    current = keras.distribution.distribution() if distribution is None else distribution
    if not makes_model(model):
        prepare(model, batch)
        distribution, target = resolve_distribution(current, mesh, target, rollout_mesh)
        return _planned(model, batch, distribution, target, compile)
    with keras_internals.global_state_kept():
        model, batch, own = made_from_shapes(model, batch, PLANNED)
        distribution, target = resolve_distribution(current or own, mesh, target, rollout_mesh)
        return _planned(model, batch, distribution, target, compile, from_shapes=True)


def _planned(model, batch, distribution, target, compile, from_shapes=False):
    """The plan of a model with all variables that its step needs, be they arrays or shapes."""
    from artifex_keras.backend import lowering

    layouts = {} if distribution is None else layouts_of(model, distribution)
    axes = mesh_axes(distribution)
    needs = lowering.explained("in its step", PLANNED) if from_shapes else contextlib.nullcontext()
    with needs:
        programs = lowering.step_programs(model, batch, layouts, distribution)
    figures, compiled, unknown = _figures(programs, target, distribution, compile)
    sent = [traffic(each.hlo, math.prod(axes.values())) for each in figures]
    found = Plan(
        model=type(model).__name__,
        target=str(target),
        mesh=axes,
        rows=_rows(batch),
        **_parameters(model),
        memory=_memory(model, batch, layouts, distribution, figures),
        flops=sum(program.work.flops for program in programs),
        **_counts(programs, figures, sent, math.prod(axes.values())),
        collectives=_by_kind(sent) if compiled else None,
        seconds={},
        programs=tuple(program.name for program in programs),
        compiled=compiled,
        **_savers(model),
        unknown=[*unknown, *_unknown_loops(programs, sent)],
    )
    if target.chip is not None:
        found.seconds = _seconds(found, figures, sent, target.chip, precision(model))
    peak = None if target.chip is None else target.chip.peak(precision(model))
    every = [one for each in sent for one in each.collectives] if compiled else None
    found.sampling = sampling(model, distribution, every, found.rows, target.chip, peak)
    found.warnings += [
        *warnings(found, target.chip),
        *held_whole(getattr(distribution, "layout_map", None)),
    ]
    return found


def _figures(programs, target, distribution, compile):
    """`(figures, what they are for, what isn't known)`."""
    from artifex_keras.backend import lowering

    virtual = distribution is not None and isinstance(distribution.device_mesh, VirtualMesh)
    axes = mesh_axes(distribution) or {"data": 1}
    if target.platform == lowering.platform_here() and not virtual:
        return lowering.compiled_here(programs), f"{target.platform} here", []
    reason = _too_long(programs, target, math.prod(axes.values())) if compile is None else None
    if compile is False or reason:
        found = [_lowered(program, target) for program in programs]
        return found, None, _not_compiled(target, reason)
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


def _lowered(program, target):
    """The figures of a program that no compiler has seen, once it is known that it can."""
    from artifex_keras.backend import lowering

    lowering.exported(program, target.platform)
    return lowering.Figures(program.name, None, None, {}, "", 0.0)


def _too_long(programs, target, devices):
    """Why the step isn't compiled unless that is asked for, in words; None where it is."""
    from artifex_keras.backend import lowering

    size = sum(program.equations for program in programs)
    if size > MOST:
        return (
            f": it has {size:,} equations, which take minutes; compile=True (--compile) does it, "
            "and networks made with `scan_layers=True` have few"
        )
    if devices > MOST_CPUS and not (target.topology and lowering.has_libtpu()):
        return (
            f": {devices} virtual CPUs in place of the devices take minutes and some GB; "
            "compile=True (--compile) does it"
        )
    return None


def _not_compiled(target, reason):
    return [
        f"The step was lowered for {target.platform}, and not compiled{reason or ''}.",
        "Bytes of temporaries, bytes read and written, and what devices send are unknown; of a "
        "step's time its equal share of the matrix products alone is known.",
    ]


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


def _savers(model):
    """What the model does for less memory, in words."""
    modes = {network.remat or "none" for network in recomputable(model)}
    found = {"remat": " and ".join(sorted(modes)) or None}
    if "chunk_size" in getattr(model, "options", ()):
        found["chunk_size"] = "all" if model.chunk_size is None else model.chunk_size
    return found


def _kinds(model):
    """All variables of a training step by what they are."""
    averages = {id(v) for v in getattr(model, "_average", ())}
    own = {id(v) for v in keras_internals.own_non_trainable_variables(model)} | averages
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
    sizes = mesh_axes(distribution)

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
    return _part(leaf.shape, leaf.dtype, axes, mesh_axes(distribution))


def _part(shape, dtype, axes, sizes):
    """Bytes on one device of a tensor sharded over these axes of a mesh."""
    axes = [*axes, *[None] * (len(shape) - len(axes))]
    counts = [num_shards(axis, sizes) for axis in axes]
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


def _seconds(plan, figures, sent, chip, dtype):
    """Seconds that each part of a step takes at least, at the chip's peak figures."""
    found = {}
    flops = plan.flops_per_device
    found["compute"] = (plan.flops / plan.devices if flops is None else flops) / chip.peak(dtype)
    if all(each.memory for each in figures):
        found["memory"] = sum(each.least_traffic for each in figures) / chip.bandwidth
    if plan.collectives is None:
        return found
    each = [one for part in sent for one in part.collectives]
    speeds = [chip.sending(one.reach) for one in each]
    if None in speeds:
        plan.unknown.append("How fast bytes go between islands of chips is unknown.")
    else:
        found["links"] = sum(one.wire / speed for one, speed in zip(each, speeds, strict=True))
    return found
