"""What processes send each other is data, and comes back as it was."""

import ast
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest

import artifex_keras
from artifex_keras.backend.messages import pack, pack_error, unpack, unpack_error
from artifex_keras.folder_lock import FolderInUse

PACKAGE = Path(artifex_keras.__file__).parent
VALUES = [
    None,
    True,
    -(2**70),
    0.1,
    math.inf,
    "\ud800 \n ü",
    b"\0\xff",
    [],
    (1, [2, (3,)]),
    {"a": 1, 2: None, ("x", 1): [b""]},
    ["list", "tuple", ["dict"]],
]
ARRAYS = [
    np.float32(0.1),
    np.array([True, False]),
    np.array(["a", "bcd"]),
    np.array([b"a", b"bcd"]),
    np.zeros((2, 0, 3), "int8"),
    np.arange(6.0).reshape(2, 3).T,
    np.array([1, 2], ">i4"),
    np.array([1 + 2j]),
    np.array(["2026-01-01"], "datetime64[D]"),
    np.array(3),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back(value):
    found = unpack(pack(value))
    assert found == value and type(found) is type(value)


def test_nan_is_nan():
    assert math.isnan(unpack(pack({"a": [math.nan]}))["a"][0])


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_an_array_comes_back(array):
    found = unpack(pack([{"a": array}]))[0]["a"]
    assert type(found) is type(array) and found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    if isinstance(found, np.ndarray):
        assert found.flags.writeable


@pytest.mark.backends("jax")
def test_bfloat16_and_tensors_come_back_as_arrays():
    tensor = keras.ops.cast([1.5, -2.0], "bfloat16")
    found = unpack(pack(tensor))
    assert isinstance(found, np.ndarray) and found.dtype.name == "bfloat16"
    assert found.astype("float32").tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    "value", [object(), np.array([{}]), np.array([None]), len, Path("a"), {1, 2}, [object()]]
)
def test_objects_are_not_sent(value):
    with pytest.raises(TypeError, match="Processes send each other numbers"):
        pack(value)


def test_damaged_messages_are_one_error():
    message = pack({"a": np.arange(3), "b": [1, (2,)]})
    damaged = [b"", b"\0" * 8, b"\xff" * 40, message[:-1], message + b"x", b"[]" + message]
    damaged += [message.replace(b"<i8", b"|O8"), message.replace(b"[3]", b"[9]")]
    damaged += [message.replace(b'"array"', b'"other"'), message.replace(b"[3]", b"-99")]
    for kinds in (
        [["f4", [2**70]]],
        [["S0", [2**40]]],
        [["V0", [2**62]]],
        [["f4", "12"]],
        [["(", [1]]],
    ):
        text = json.dumps({"tree": ["array", 0], "arrays": kinds}).encode()
        damaged.append(len(text).to_bytes(8) + text)
    for each in damaged:
        with pytest.raises(ValueError, match="can't be read"):
            unpack(each)


class Own(LookupError):
    """An error of a user."""


class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


ERRORS = [
    (ValueError("a"), ValueError, "a"),
    (KeyError("a"), KeyError, "'a'"),
    (IndexError("pop from empty list"), IndexError, "pop from empty list"),
    (OSError(28, "No space", "a.npy"), OSError, "[Errno 28] No space: 'a.npy'"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), UnicodeDecodeError, None),
    (ConnectionError("unreachable"), ConnectionError, "unreachable"),
    (FolderInUse("by process 7"), ValueError, "by process 7"),
    (Own("x"), LookupError, "x"),
    (Odd(1, 2), RuntimeError, "Odd: 1 and 2"),
    (ValueError(object), ValueError, "<class 'object'>"),
]


@pytest.mark.parametrize(("error", "kind", "text"), ERRORS, ids=lambda each: str(each)[:30])
def test_an_error_says_the_same_elsewhere(error, kind, text):
    error.add_note("The reward 'x' raised it.")
    found = unpack_error(pack_error(error))
    assert type(found) is kind and str(found) == (str(error) if text is None else text)
    assert found.__notes__ == ["The reward 'x' raised it."]


@pytest.mark.parametrize("kind", ["exec", "SystemExit", "print", "object", "no such"])
def test_a_message_names_no_other_thing_of_python(kind):
    message = pack({"kind": kind, "name": "x", "text": "y", "args": pack(("1",)), "notes": []})
    assert str(unpack_error(message)) == "x: y"


# In the whole package

RUNS_CODE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
CALLS = {"eval", "exec", "compile_command"}
LOADS = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load")}


def code_out_of_data(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in RUNS_CODE)
        elif isinstance(node, ast.ImportFrom) and node.module in RUNS_CODE:
            yield node.module
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS or tuple(name.split(".")) in LOADS:
                yield name
            for keyword in node.keywords:
                allows = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                if keyword.arg == "allow_pickle" and allows:
                    yield "allow_pickle"


def test_nothing_unpickles_or_evaluates():
    found = {
        path.relative_to(PACKAGE).as_posix(): calls
        for path in PACKAGE.rglob("*.py")
        if (calls := list(code_out_of_data(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert found == {"trust/notation.py": ["yaml.load"]}  # by a loader of plain values


def test_what_would_is_found():
    source = "import pickle\nfrom marshal import loads\neval('1')\nyaml.load(x)\n"
    source += "np.load(x, allow_pickle=True)\nnp.load(x, allow_pickle=False)"
    found = sorted(code_out_of_data(ast.parse(source)))
    assert found == ["allow_pickle", "eval", "marshal", "pickle", "yaml.load"]
