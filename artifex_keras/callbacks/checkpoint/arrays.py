"""A training's variables as arrays with names that mean the same in every process."""

import re
from collections import Counter

import numpy as np

from artifex_keras.backend.processes import assign, to_host_array

__all__ = ["Leaf", "named_variables", "packed", "restore", "snapshot", "unpacked"]

NUMBERED = re.compile(r"(.+?)_(\d+)")
SHOWN = 8  # differences that an error lists


class Leaf:
    """One variable's value: its `name`, its `dtype` in the model, and the `value` as an array."""

    def __init__(self, name, dtype, value):
        self.name, self.dtype, self.value = name, dtype, value


def named_variables(model):
    """`{name: variable}` of model, optimizer and metrics, seeds and averages included.

    Keras numbers layers by the process (`dense_7`), so a path alone names nothing. Here the numbers
    start anew with each training, and variables of one path are told apart by their order.
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
            parts = [_aliased(part, aliases) for part in variable.path.split("/")]
            name = "/".join(_renumbered(part, numbers) for part in parts)
            if group == "model":  # an optimizer calls its slots after the variables
                aliases[variable.path.replace("/", "_")] = name.replace("/", ".")
            name = f"{group}/{name}"
            times[name] += 1
            named[name if times[name] == 1 else f"{name}#{times[name]}"] = variable
    return named


def _aliased(part, aliases):
    """`part` with the path of a variable that it begins with by that variable's name."""
    end = len(part)
    while end > 0:
        if part[:end] in aliases:
            return aliases[part[:end]] + part[end:]
        end = part.rfind("_", 0, end)
    return part


def _renumbered(part, numbers):
    numbered = NUMBERED.fullmatch(part)
    base = numbered[1] if numbered else part
    order = numbers.setdefault(base, {})
    place = order.setdefault(part, len(order))
    return base if place == 0 else f"{base}_{place}"


def snapshot(model):
    """The leaves of a training as they are now: copies, which later steps don't touch."""
    return [
        Leaf(name, variable.dtype, to_host_array(variable.value))
        for name, variable in named_variables(model).items()
    ]


def restore(model, leaves, *groups):
    """Assigns each leaf to the variable of its name; with `groups`, those of these groups.

    Raises:
        ValueError: if the names, shapes or types differ, with a list of what does; then nothing has
            been assigned.
    """
    groups = groups or ("model", "optimizer", "metrics")
    variables = {k: v for k, v in named_variables(model).items() if k.split("/")[0] in groups}
    values = {leaf.name: leaf for leaf in leaves if leaf.name.split("/")[0] in groups}
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


# What isn't a variable: numbers, strings, lists and dicts, with arrays in them


def packed(tree, arrays, name):
    """`tree` as JSON holds it, its arrays put into the list `arrays` as leaves."""
    if isinstance(tree, dict):
        return {"dict": [[key, packed(v, arrays, f"{name}/{key}")] for key, v in tree.items()]}
    if isinstance(tree, list | tuple):
        return {"list": [packed(v, arrays, f"{name}/{i}") for i, v in enumerate(tree)]}
    if isinstance(tree, np.generic):
        return tree.item()
    if hasattr(tree, "shape"):
        value = to_host_array(tree)
        arrays.append(Leaf(name, value.dtype.name, value))
        return {"array": name}
    if tree is None or isinstance(tree, str | bool | int | float):
        return tree
    raise TypeError(
        f"{name} can't be kept in a checkpoint: give numbers, strings, lists, dicts and arrays. "
        f"Received: {tree!r} of type {type(tree).__name__}."
    )


def unpacked(tree, arrays):
    """What `packed` was given; tuples come back as lists. `arrays` is `{name: array}`."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "dict":
        return {key: unpacked(v, arrays) for key, v in value}
    if kind == "list":
        return [unpacked(v, arrays) for v in value]
    return arrays[value]
