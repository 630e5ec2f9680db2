"""One reward: how its function or model is called, and the shape of what it gives."""

import functools
import inspect

import keras
from keras import ops

from artifex_keras.models.base import GenerativeModel
from artifex_keras.rl.asking import Reading, naming

__all__ = ["Reward", "missing_column"]


class Reward:
    """One reward, with the name that errors and metrics call it by."""

    def __init__(self, name, function):
        self.name, self.function = name, function
        self.is_model = isinstance(function, keras.Layer)
        self.on_host = not (self.is_model or getattr(function, "_traceable", False) is True)
        self.asynchronous = _is_async(function)
        if self.asynchronous and not self.on_host:
            raise ValueError(f"The reward {name!r} can't be both `traceable` and `async`.")
        if not self.is_model:
            self._read_signature()

    def _read_signature(self):
        """Which parameters are the prompts and the completions, and which are columns."""
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except ValueError:  # some functions written in C have no signature
            parameters = [inspect.Parameter("_", inspect.Parameter.VAR_POSITIONAL)]
        kinds = {parameter.kind for parameter in parameters}
        self.takes_all = inspect.Parameter.VAR_KEYWORD in kinds
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        names = [parameter.name for parameter in named]
        self.by_name = "completions" in names and names.index("completions") != 1
        first = [p for p in named if p.kind is not p.KEYWORD_ONLY][:2]
        if not self.by_name and len(first) < 2 and inspect.Parameter.VAR_POSITIONAL not in kinds:
            raise ValueError(
                f"The reward {self.name!r} must take `prompts` and `completions`: it is called as "
                f"reward_fn(prompts, completions, **columns). Received: parameters {names}."
            )
        own = {"prompts", "completions"} if self.by_name else {p.name for p in first}
        self.own, self.names_prompts = own, self.takes_all or "prompts" in names
        self.wanted = {p.name: p.default is p.empty for p in named if p.name not in own}

    def bound(self, prompts, completions, columns):
        """The function with all that it takes."""
        given = {name: columns[name] for name in self.wanted if name in columns}
        for name, required in self.wanted.items():
            if required and name not in columns:
                raise ValueError(missing_column(self.name, name, columns, self.on_host))
        if self.takes_all:
            given |= {name: value for name, value in columns.items() if name not in self.own}
        if not self.by_name:
            return functools.partial(self.function, prompts, completions, **given)
        given["completions"] = completions
        if self.names_prompts:
            given["prompts"] = prompts
        return functools.partial(self.function, **given)

    def reading(self, prompts, completions, columns):
        """`(function with all that it takes, the Reading of it)`."""
        reading = Reading(prompts, completions)
        return self.bound(reading.prompts, reading.completions, columns), reading

    def scores(self, view):
        """What a reward on the device gives, (N,) float32."""
        rows = view["completions"].shape[0]
        if self.is_model:
            return self._model_scores(view, rows)
        call = self.bound(view["prompts"], view["completions"], view.get("columns", {}))
        with naming(self.name):
            scores = call()
        shape = getattr(scores, "shape", None)
        if shape is None or not _fits(shape, (rows,)):
            raise ValueError(
                f"The reward {self.name!r} must give a tensor of one number per completion, "
                f"{_shown((rows,))}. Received: "
                f"{repr(scores) if shape is None else f'shape {_shown(shape)}'}."
            )
        return ops.cast(scores, "float32")

    def _model_scores(self, view, rows):
        sequence = view.get("sequence")
        inputs = view["completions"] if sequence is None else sequence
        ours = isinstance(self.function, GenerativeModel)  # `__call__` refuses to be within a step
        with naming(self.name):
            scores = (self.function.call if ours else self.function)(inputs, training=False)
        shape = tuple(getattr(scores, "shape", ()))
        each = [(rows,), (rows, 1)]
        if sequence is not None:
            each += [(rows, sequence.shape[1]), (rows, sequence.shape[1], 1)]
        if not any(_fits(shape, known) for known in each):
            raise ValueError(
                f"The reward {self.name!r} must give one score per completion or token: a tensor "
                f"of shape {' or '.join(map(_shown, each))}. "
                f"Received: {f'shape {_shown(shape)}' if shape else repr(scores)}."
            )
        scores = ops.cast(scores, "float32")
        if len(shape) == 3:
            scores = ops.squeeze(scores, 2)
        if len(shape) > 1 and shape[1] == 1:
            return scores[:, 0]
        if len(shape) > 1:
            last = ops.expand_dims(ops.cast(view["last"], "int32"), 1)
            return ops.take_along_axis(scores, last, axis=1)[:, 0]
        return scores


def _is_async(function):
    call = getattr(type(function), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def missing_column(reward, column, columns, on_host=True):
    """The message for a column that a reward needs and the data hasn't got."""
    hint = "" if on_host else " Text doesn't reach the device; a Python function gets it too."
    return (
        f"The reward {reward!r} needs the column {column!r}. "
        f"Received: columns {sorted(columns)}.{hint}"
    )


def _fits(shape, expected):
    """Whether two shapes, of which an axis may be unknown while tracing, can be equal."""
    return len(shape) == len(expected) and all(
        None in pair or pair[0] == pair[1] for pair in zip(shape, expected, strict=True)
    )


def _shown(shape):
    return f"({', '.join('N' if n is None else str(n) for n in shape)}{',' * (len(shape) == 1)})"
