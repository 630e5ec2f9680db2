"""What processes send each other, as bytes that hold data and nothing else: JSON and raw arrays.

`pack(value)`
    bytes of None, truth values, numbers, texts, bytes, arrays, and lists, tuples, dicts of those.
`unpack(data)`
    the value again: NumPy arrays for all arrays, plain tuples for all tuples.
`pack_error(error)`, `unpack_error(data)`
    an exception: Python's own kinds stay what they are, another one becomes the nearest of these.
"""

import builtins
import json

import numpy as np

__all__ = ["pack", "pack_error", "unpack", "unpack_error"]

PLAIN = (type(None), bool, int, float, str)
HEAD = 8  # bytes of the length of the JSON text
REAL = "biufcUSmM"  # kinds of NumPy's arrays whose bytes are their values


def pack(value):
    arrays = []
    tree = _tree(value, arrays)
    kinds = [[_dtype_name(array.dtype), list(array.shape)] for array in arrays]
    text = json.dumps({"tree": tree, "arrays": kinds}).encode()
    return b"".join([len(text).to_bytes(HEAD), text, *(array.tobytes() for array in arrays)])


def unpack(data):
    """The value that `pack` was given.

    Raises:
        ValueError: for bytes that `pack` hasn't written.
    """
    end = HEAD + int.from_bytes(data[:HEAD])
    try:
        head, arrays = json.loads(data[HEAD:end]), []
        for name, shape in head["arrays"]:
            dtype = np.dtype(name)
            if dtype.hasobject:
                raise ValueError(name)
            size = dtype.itemsize * int(np.prod(shape, dtype="int64"))
            part = data[end : end + size]
            arrays.append(np.frombuffer(part, dtype).reshape(shape).copy())
            end += size
        if end != len(data):
            raise ValueError(end)
        return _value(head["tree"], arrays)
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError("A message of another process can't be read.") from error


def _tree(value, arrays):
    """`value` in the types of JSON; what isn't plain is a list that begins with its kind."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, *(_tree(each, arrays) for each in value)]
    if isinstance(value, dict):
        return ["dict", *([_tree(k, arrays), _tree(v, arrays)] for k, v in value.items())]
    if isinstance(value, bytes):
        arrays.append(np.frombuffer(value, "uint8"))
        return ["bytes", len(arrays) - 1]
    if isinstance(value, np.generic) or hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind in REAL or _is_extension(array.dtype):
            arrays.append(array)
            return ["scalar" if isinstance(value, np.generic) else "array", len(arrays) - 1]
    raise TypeError(
        "Processes send each other numbers, texts, arrays, and lists, tuples and dicts of those. "
        f"Received: a {type(value).__name__}."
    )


def _value(tree, arrays):
    if not isinstance(tree, list):
        return tree
    kind, *rest = tree
    if kind == "list":
        return [_value(each, arrays) for each in rest]
    if kind == "tuple":
        return tuple(_value(each, arrays) for each in rest)
    if kind == "dict":
        return {_value(key, arrays): _value(value, arrays) for key, value in rest}
    array = arrays[rest[0]]
    if kind == "bytes":
        return array.tobytes()
    if kind == "scalar":
        return array[()]
    if kind == "array":
        return array
    raise ValueError(kind)


def _is_extension(dtype):
    """Whether it is a type such as bfloat16, which NumPy knows by its name."""
    try:
        return not (dtype.hasobject or dtype.names) and np.dtype(dtype.name) == dtype
    except TypeError:
        return False


def _dtype_name(dtype):
    return dtype.str if dtype.kind in REAL else dtype.name


# Errors


def pack_error(error):
    name = type(error).__name__
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    try:
        arguments = pack(error.args)
    except TypeError:
        arguments = pack((str(error),))
    nearest = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    kind = nearest.__name__
    return pack({"kind": kind, "name": name, "text": str(error), "args": arguments, "notes": notes})


def unpack_error(data):
    """The exception that `pack_error` was given, or one of a kind of Python's own that says it."""
    found = unpack(data)
    kind = getattr(builtins, found["kind"], None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or kind is Exception:
        error = RuntimeError(f"{found['name']}: {found['text']}")
    else:
        error = _remade(kind, unpack(found["args"]), found["text"])
    for note in found["notes"]:
        error.add_note(note)
    return error


def _remade(kind, arguments, text):
    for given in (arguments, (text,)):
        try:
            error = kind(*given)
            if str(error) == text:
                return error
        except Exception:  # some kinds take other arguments than they keep
            continue
    return RuntimeError(f"{kind.__name__}: {text}")
