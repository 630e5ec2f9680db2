"""Trees of Python and NumPy values as JSON and arrays, with their types."""

import collections
import datetime
import decimal
import fractions
import pathlib
import random
import uuid

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import shown
from artifex_keras.backend.processes import to_host_array
from artifex_keras.callbacks.checkpoint.arrays import NamedArray

__all__ = ["pack", "unpack"]

DEEPEST = 100  # levels of a tree; one that holds itself has no end
PLAIN = (type(None), bool, int, float, str)
FACTORIES = {kind.__name__: kind for kind in (int, float, str, list, dict, set, tuple, bool)}
BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def _pairs(mapping):
    return [list(pair) for pair in mapping.items()]


def _generator(state):
    if state["bit_generator"] not in BIT_GENERATORS:
        raise ValueError(f"There is no bit generator {state['bit_generator']!r}.")
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)


def _legacy_generator(state):
    generator = np.random.RandomState()
    generator.set_state(state)
    return generator


def _python_generator(state):
    generator = random.Random()
    generator.setstate(state)
    return generator


def _fraction(text):
    return fractions.Fraction(*map(int, text.split("/")))  # "1e999999999" would be its digits


def _of_text(kind, write=str, read=None):
    return kind, write, kind if read is None else read


# By the name in the file: the type, what it is written as, and how it is made of that again.
KINDS = {
    "list": (list, list, list),
    "tuple": (tuple, list, tuple),
    "set": (set, list, set),
    "frozenset": (frozenset, list, frozenset),
    "deque": (
        collections.deque,
        lambda d: [d.maxlen, list(d)],
        lambda v: collections.deque(v[1], v[0]),
    ),
    "dict": (dict, _pairs, dict),
    "OrderedDict": (collections.OrderedDict, _pairs, collections.OrderedDict),
    "Counter": (collections.Counter, _pairs, lambda pairs: collections.Counter(dict(pairs))),
    "complex": (complex, lambda z: [z.real, z.imag], lambda parts: complex(*parts)),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "bytearray": (bytearray, bytearray.hex, bytearray.fromhex),
    "range": (range, lambda r: [r.start, r.stop, r.step], lambda ends: range(*ends)),
    "slice": (slice, lambda s: [s.start, s.stop, s.step], lambda ends: slice(*ends)),
    "datetime": _of_text(
        datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat
    ),
    "date": _of_text(datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": _of_text(datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
    "timedelta": (
        datetime.timedelta,
        lambda d: [d.days, d.seconds, d.microseconds],
        lambda parts: datetime.timedelta(*parts),
    ),
    "Decimal": _of_text(decimal.Decimal),
    "Fraction": _of_text(fractions.Fraction, read=_fraction),
    "UUID": _of_text(uuid.UUID),
    "Path": _of_text(type(pathlib.Path())),
    "Generator": (np.random.Generator, lambda g: g.bit_generator.state, _generator),
    "RandomState": (np.random.RandomState, np.random.RandomState.get_state, _legacy_generator),
    "Random": (random.Random, random.Random.getstate, _python_generator),
}
NAMES = {kind: name for name, (kind, _, _) in KINDS.items()}


def pack(tree, arrays, name, depth=0):
    """`tree` in the types of JSON; appends its arrays to the list `arrays`, as `NamedArray`s.

    Args:
        tree: numbers, texts, bytes, dates, random generators, arrays of any type, and lists,
            tuples, sets, dicts with any keys, deques and counters of them.
        arrays: the list that receives the arrays.
        name: of the tree, before the names of its arrays.

    Raises:
        TypeError: for anything else in the tree, with its place.
    """
    kind = type(tree)
    if kind in PLAIN:
        return tree
    if depth > DEEPEST:
        raise TypeError(
            f"{name[:80]}... can't be kept in a checkpoint: it has more than {DEEPEST} levels, or "
            "it holds itself."
        )
    if kind in NAMES and _is_exact(tree):
        written = KINDS[NAMES[kind]][1](tree)
        return {NAMES[kind]: _packed_parts(tree, written, arrays, name, depth + 1)}
    if kind is collections.defaultdict and _factory_name(tree) is not None:
        pairs = _packed_parts(tree, _pairs(tree), arrays, name, depth + 1)
        return {"defaultdict": [_factory_name(tree), pairs]}
    if isinstance(tree, dict | list) and kind.__module__.startswith("keras."):  # tracked by a layer
        return pack((dict if isinstance(tree, dict) else list)(tree), arrays, name, depth)
    if isinstance(tree, np.generic) and not tree.dtype.hasobject:
        return {"scalar": [_packed_dtype(tree.dtype), tree.tobytes().hex()]}
    if kind in (np.ndarray, np.memmap):
        return _packed_array(tree, arrays, name, depth)
    if ops.is_tensor(tree) or isinstance(tree, keras.Variable):
        dtype = keras.backend.standardize_dtype(tree.dtype)
        return {"tensor": [_packed_array(to_host_array(tree), arrays, name, depth), dtype]}
    raise _cannot_keep(tree, name)


def unpack(tree, arrays):
    """The tree that `pack` was given. `arrays` is a dict of arrays by name.

    Scalars and arrays of NumPy are NumPy's again; a tensor is one of the backend that runs.
    """
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind in ("dict", "OrderedDict", "Counter"):
        return KINDS[kind][2](_unpacked_pairs(value, arrays))
    if kind == "defaultdict":
        return collections.defaultdict(FACTORIES.get(value[0]), _unpacked_pairs(value[1], arrays))
    if kind in KINDS:
        return KINDS[kind][2](_unpacked_parts(value, arrays))
    return ARRAYS[kind](value, arrays)


def _is_exact(tree):
    """Whether a text or a list says all about it: a time zone by name would become a shift."""
    if isinstance(tree, datetime.datetime | datetime.time):
        return type(tree.tzinfo) in (type(None), datetime.timezone) and not tree.fold
    if isinstance(tree, np.random.Generator):
        return type(tree.bit_generator).__name__ in BIT_GENERATORS
    return True


def _factory_name(mapping):
    """The name of what a `defaultdict` makes; "" for None; None for what has no name here."""
    factory = mapping.default_factory
    if factory is None:
        return ""
    return next((name for name, kind in FACTORIES.items() if kind is factory), None)


def _packed_parts(tree, written, arrays, name, depth):
    """What a tree is written as, with all inside it packed and named by its keys or its place."""
    if isinstance(written, str):
        return written
    if isinstance(tree, dict):
        return [
            [pack(key, arrays, f"the key {name}/{key}", depth), _named(v, arrays, name, key, depth)]
            for key, v in written
        ]
    if isinstance(written, list):
        return [_named(v, arrays, name, i, depth) for i, v in enumerate(written)]
    return pack(written, arrays, name, depth)


def _named(value, arrays, name, key, depth):
    return pack(value, arrays, f"{name}/{key}", depth)


def _unpacked_pairs(pairs, arrays):
    return [(_key(unpack(key, arrays)), unpack(value, arrays)) for key, value in pairs]


def _key(key):
    """A key; one that was a tuple is a list in files of 0.1.0."""
    return tuple(map(_key, key)) if isinstance(key, list) else key


def _unpacked_parts(value, arrays):
    if isinstance(value, list):
        return [unpack(part, arrays) for part in value]
    return unpack(value, arrays)


# Arrays


def _packed_array(array, arrays, name, depth):
    dtype = array.dtype
    if dtype.kind == "O":
        parts = [_named(v, arrays, name, i, depth + 1) for i, v in enumerate(array.ravel())]
        return {"objects": [list(array.shape), parts]}
    if dtype.hasobject:
        raise _cannot_keep(array, name)
    value = np.array(array)  # a copy: the callback goes on
    name = f"{name}@{len(arrays)}"  # keys 1 and "1" have one name
    if dtype.kind in "biufc" and dtype.char not in "gG" and dtype.isnative:
        arrays.append(NamedArray(name, dtype.name, value))
        return {"array": name}
    raw = np.frombuffer(np.ascontiguousarray(value).tobytes(), "uint8")
    arrays.append(NamedArray(name, "uint8", raw))
    return {"raw": [name, _packed_dtype(dtype), list(array.shape)]}


def _packed_dtype(dtype):
    """A type of NumPy in JSON: by its name where a package has added it, as bfloat16."""
    if dtype.isbuiltin == 2:
        return dtype.name
    return pack(np.lib.format.dtype_to_descr(dtype), [], "dtype")


def _unpacked_dtype(tree):
    descr = unpack(tree, {})
    return np.lib.format.descr_to_dtype(descr) if isinstance(descr, list) else np.dtype(descr)


def _from_objects(value, arrays):
    shape, parts = value
    flat = np.empty(len(parts), object)
    for i, part in enumerate(parts):
        flat[i] = unpack(part, arrays)
    return flat.reshape(shape)


def _from_raw(value, arrays):
    name, dtype, shape = value
    raw = np.ascontiguousarray(arrays[name]).tobytes()
    return np.frombuffer(raw, _unpacked_dtype(dtype)).reshape(shape).copy()


def _from_scalar(value, arrays):
    dtype, raw = value
    return np.frombuffer(bytes.fromhex(raw), _unpacked_dtype(dtype))[0]


def _from_tensor(value, arrays):
    array, dtype = value
    return ops.convert_to_tensor(unpack(array, arrays), dtype)


ARRAYS = {
    "array": lambda name, arrays: arrays[name],
    "objects": _from_objects,
    "raw": _from_raw,
    "scalar": _from_scalar,
    "tensor": _from_tensor,
}


def _cannot_keep(tree, name):
    return TypeError(
        f"{name} can't be kept in a checkpoint: give numbers, texts, lists, dicts, arrays and "
        "random generators; a dataclass by `dataclasses.asdict`, a named tuple by `_asdict()`, an "
        f"enum by its `value`. Received: {shown(tree)} of type {type(tree).__name__}."
    )
