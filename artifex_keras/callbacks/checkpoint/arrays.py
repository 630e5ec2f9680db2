"""The variables of a model in training as named arrays, with the same names in every process."""

import functools
import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from artifex_keras.backend.places import layer_places, places
from artifex_keras.backend.processes import assign, to_host_array
from artifex_keras.backend.stacks import expanded, stack_of, stacked_in
from artifex_keras.callbacks.checkpoint.pieces import stacked
from artifex_keras.utils import warn

__all__ = ["NamedArray", "is_learning_rate", "named_variables", "restore", "snapshot"]

NUMBERED = re.compile(r"(.+?)_(\d+)")
RATE = re.compile(r"optimizer/(.+[/_])?learning_rate(_\d+)?(#\d+)?")
SHOWN = 8  # differences that an error lists


class NamedArray(NamedTuple):
    """The value of one variable.

    Attributes:
        name: such as "model/dense/kernel".
        dtype: of the variable, a string; bfloat16 values are stored in another one.
        value: a NumPy array; what has its shape and gives its parts by slices, as `Pieces` of
            `parts.py`, where a process has read a part.
        bounds: of the variable's part that it is, a pair for each axis; None for the whole.
        shape: of the whole variable, if it is a part.
    """

    name: str
    dtype: str
    value: np.ndarray
    bounds: tuple | None = None
    shape: tuple | None = None


def named_variables(model, averages=True):
    """The variables of model, optimizer and metrics by name, with seeds and averages: a dict.

    A variable of the model has the name of its place. In the names of averages and slots that name
    stands for the path of the variable that they belong to. Variables of one name get `#2`, `#3`,
    ... in their order. Without `averages` those have the names that earlier versions gave them.
    """
    groups, where, numbers = _groups(model), places(model), {}
    known = _averages(model, where) if averages else {}
    aliases, seen, named, times = {}, Counter(), {}, Counter()
    for variable in groups["model"]:
        place = where.get(id(variable)) or _by_path(variable, {}, numbers)
        aliases.setdefault(variable.path.replace("/", "_"), []).append(place.replace("/", "."))
    most = max(map(len, aliases.values()), default=1)

    @functools.cache
    def nth(time):
        return {key: names[min(time, len(names)) - 1] for key, names in aliases.items()}

    for group, variables in groups.items():
        for variable in variables:
            seen[variable.path] += 1  # variables of one path are in one order everywhere
            own = nth(min(seen[variable.path], most))
            place = where.get(id(variable)) if group == "model" else None
            if _identity(variable) in known:
                name = known[_identity(variable)]
            elif place is None:
                name = _by_path(variable, own, numbers)
            else:
                name = "/".join(_aliased(part, own) for part in place.split("/"))
            _add(named, times, f"{group}/{name}", variable)
    return named


def _averages(model, where):
    """The names of averages by `_identity`, of models within the model too."""
    names = {}
    for place, layer in layer_places(model).items():
        for weight, average in getattr(layer, "averages", ()):
            weights = expanded([weight], [])
            for kept, part in zip(weights, expanded([average], stacked_in([weight])), strict=True):
                name = where[id(kept)].replace("/", ".")
                names[_identity(part)] = f"{place}average_{name}"
    return names


def _identity(variable):
    stack, place = stack_of(variable)
    return id(stack), place


def _groups(model):
    """The variables of a model by kind, each of them once."""
    optimizer = getattr(model, "optimizer", None)
    metrics = {id(v): v for v in model.metrics_variables}
    variables = [*model.trainable_variables, *model.non_trainable_variables, *model.variables]
    own = {id(v): v for v in variables if id(v) not in metrics}
    slots = optimizer.variables if optimizer is not None else []
    stacked = stacked_in(own.values())
    return {
        "model": expanded(own.values(), stacked),
        "optimizer": expanded({id(v): v for v in slots if id(v) not in own}.values(), stacked),
        "metrics": list(metrics.values()),
    }


def _add(named, times, name, variable):
    times[name] += 1
    named[name if times[name] == 1 else f"{name}#{times[name]}"] = variable


def _by_path(variable, aliases, numbers, anywhere=True):
    """The path, in which the numbers that Keras gives the layers of a process start at zero."""
    parts = [_aliased(part, aliases, anywhere) for part in variable.path.split("/")]
    return "/".join(_renumbered(part, numbers) for part in parts)


def _names_by_path(model, as_in_0_1_0):
    """`named_variables` as earlier versions named them, 0.1.0 with numbers in averages' names."""
    aliases, numbers, named, times = {}, {}, {}, Counter()
    for group, variables in _groups(model).items():
        for variable in variables:
            name = _by_path(variable, aliases, numbers, not as_in_0_1_0)
            if group == "model":  # an optimizer calls its slots after the variables
                aliases[variable.path.replace("/", "_")] = name.replace("/", ".")
            _add(named, times, f"{group}/{name}", variable)
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


EARLIER = [functools.partial(named_variables, averages=False)]
EARLIER += [functools.partial(_names_by_path, as_in_0_1_0=old) for old in (False, True)]


def restore(model, named_arrays, *groups):
    """Assigns each array to the variable of its name.

    A learning rate may be in one of them only: a schedule took its place, or it took a schedule's.
    A variable with a `value_if_unsaved` may be missing, as in checkpoints of earlier versions; its
    `note_if_unsaved` is what is warned of then.

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
    for names in (named_variables, *EARLIER):
        named = names(model)
        variables = {k: v for k, v in named.items() if k.split("/")[0] in groups}
        if not _unexplained(variables, values):
            break
    else:
        named = named_variables(model)
        variables = {k: v for k, v in named.items() if k.split("/")[0] in groups}
    notes = []
    for name in variables.keys() - values.keys():
        unsaved = getattr(variables[name], "value_if_unsaved", None)
        if unsaved is not None:
            values[name] = NamedArray(name, variables[name].dtype, np.asarray(unsaved))
            notes.append(getattr(variables[name], "note_if_unsaved", None))
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
    stacks = {}
    for name, variable in variables.items():
        stack, place = stack_of(variable)
        if place is None:
            assign(variable, values[name].value)
        else:
            stacks.setdefault(id(stack), (stack, {}))[1][place] = values[name].value
    for stack, parts in stacks.values():
        assign(stack, stacked([parts[place] for place in sorted(parts)]))
    for note in {note: None for note in notes if note}:
        warn(note)


def _unexplained(variables, values):
    """The names that one of the two dicts lacks, without those that `restore` does without."""
    return {
        name
        for name in variables.keys() ^ values.keys()
        if not is_learning_rate(name)
        and getattr(variables.get(name), "value_if_unsaved", None) is None
    }
