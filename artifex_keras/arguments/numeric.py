"""Rules of numbers: bounds, shares, seeds, sizes."""

import functools
import numbers

import numpy as np

from artifex_keras.arguments.messages import broken_rule

__all__ = [
    "as_python",
    "bounded",
    "count",
    "decay",
    "factor",
    "integer",
    "interval",
    "number",
    "random_seed",
    "share",
    "sizes",
]

LARGEST = 2**63 - 1  # of the integers, of which arrays, counters and files have 64 bits
LARGEST_SEED = 2**31 - 2


def integer(name, value, *, minimum=0, maximum=None, optional=False):
    """The int `value`, if it is an integer within the bounds, or with `optional` None.

    Raises:
        ValueError: for anything else, `True`, 2.0 and an integer of over 64 bits included.
    """
    if value is None and optional:
        return None
    plain = as_python(value)
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
    plain = as_python(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Integral):
        raise broken_rule(name, value, "an integer or None")
    if not 0 <= plain <= LARGEST_SEED:
        raise broken_rule(name, value, "in [0, 2**31 - 1)")
    return int(plain)


def sizes(name, value, *, least=1):
    """`value` as a tuple of integers of at least 1; a bare integer is a tuple of one.

    Raises:
        ValueError: for fewer than `least` of them, and for one that is no positive integer.
    """
    plain = as_python(value)
    if isinstance(plain, numbers.Integral):
        plain = (plain,)
    if getattr(plain, "ndim", None) == 1:
        plain = plain.tolist()
    if not isinstance(plain, list | tuple | range) or len(plain) < least:
        raise broken_rule(name, value, "one or more positive integers")
    if not all(_is_count(size) for size in plain):
        raise broken_rule(name, value, "one or more positive integers")
    return tuple(int(as_python(size)) for size in plain)


def bounded(**bounds):
    """The rule of a number within bounds, see `number`."""
    return functools.partial(_call, number, bounds)


def count(minimum=1, **bounds):
    """The rule of an integer within bounds, see `integer`."""
    return functools.partial(_call, integer, {"minimum": minimum, **bounds})


def _call(check, bounds, name, value):
    return check(name, value, **bounds)


def _is_count(value):
    plain = as_python(value)
    return (
        isinstance(plain, numbers.Integral)
        and not isinstance(plain, bool)
        and 1 <= plain <= LARGEST
    )


def _interval(minimum, above, maximum, below):
    """The bounds as a rule: "at least 0", "greater than 0", "in [0, 1)"."""
    low = f"[{minimum}" if minimum is not None else f"({above}"
    high = f"{maximum}]" if maximum is not None else f"{below})"
    if maximum is None and below is None:
        return f"at least {minimum}" if minimum is not None else f"greater than {above}"
    if minimum is None and above is None:
        return f"at most {maximum}" if maximum is not None else f"less than {below}"
    return f"in {low}, {high}"


def as_python(value):
    """`value` as a Python object, where it is a scalar of numpy or a tensor without axes."""
    if getattr(value, "shape", None) != ():
        return value
    try:
        return np.asarray(value).item()
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        return value  # known when the program runs, as in a compiled function


def _as_float(value):
    """`value` as a float; None where it is no number or too large."""
    plain = as_python(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        return None
    try:
        return float(plain)
    except OverflowError:
        return None
