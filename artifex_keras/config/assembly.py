"""The Keras optimizer of a config: with its schedule, its clipping and its accumulation."""

import keras

from artifex_keras.arguments import integer
from artifex_keras.config.named import OptimizerConfig, SchedulerConfig
from artifex_keras.gradient_accumulation import accumulated
from artifex_keras.schedulers.paced import PacedSchedule

__all__ = ["assemble_optimizer"]


def assemble_optimizer(
    chosen, config, num_batches=None, gradient_accumulation_steps=1, updates_per_batch=1
):
    """The Keras optimizer of a run; see `TrainingConfig.create_optimizer`.

    Args:
        chosen: an `OptimizerConfig` or a Keras optimizer.
        config: the `TrainingConfig` with `scheduler` and `gradient_clip_norm`.
    """
    steps = _batches_per_update(chosen, gradient_accumulation_steps)
    changes, schedule = {}, config.scheduler
    if schedule is not None:
        peak = _peak(chosen)
        if isinstance(schedule, SchedulerConfig):
            updates = None if num_batches is None else max(num_batches // steps, 1)
            schedule = schedule.create(peak, updates)
        changes["learning_rate"] = (
            PacedSchedule(schedule, updates_per_batch) if updates_per_batch > 1 else schedule
        )
    if isinstance(chosen, OptimizerConfig):
        optimizer = _with_clipping(chosen, config.gradient_clip_norm).create(**changes)
    else:
        optimizer = _changed(chosen, changes, config.gradient_clip_norm)
    return accumulated(optimizer, None if steps == 1 else steps)


def _batches_per_update(optimizer, given):
    """The requested number, or the one that the optimizer accumulates by itself."""
    given = integer("gradient_accumulation_steps", given, minimum=1)
    if isinstance(optimizer, OptimizerConfig):
        own = optimizer.arguments.get("gradient_accumulation_steps")
    else:
        own = getattr(optimizer, "steps", None) or optimizer.gradient_accumulation_steps
    if given > 1 and own not in (None, given):
        raise ValueError(
            "`gradient_accumulation_steps` is given twice. Received: "
            f"{given} and, for the optimizer, {own}."
        )
    return own or given


def _peak(optimizer):
    """The number that a schedule starts from."""
    if isinstance(optimizer, OptimizerConfig):
        rate = optimizer.learning_rate
    else:
        rate = optimizer.get_config()["learning_rate"]
    if isinstance(rate, dict | keras.optimizers.schedules.LearningRateSchedule):
        raise ValueError(
            "`scheduler` and an optimizer whose `learning_rate` is a schedule exclude each other. "
            f"Received: learning_rate={rate!r}."
        )
    return rate


def _with_clipping(config, norm):
    if norm is None:
        return config
    if config.arguments.get("gradient_clip_norm") not in (None, norm):
        raise ValueError(
            "`gradient_clip_norm` is given twice. Received: "
            f"{norm} and, for the optimizer, {config.gradient_clip_norm}."
        )
    return OptimizerConfig(config.type, **{**config.arguments, "gradient_clip_norm": norm})


def _changed(optimizer, changes, clip_norm):
    """The Keras optimizer itself, or a new one like it with other settings."""
    config = optimizer.get_config()
    if clip_norm is not None:
        clips = {k: config.get(k) for k in ("clipnorm", "clipvalue", "global_clipnorm")}
        if any(value is not None for value in clips.values()):
            raise ValueError(
                "`gradient_clip_norm` and an optimizer that clips exclude each other. Received: "
                f"gradient_clip_norm={clip_norm} and an optimizer with {clips}."
            )
        changes = {**changes, "global_clipnorm": clip_norm}
    if not changes:
        return optimizer
    return type(optimizer).from_config({**config, **changes})
