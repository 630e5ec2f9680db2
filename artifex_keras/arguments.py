"""What an argument may be: the one place where the values that a person passes are checked.

Each rule takes an argument's name and its value, and gives the value as a plain Python object.
What breaks it is a ValueError that names the argument, the rule and the value received:

    `beta` must be at least 0.0. Received: beta=-1.0.

A number may be Python's, numpy's, or a tensor or variable without axes. True and False are no
numbers, nor are texts: ``"1"`` is refused where 1 is wanted.
"""

import difflib
import functools
import inspect
import numbers
from pathlib import Path

import numpy as np

__all__ = [
    "UnknownArgument",
    "accepted_arguments",
    "argument_rules",
    "boolean",
    "bounded",
    "checked",
    "choice",
    "count",
    "decay",
    "dictionary",
    "file_path",
    "forbid_arguments",
    "function",
    "instance_of",
    "integer",
    "known_name",
    "lookup",
    "nearest",
    "number",
    "one_of",
    "optional",
    "random_seed",
    "row_of",
    "share",
    "sizes",
    "text",
    "unknown_name",
]

LARGEST = 2**63 - 1  # of the integers, of which arrays, counters and files have 64 bits
LARGEST_SEED = 2**31 - 2
SHOWN = 200  # characters of a value in a message
REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
HANDED_ON = {"kwargs", "common"}  # how constructors name what they hand on to their parent's


# Numbers


def integer(name, value, *, minimum=0, maximum=None, optional=False):
    """The int `value`, if it is an integer within the bounds, or with `optional` None.

    Raises:
        ValueError: for anything else, `True`, 2.0 and an integer of over 64 bits included.
    """
    if value is None and optional:
        return None
    plain = _as_python(value)
    good = isinstance(plain, numbers.Integral) and not isinstance(plain, bool)
    if good and minimum <= plain <= (LARGEST if maximum is None else maximum):
        return int(plain)
    if maximum is not None:
        rule = f"an integer from {minimum} to {maximum}"
    elif good and plain > LARGEST:
        rule = f"an integer of at least {minimum} that 64 bits hold"
    else:
        rule = f"an integer of at least {minimum}"
    raise broken_rule(name, value, f"{rule}{' or None' if optional else ''}")


def number(name, value, *, minimum=None, above=None, maximum=None, below=None, optional=False):
    """The float `value`, if it is a finite number within the bounds, or with `optional` None.

    Raises:
        ValueError: for anything else: NaN, infinity, text, `True`, an integer that no float holds.
    """
    if value is None and optional:
        return None
    plain = _as_float(value)
    if plain is None or not np.isfinite(plain):
        raise broken_rule(name, value, f"a finite number{' or None' if optional else ''}")
    within = (minimum is None or plain >= minimum) and (above is None or plain > above)
    within = within and (maximum is None or plain <= maximum) and (below is None or plain < below)
    if not within:
        rule = _interval(minimum, above, maximum, below)
        raise broken_rule(name, value, f"{rule} or None" if optional else rule)
    return plain


def factor(name, value, *, zero=False):
    """The float `value`, if float32 can multiply and divide by it: a number from 1e-30 to 1e30, or
    with `zero` 0."""
    plain = number(name, value, minimum=0.0) if zero else number(name, value, above=0.0)
    if plain and not 1e-30 <= plain <= 1e30:
        raise broken_rule(name, value, f"{'0 or ' if zero else ''}a number from 1e-30 to 1e30")
    return plain


def interval(name, value):
    """The pair of floats `(low, high)`, if `value` is one, of finite numbers with low < high; or
    None."""
    if value is None:
        return None
    ends = np.shape(value) == (2,) if isinstance(value, list | tuple | np.ndarray) else False
    low, high = map(_as_float, value) if ends else (None, None)
    if low is None or high is None or not -np.inf < low < high < np.inf:
        raise broken_rule(name, value, "None or (low, high)")
    return low, high


def share(name, value):
    """The float `value`, if it is a probability or another share: a number in [0, 1]."""
    return number(name, value, minimum=0, maximum=1)


def decay(name, value):
    """The decay of a moving average: None, or a float in [0, 1)."""
    return number(name, value, minimum=0, below=1, optional=True)


def random_seed(name, value):
    """A seed: None, or an int in [0, 2³¹ - 1)."""
    if value is None:
        return None
    plain = _as_python(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Integral):
        raise broken_rule(name, value, "an integer or None")
    if not 0 <= plain <= LARGEST_SEED:
        raise broken_rule(name, value, "in [0, 2**31 - 1)")
    return int(plain)


# Names and choices


def boolean(name, value):
    """The bool `value`; numpy's are taken too, 0, 1 and "yes" are not."""
    plain = _as_python(value)
    if not isinstance(plain, bool):
        raise broken_rule(name, value, "True or False")
    return plain


def choice(name, value, choices):
    """`value`, if it is one of `choices`; neither True nor 1.0 is taken for 1."""
    plain = _as_python(value)
    for allowed in choices:
        if type(plain) is type(allowed) and plain == allowed:
            return allowed
    near = nearest(value, [c for c in choices if isinstance(c, str)])
    listed = " or ".join(filter(None, [", ".join(map(repr, choices[:-1])), repr(choices[-1])]))
    raise broken_rule(name, value, listed, near)


def lookup(table, name, what):
    """The row of `table` called `name`; `what` says in the error what was looked for.

    Raises:
        ValueError: with the nearest names and all choices, if there is no such row.
    """
    return table[known_name(name, table, what)]


def known_name(name, choices, what):
    """`name`, if it is among `choices`.

    Raises:
        ValueError: with the nearest names and all choices, if it isn't.
    """
    if not isinstance(name, str) or name not in choices:
        raise ValueError(unknown_name(name, choices, what))
    return name


def unknown_name(name, choices, what):
    """The message for a name that is not among `choices`, with the nearest ones first."""
    choices = sorted({*map(str, choices)})
    return f"Unknown {what} {shown(name)}.{nearest(name, choices)} Choices: {', '.join(choices)}."


def forbid_arguments(given, names, why):
    """Raises a ValueError if one of `names` is among the arguments `given`, a dict."""
    for name in names:
        if name in given:
            raise ValueError(f"`{name}` is of no use here: {why}. Received: {shown(given[name])}.")


def text(name, value):
    """The str `value`, if it is one and not empty."""
    plain = _as_python(value)
    if not isinstance(plain, str) or not plain:
        raise broken_rule(name, value, "a text")
    return plain


def file_path(name, value):
    """`value` as a `pathlib.Path`, if it is a path of a file or folder: a text or a Path."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise broken_rule(name, value, "a path")
    return Path(value)


def function(name, value):
    """`value`, if it can be called and is no class."""
    if not callable(value) or isinstance(value, type):
        raise broken_rule(name, value, "a function")
    return value


def dictionary(name, value):
    """`value`, if it is a dict with texts for keys."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise broken_rule(name, value, "a dict of options by name")
    return value


def sizes(name, value, *, least=1):
    """`value` as a tuple of integers of at least 1; a bare integer is a tuple of one.

    Raises:
        ValueError: for fewer than `least` of them, and for one that is no positive integer.
    """
    plain = _as_python(value)
    if isinstance(plain, numbers.Integral):
        plain = (plain,)
    if getattr(plain, "ndim", None) == 1:
        plain = plain.tolist()
    if not isinstance(plain, list | tuple | range) or len(plain) < least:
        raise broken_rule(name, value, "one or more positive integers")
    if not all(_is_count(size) for size in plain):
        raise broken_rule(name, value, "one or more positive integers")
    return tuple(int(_as_python(size)) for size in plain)


# Rules: what `checked` is given by the name of an argument. Each is called as `rule(name, value)`
# and gives the value to keep, or raises; `boolean`, `share`, `text` and so on are rules themselves.


def bounded(**bounds):
    """The rule of a number within bounds, see `number`."""
    return functools.partial(_call, number, bounds)


def count(minimum=1, **bounds):
    """The rule of an integer within bounds, see `integer`."""
    return functools.partial(_call, integer, {"minimum": minimum, **bounds})


def one_of(*choices):
    """The rule of a value that is among `choices`."""
    return lambda name, value: choice(name, value, choices)


def row_of(table, what):
    """The rule of a name in `table`, see `known_name`."""
    return lambda name, value: known_name(value, table, what)


def optional(rule):
    """The rule of None, or of what `rule` says."""

    def checking(name, value):
        try:
            return None if value is None else rule(name, value)
        except ValueError as error:
            raise ValueError(str(error).replace(". Received:", " or None. Received:", 1)) from None

    return checking


def instance_of(*types, what):
    """The rule of an object of one of these types, which the message calls `what`."""

    def rule(name, value):
        if not isinstance(value, types):
            raise broken_rule(name, value, what)
        return value

    return rule


def _call(check, bounds, name, value):
    return check(name, value, **bounds)


# Names of arguments


class UnknownArgument(TypeError, ValueError):
    """An argument that there isn't: Python has a TypeError for it, Keras a ValueError."""


def checked(rules=None, /, *, rest=None, **more):
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


# Messages


def broken_rule(name, value, rule, hint=""):
    """The ValueError for the argument `name`, whose `value` must be `rule`."""
    return ValueError(f"`{name}` must be {rule}. Received: {name}={shown(value)}.{hint}")


def shown(value):
    """`value` as a message shows it, cut where it is long."""
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:  # Python may refuse to print it
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def nearest(name, choices):
    """What a message says of the choices nearest to `name`: " Did you mean ...?", or nothing."""
    initials = [c for c in choices if "".join(part[:1] for part in c.split("_")) == str(name)]
    near = initials or difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _interval(minimum, above, maximum, below):
    """The bounds as a rule: "at least 0", "greater than 0", "in [0, 1)"."""
    low = f"[{minimum}" if minimum is not None else f"({above}"
    high = f"{maximum}]" if maximum is not None else f"{below})"
    if maximum is None and below is None:
        return f"at least {minimum}" if minimum is not None else f"greater than {above}"
    if minimum is None and above is None:
        return f"at most {maximum}" if maximum is not None else f"less than {below}"
    return f"in {low}, {high}"


# Kinds


def _as_python(value):
    """`value` as a Python object, where it is a scalar of numpy or a tensor without axes."""
    if getattr(value, "shape", None) != ():
        return value
    try:
        return np.asarray(value).item()
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        return value  # known when the program runs, as in a compiled function


def _as_float(value):
    """`value` as a float; None where it is no number or too large."""
    plain = _as_python(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        return None
    try:
        return float(plain)
    except OverflowError:
        return None


def _is_count(value):
    plain = _as_python(value)
    return (
        isinstance(plain, numbers.Integral)
        and not isinstance(plain, bool)
        and 1 <= plain <= LARGEST
    )
