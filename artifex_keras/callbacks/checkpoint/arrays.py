"""The variables of a model in training as named arrays, with the same names in every process."""

import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from artifex_keras.backend.processes import assign, to_host_array

__all__ = ["NamedArray", "is_learning_rate", "named_variables", "restore", "snapshot"]

NUMBERED = re.compile(r"(.+?)_(\d+)")
RATE = re.compile(r"optimizer/(.+[/_])?learning_rate(_\d+)?(#\d+)?")
SHOWN = 8  # differences that an error lists


class NamedArray(NamedTuple):
    """The value of one variable.

    Attributes:
        name: such as "model/dense/kernel".
        dtype: of the variable, a string; bfloat16 values are stored in another one.
        value: a NumPy array.
    """

    name: str
    dtype: str
    value: np.ndarray


def named_variables(model, as_in_0_1_0=False):
    """The variables of model, optimizer and metrics by name, with seeds and averages: a dict.

    Keras numbers the layers of a process (`dense_7`), so a path differs from process to process.
    Here the numbers start at zero for each model; variables that share a path get `#2`, `#3`, ...
    in their order. `as_in_0_1_0` keeps the numbers in the names of averages and of optax's state.
    """
    optimizer = getattr(model, "optimizer", None)
    groups = {
        "optimizer": optimizer.variables if optimizer is not None else [],
        "metrics": model.metrics_variables,
        "model": [*model.trainable_variables, *model.non_trainable_variables, *model.variables],
    }
    metrics = {id(v) for v in groups["metrics"]}
    named, known, times = {}, set(), Counter()
    numbers, aliases = {}, {}
    for group in ("model", "optimizer", "metrics"):
        for variable in groups[group]:
            if id(variable) in known or (group == "model" and id(variable) in metrics):
                continue
            known.add(id(variable))
            parts = [_aliased(part, aliases, not as_in_0_1_0) for part in variable.path.split("/")]
            name = "/".join(_renumbered(part, numbers) for part in parts)
            if group == "model":  # an optimizer calls its slots after the variables
                aliases[variable.path.replace("/", "_")] = name.replace("/", ".")
            name = f"{group}/{name}"
            times[name] += 1
            named[name if times[name] == 1 else f"{name}#{times[name]}"] = variable
    return named


def is_learning_rate(name):
    """Whether a variable of that name is the learning rate of an optimizer without a schedule."""
    return RATE.fullmatch(name) is not None


def _aliased(part, aliases, anywhere=True):
    """`part` with the path of a variable in it replaced by that variable's name.

    The path may follow a prefix that ends in "_", as in `average_net_dense_7_kernel`.
    """
    start = 0
    while start >= 0 and (anywhere or start == 0):
        end = len(part)
        while end > start:
            if part[start:end] in aliases:
                return part[:start] + aliases[part[start:end]] + part[end:]
            end = part.rfind("_", start, end)
        start = part.find("_", start) + 1 or -1
    return part


def _renumbered(part, numbers):
    numbered = NUMBERED.fullmatch(part)
    base = numbered[1] if numbered else part
    order = numbers.setdefault(base, {})
    place = order.setdefault(part, len(order))
    return base if place == 0 else f"{base}_{place}"


def snapshot(model):
    """The present values of all `named_variables`: copies, which later steps don't change."""
    return [
        NamedArray(name, variable.dtype, to_host_array(variable.value))
        for name, variable in named_variables(model).items()
    ]


def restore(model, named_arrays, *groups):
    """Assigns each array to the variable of its name.

    A learning rate may be in one of them only: a schedule took its place, or it took a schedule's.
    A variable with a `value_if_unsaved` may be missing, as in checkpoints of earlier versions.

    Args:
        model: the model, built and with a built optimizer.
        named_arrays: a list of `NamedArray`.
        groups: which of "model", "optimizer" and "metrics"; all by default.

    Raises:
        ValueError: for names, shapes or types that differ, with a list of them. Then no variable
            has been assigned.
    """
    groups = groups or ("model", "optimizer", "metrics")
    values = {array.name: array for array in named_arrays if array.name.split("/")[0] in groups}
    for old in (False, True):
        named = named_variables(model, as_in_0_1_0=old)
        variables = {k: v for k, v in named.items() if k.split("/")[0] in groups}
        if variables.keys() == values.keys():
            break
    else:
        named = named_variables(model)
        variables = {k: v for k, v in named.items() if k.split("/")[0] in groups}
    for name in variables.keys() - values.keys():
        unsaved = getattr(variables[name], "value_if_unsaved", None)
        if unsaved is not None:
            values[name] = NamedArray(name, variables[name].dtype, np.asarray(unsaved))
    for name in variables.keys() ^ values.keys():
        if is_learning_rate(name):
            (variables if name in variables else values).pop(name)
    differences = [f"{name} is not in the checkpoint" for name in variables if name not in values]
    differences += [f"{name} is not in the model" for name in values if name not in variables]
    for name in variables.keys() & values.keys():
        here = f"{variables[name].dtype} {tuple(variables[name].shape)}"
        there = f"{values[name].dtype} {values[name].value.shape}"
        if here != there:
            differences.append(f"{name} is {here} in the model and {there} in the checkpoint")
    if differences:
        shown, more = "; ".join(sorted(differences)[:SHOWN]), len(differences) - SHOWN
        raise ValueError(
            f"The checkpoint is of another training: {shown}"
            + (f"; and {more} more differences." if more > 0 else ".")
        )
    for name, variable in variables.items():
        assign(variable, values[name].value)
