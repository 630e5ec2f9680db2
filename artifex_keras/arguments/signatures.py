"""The arguments of a function or a constructor: each by its rule, and none that there isn't."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from artifex_keras.arguments.messages import unknown_name

__all__ = ["UnknownArgument", "accepted_arguments", "argument_rules", "checked"]

T = TypeVar("T")
Rule = Callable[[str, Any], Any]
REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
HANDED_ON = {"kwargs", "common"}  # how constructors name what they hand on to their parent's


class UnknownArgument(TypeError, ValueError):
    """An argument that there isn't: Python has a TypeError for it, Keras a ValueError."""


def check_keywords(owner, names, accepted, old=()):
    """Raises a TypeError with the nearest names unless all are `accepted`, or `old` names."""
    for name in names:
        if name not in accepted and name not in old:
            raise UnknownArgument(unknown_name(name, list(accepted), f"argument of {owner}"))


def checked(
    rules: Mapping[str, Rule] | None = None,
    /,
    *,
    rest: Callable | None = None,
    **more: Rule,
) -> Callable[[T], T]:
    """A decorator that checks the arguments of a function, or of a class's constructor.

    An argument goes through the rule of its name before the function gets it; its default doesn't.
    An argument that there isn't is answered with the nearest names.

    Args:
        rules: a dict of ``rule(name, value)``, of which those are used whose names are arguments.
        rest: the class or function that gets the arguments of `**options`.
        more: further rules, which go before those of `rules`.

    Example:

        ```python
        from artifex_keras.arguments import checked, count

        @checked(width=count())
        def square(width, color="red"):
            return width, width

        try:
            square(width=2, colour="blue")
        except TypeError as error:
            print(error)  # Unknown argument of square 'colour'. Did you mean 'color'? ...
        ```
    """
    table = {**(rules or {}), **more}

    def decorate(target):
        if not isinstance(target, type):
            accepted = functools.partial(_accepted_by, target, rest)
            return _checking(target, target.__name__, table, accepted)
        target._argument_rules = table
        target.__init__ = _checking(
            target.__init__, target.__name__, table, lambda: _accepted_by_class(target)
        )
        return target

    return decorate


def accepted_arguments(cls):
    """The names of the arguments of a class's constructor, those that it hands on included."""
    return _accepted_by_class(cls) or []


def argument_rules(cls):
    """The rules of a class's arguments by name: those that `checked` was given for it and for the
    classes that it is derived from."""
    rules = {}
    for parent in reversed(cls.__mro__):
        rules |= vars(parent).get("_argument_rules", {})
    return rules


def _checking(function, owner, table, accepted):
    """`function` behind the rules; `accepted()` gives the names that it takes, None for all."""
    signature = inspect.signature(function)
    used = {name: rule for name, rule in table.items() if name in signature.parameters}
    names = functools.cache(accepted)
    free = {p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD}

    @functools.wraps(function)
    def checking(*args, **kwargs):
        known = names()
        for name in kwargs if known is not None else ():
            if name not in known:
                raise UnknownArgument(unknown_name(name, known, f"argument of {owner}"))
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{owner}: {error}.") from None
        for name in bound.arguments.keys() & used.keys():
            bound.arguments[name] = used[name](name, bound.arguments[name])
        for name in bound.arguments.keys() & free:
            for key in bound.arguments[name].keys() & table.keys():
                bound.arguments[name][key] = table[key](key, bound.arguments[name][key])
        return function(*bound.args, **bound.kwargs)

    checking.__signature__ = signature
    return checking


def _accepted_by(function, rest):
    """The names of the arguments of a function and of `rest`; None if it takes unknown ones."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind not in REST]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None if rest is None else names + _accepted_by_class(rest)
    return names


def _accepted_by_class(cls):
    """The names of the arguments of a constructor, and of those that its rest is handed on to."""
    names = []
    for parent in cls.__mro__:
        if "__init__" in vars(parent):
            parameters = list(inspect.signature(parent.__init__).parameters.values())[1:]
            names += [p.name for p in parameters if p.kind not in REST]
            rest = {p.name for p in parameters if p.kind is p.VAR_KEYWORD}
            if not rest and not parent.__module__.startswith("keras."):
                break
            if not rest <= HANDED_ON:
                return None
    return list(dict.fromkeys(names))
