"""What an argument may be, and a pool of values that belong to few kinds or to none.

A kind is a function of a value: True where it belongs to the kind, False where it is nonsense. What
belongs may still be refused, as arguments must fit each other; what doesn't must be refused.
"""

import math
import numbers
from pathlib import Path

import keras
import numpy as np

LARGEST = 2**63 - 1


class Thing:
    """An object that is nothing in particular; its `repr` is the same each time."""

    def __repr__(self):
        return "Thing()"


def some_function(*args, **kwargs):
    return 0.0


# Name -> value. The names stand in the file of what was found.
POOL = {
    "None": None,
    "empty text": "",
    "x": "x",
    "text 1": "1",
    "auto": "auto",
    "text none": "none",
    "bytes": b"x",
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "-1": -1,
    "-0.5": -0.5,
    "0": 0,
    "1": 1,
    "0.5": 0.5,
    "1.7": 1.7,
    "2.0": 2.0,
    "1j": 1j,
    "True": True,
    "False": False,
    "2**40": 2**40,
    "2**70": 2**70,
    "10**400": 10**400,
    "[]": [],
    "{}": {},
    "(1, 2, 3)": (1, 2, 3),
    "[1.5]": [1.5],
    "['x', None]": ["x", None],
    "{'x': 1}": {"x": 1},
    "set": {3},
    "range": range(2),
    "object": Thing(),
    "function": some_function,
    "class": Thing,
    "int8": np.int8(2),
    "float32": np.float32(0.25),
    "float32 nan": np.float32("nan"),
    "bool_": np.True_,
    "0-d array": np.array(2),
    "array": np.array([1.0, 2.0]),
    "2-d array": np.ones((2, 2), "float32"),
    "array of text": np.array("x"),
}


def _plain(value):
    """A scalar of numpy as Python's."""
    return value.item() if isinstance(value, np.generic | np.ndarray) and not value.shape else value


def number(minimum=-math.inf, *, above=-math.inf, maximum=math.inf, below=math.inf, optional=False):
    def fits(value):
        value = _plain(value)
        if value is None:
            return optional
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        good = math.isfinite(value) if isinstance(value, float) else abs(value) < 2**1000
        return good and minimum <= value <= maximum and above < value < below

    return fits


def integer(minimum=0, *, maximum=LARGEST, optional=False):
    def fits(value):
        value = _plain(value)
        if value is None:
            return optional
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return whole and minimum <= value <= maximum

    return fits


def choice(*names):
    def fits(value):
        plain = _plain(value)
        return any(type(plain) is type(name) and plain == name for name in names)

    return fits


def row_of(table, *others):
    return choice(*table, *others)


def flag(value):
    return isinstance(value, bool | np.bool_)


def text(value):
    return isinstance(_plain(value), str)


def optional(kind):
    return lambda value: value is None or kind(value)


def either(*kinds):
    return lambda value: any(kind(value) for kind in kinds)


def several(kind, least=1):
    """A row of values of a kind: a list, a tuple, an array of one axis."""

    def fits(value):
        if isinstance(value, np.ndarray):
            value = value.tolist() if value.ndim == 1 else None
        listed = isinstance(value, list | tuple | range)
        return listed and len(value) >= least and all(map(kind, value))

    return fits


def path(value):
    return isinstance(value, Path) or (isinstance(value, str) and value != "")


def activation(value):
    if isinstance(value, str):
        return value in vars(keras.activations)
    return value is None or (callable(value) and not isinstance(value, type))


def function(value):
    return callable(value) and not isinstance(value, type)


def instance(*types):
    return lambda value: isinstance(value, types)


def anything(value):
    return True


positive = number(above=0.0)
not_negative = number(0.0)
share = number(0.0, maximum=1.0)
decay = number(0.0, below=1.0, optional=True)
seed = integer(0, maximum=2**31 - 2, optional=True)
count = integer(1)
classes = integer(1, optional=True)


def part(value):
    """A number of examples, 2.0 too."""
    return number(1.0)(value) and int(value) == value


sizes = either(count, several(count))
widths = either(count, several(count, least=0))
network = instance(keras.Layer)
nothing = instance(type(None))
dictionary = instance(dict)
