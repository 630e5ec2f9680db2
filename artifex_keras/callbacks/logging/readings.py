"""Metrics, learning rates and norms on the device, as scalars."""

import keras

from artifex_keras.backend import global_norm, keras_internals

__all__ = ["epoch_means", "scalars"]


def scalars(model, norms):
    """Scalar tensors by name: metrics with their weights, learning rates, the weight norm."""
    tracker = keras_internals.loss_metric(model)
    values = {"examples": 0.0 if tracker is None else tracker.count.value}
    for metric in model.metrics:
        if not getattr(metric, "built", True):  # Keras's holder of metrics, before the first batch
            continue
        result = metric.result()
        result = result if isinstance(result, dict) else {metric.name: result}
        count = metric.count.value if isinstance(metric, keras.metrics.Mean) else 1.0
        for name, value in keras.tree.flatten_with_path(result):
            name = "_".join(map(str, name))
            values |= {f"metric {name}": value, f"count {name}": count}
    for name, optimizer in _with_own_rate(model.optimizer):
        rate = next_learning_rate(optimizer)
        if rate is not None:
            values[f"learning_rate/{name}" if name else "learning_rate"] = rate
    if norms:
        values["weight_norm"] = global_norm([v.value for v in model.trainable_variables])
    return values


def epoch_means(read):
    """The running means of the epoch, of those metrics that have counted something."""
    names = [name.removeprefix("metric ") for name in read if name.startswith("metric ")]
    return {name: read[f"metric {name}"] for name in names if read[f"count {name}"]}


def next_learning_rate(optimizer):
    """The learning rate of the next update, a tensor; None for an optimizer without one."""
    schedule = keras_internals.given_learning_rate(optimizer)
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return schedule(optimizer.iterations.value)
    rate = getattr(optimizer, "learning_rate", None)
    return getattr(rate, "value", rate)


def _with_own_rate(optimizer, name=""):
    """Pairs of a name and an optimizer, for each that has a learning rate of its own."""
    parts = getattr(optimizer, "parts", None) or {}
    if not parts and isinstance(optimizer, keras.optimizers.MultiOptimizer):
        parts = {str(index): part for index, part in enumerate(optimizer.optimizers)}
    for part_name, part in parts.items():
        yield from _with_own_rate(part, part_name)
    if not parts and hasattr(optimizer, "inner_optimizer"):
        yield from _with_own_rate(optimizer.inner_optimizer, name)
    elif not parts and optimizer is not None:
        yield name, optimizer
