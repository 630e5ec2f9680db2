"""Warnings of a plan: what won't fit, what is computed more than once, what leaves devices idle."""

import math

from artifex_keras.planning.report import WEIGHTS, bytes_text

__all__ = ["warnings"]

FULL = 0.9  # of a device's memory: what runs besides needs some, too
SHARE = 0.6  # of a device's memory that weights and what belongs to them may take
WASTE = 1.5  # times its share of the work that a device may do before we wonder
LARGE = 1e9  # operations, from which on that is worth a word


def warnings(plan, chip=None):
    """The warnings of a `Plan`, a list of texts; for a `Chip` whether the step fits into it."""
    return [text for rule in RULES for text in rule(plan, chip)]


def _too_large(plan, chip):
    if chip is None or plan.total <= FULL * chip.memory:
        return
    some = "at least " if plan.memory["temporaries"] is None else ""
    how = "doesn't fit" if plan.total > chip.memory else "hardly fits"
    text = f"It {how}: {some}{bytes_text(plan.total)} of {bytes_text(chip.memory)} on each device."
    weights = sum(plan.memory[kind] for kind in WEIGHTS)
    if weights > SHARE * chip.memory:
        least = 2 ** math.ceil(math.log2(plan.devices * weights / (SHARE * chip.memory)))
        text += (
            f" Its weights and what belongs to them take {bytes_text(weights)}: shard them over "
            f'devices, as in mesh="{least}x1" (ModelParallelTrainer(mesh_shape=({least}, 1))), or '
            "take an optimizer with less state."
        )
    else:
        text += (
            " Most of it lives within a step: take a smaller batch "
            f"(there are {-(-plan.rows // plan.num_shards)} rows on a device) with "
            "`gradient_accumulation_steps`, `mixed_precision`, or more devices for the data."
        )
    yield text


def _wasted(plan, chip):
    if plan.flops_per_device is None or plan.flops < LARGE:
        return
    times = plan.flops_per_device * plan.devices / plan.flops
    if plan.devices > 1 and times > WASTE:
        yield (
            f"The devices do {times:.1f} times the work of the step: parts of it are done by "
            "several of them. Look for replicated weights, and rows that don't divide."
        )


def _indivisible(plan, chip):
    count = plan.num_shards
    if plan.rows % count:
        yield (
            f"{count} devices don't divide {plan.rows} rows: some will wait for others. Take a "
            f"batch of {plan.rows - plan.rows % count or count} rows."
        )


RULES = (_too_large, _wasted, _indivisible)
