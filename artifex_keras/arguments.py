"""What an argument may be: the one place where the values that a person passes are checked.

Each rule takes an argument's name and its value, and gives the value as a plain Python object.
What breaks it is a ValueError that names the argument, the rule and the value received:

    `beta` must be at least 0.0. Received: beta=-1.0.

A number may be Python's, numpy's, or a tensor or variable without axes. True and False are no
numbers, nor are texts: ``"1"`` is refused where 1 is wanted.
"""

import difflib
import numbers

import numpy as np

__all__ = [
    "boolean",
    "choice",
    "decay",
    "forbid_arguments",
    "integer",
    "known_name",
    "lookup",
    "number",
    "random_seed",
    "share",
    "unknown_name",
]

LARGEST = 2**63 - 1  # of the integers, of which arrays, counters and files have 64 bits
LARGEST_SEED = 2**31 - 2
SHOWN = 200  # characters of a value in a message


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
    """`value`, if it is one of `choices`; True isn't taken for 1, nor False for 0."""
    for allowed in choices:
        if isinstance(value, bool) is isinstance(allowed, bool) and _equal(value, allowed):
            return value
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
    choices = sorted(map(str, choices))
    return f"Unknown {what} {shown(name)}.{nearest(name, choices)} Choices: {', '.join(choices)}."


def forbid_arguments(given, names, why):
    """Raises a ValueError if one of `names` is among the arguments `given`, a dict."""
    for name in names:
        if name in given:
            raise ValueError(f"`{name}` is of no use here: {why}. Received: {shown(given[name])}.")


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
    """The part of a message that suggests the nearest of `choices`; empty where none is near."""
    near = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
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


def _equal(value, allowed):
    """Whether they are equal, as one bool: an array is equal to no choice."""
    return getattr(value, "shape", ()) == () and bool(value == allowed)
