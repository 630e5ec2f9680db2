"""Keras's private names: each is there, and each stands in one folder alone."""

import ast
import importlib.util
import inspect
import re
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "artifex_keras"
FOLDER = PACKAGE / "backend" / "keras_internals"
BACKEND = keras.config.backend()


def by_its_path():
    """The folder as a package of its own: it says what is missing where ours can't start."""
    name = "keras_internals_alone"
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


internals = by_its_path()


# What the installed Keras has


def specimens():
    """One object of each kind that a name may belong to."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 2)), np.zeros((2, 1)), verbose=0)
    averaging = keras.optimizers.Adam(use_ema=True)
    averaging.build(model.trainable_variables)
    return {
        "model": model,
        "functional": keras.Model(model.inputs, model.outputs),
        "layer": model.layers[0],
        "variable": model.trainable_variables[0],
        "tensor": model.outputs[0],
        "operation": model.layers[0],
        "optimizer": model.optimizer,
        "adam": model.optimizer,
        "averaging optimizer": averaging,
        "iterator": iterator_of_keras(),
        "array adapter": internals.data_adapter(np.zeros((2, 2))),
        "grain adapter": grain_adapter(),
        "loader adapter": loader_adapter(),
        "metric": keras.metrics.BinaryAccuracy(),
        "callback": keras.callbacks.Callback(),
    }


def grain_adapter():
    if importlib.util.find_spec("grain") is None:
        return None
    import grain

    return internals.data_adapter(grain.MapDataset.source(np.zeros((2, 2))).batch(2))


def loader_adapter():
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return internals.data_adapter(torch.utils.data.DataLoader(torch.zeros((2, 2))))


def iterator_of_keras():
    if BACKEND == "tensorflow":
        import tensorflow as tf
        from keras.src.backend.tensorflow.trainer import TFEpochIterator

        return TFEpochIterator(tf.distribute.get_strategy(), np.zeros((2, 2)))
    return importlib.import_module("keras.src.trainers.epoch_iterator").EpochIterator(
        np.zeros((2, 2))
    )


def missing(used, objects):
    """The names that aren't there, with where they were looked for."""
    for where, names in used.items():
        backend, _, kind = where.rpartition(" ")
        if backend not in ("jax", "tensorflow", "torch"):
            backend, kind = "", where
        if backend not in ("", BACKEND):
            continue
        if kind == "evaluate":
            found = names_in(keras.Model.evaluate)
            yield from (f"evaluate({name}=...)" for name in names if name not in found)
        elif kind == "keras_hub":
            if importlib.util.find_spec("keras_hub") is not None and BACKEND == "jax":
                from keras_hub.models import GPT2CausalLM

                yield from (f"{kind}: {n}" for n in names if not hasattr(GPT2CausalLM, n))
        elif kind.startswith("keras.src"):
            try:
                module = importlib.import_module(kind)
            except ImportError:
                yield kind
                continue
            yield from (f"{kind}.{name}" for name in names if not hasattr(module, name))
        elif (thing := objects[kind]) is not None:
            yield from (f"{kind} ({type(thing).__name__}): {n}" for n in names if not has(thing, n))


def names_in(function):
    """The names that the code of a function looks up, and its texts; those inside it included."""
    code = function if isinstance(function, types.CodeType) else inspect.unwrap(function).__code__
    found = {*code.co_names, *(text for text in code.co_consts if isinstance(text, str))}
    inside = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return found.union(*map(names_in, inside))


def has(thing, name):
    try:
        return hasattr(thing, name)
    except Exception:  # a property that fails is there
        return True


def overridden():
    names = {}
    for name, (where, _) in internals.OVERRIDDEN.items():
        names.setdefault(where, []).append(name)
    return names


def test_the_installed_keras_has_every_name_that_is_used():
    lacking = list(missing(internals.USED, specimens()))
    assert not lacking, f"Keras {keras.__version__} lacks:\n" + "\n".join(lacking)


def test_the_installed_keras_has_every_method_that_is_overridden():
    lacking = list(missing(overridden(), specimens()))
    assert not lacking, f"Keras {keras.__version__} lacks:\n" + "\n".join(lacking)


def test_a_name_that_is_gone_is_listed():
    objects = specimens()
    assert list(missing({"layer": ["_tracker", "_no_such_name"]}, objects)) == [
        "layer (Dense): _no_such_name"
    ]
    assert list(missing({"keras.src.no_such_module": ["x"]}, objects)) == [
        "keras.src.no_such_module"
    ]
    assert list(missing({"evaluate": ["_no_such_argument"]}, objects)) == [
        "evaluate(_no_such_argument=...)"
    ]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_every_name_in_a_file_is_in_the_lists(file):
    """Or the first two tests would pass over it."""
    listed = set(internals.OVERRIDDEN).union(*internals.USED.values())
    found = {
        node.attr
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and is_private(node.attr)
    }
    assert found <= listed


# Where private names stand

# Underscores that aren't secrets: `NamedTuple` and the standard library have them.
PUBLIC = {"_asdict", "_fields", "_replace", "_make", "_exit", "_getframe"}
# One of argparse's, for the nearest name of an option that doesn't exist.
NEIGHBOURS = {"_current_frames", "_option_string_actions"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def private_names_of_keras():
    root = Path(keras.__file__).parent / "src"
    pattern = re.compile(r"(?:\.|\bdef |\bclass )(_[a-zA-Z]\w*)")
    names = set()
    for path in root.rglob("*.py"):
        if not path.name.endswith("_test.py"):
            names.update(pattern.findall(path.read_text()))
    return names


KERAS = private_names_of_keras()


def owned(tree):
    """The private names that a file defines: functions, classes, and attributes of `self`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if own or node.attr not in KERAS:
                names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if is_private(name)}


SOURCES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != FOLDER
}
OURS = set().union(*(owned(ast.parse(source)) for source in SOURCES.values()))


def foreign(file, source):
    """Where a file says `keras.src` or a private name that isn't the package's, a line each."""
    tree = ast.parse(source)
    here = owned(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras.src"):
            yield f"{file}:{node.lineno} imports {node.module}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("keras.src"):
                    yield f"{file}:{node.lineno} imports {alias.name}"
        elif isinstance(node, ast.Attribute):
            if node.attr == "src" and getattr(node.value, "id", None) == "keras":
                yield f"{file}:{node.lineno} says keras.src"
            if is_private(node.attr) and not ours(node.attr, here):
                yield f"{file}:{node.lineno} says {node.attr}"
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", None))
            if called in ("getattr", "hasattr", "setattr", "__setattr__", "get"):
                texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
                for text in filter(listed().__contains__, texts):
                    yield f"{file}:{node.lineno} says {text!r}"


def ours(name, here):
    if name in here or name in NEIGHBOURS or name in internals.OVERRIDDEN:
        return True
    return name in OURS and name not in KERAS


def listed():
    return set().union(*internals.USED.values())


@pytest.mark.parametrize("file", SOURCES)
def test_private_names_of_keras_stand_behind_the_door(file):
    assert list(foreign(file, SOURCES[file])) == []


@pytest.mark.parametrize(
    "source",
    [
        "from keras.src import backend",
        "import keras.src.utils",
        "import keras\nkeras.src.backend",
        "layer._tracker.unlock()",
        "class Mine(keras.Model):\n    def f(self):\n        self._lock_state()",
        "getattr(model, '_jax_state', None)",
        "optimizer._learning_rate = 3",
    ],
)
def test_a_private_name_is_found(source):
    assert len(list(foreign("models/vae.py", source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "class Mine:\n    def __init__(self):\n        self._rows = 3\n        print(self._rows)",
        "import os\nos._exit(1)",
        "point._replace(x=1)",
        "class Mine(keras.optimizers.Adam):\n    def _apply_weight_decay(self, v): pass",
    ],
)
def test_own_names_pass(source):
    assert list(foreign("models/vae.py", source)) == []


def test_every_overridden_method_of_keras_is_listed():
    """What a class of ours defines and its base class of Keras's has is called by Keras."""
    import pkgutil

    import artifex_keras

    for module in pkgutil.walk_packages(artifex_keras.__path__, "artifex_keras."):
        parts = set(module.name.split("."))
        if parts & ({"__main__", "jax", "tensorflow", "torch", "lowering"} - {BACKEND}):
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and kind.__module__ == module.name:
                assert set(replaced(kind)) <= set(internals.OVERRIDDEN), kind


def replaced(kind):
    """The private methods of a class that a base class of Keras's has as well."""
    bases = [base for base in kind.__mro__[1:] if base.__module__.startswith("keras.")]
    for name in vars(kind):
        if is_private(name) and name != "_abc_impl" and any(name in vars(b) for b in bases):
            yield name


# What newer versions of Keras do otherwise


@pytest.mark.parametrize(
    ("get_jax_iterator", "answer"),
    [(lambda self: None, False), (lambda self, super_batch=None: None, True)],
)
def test_whether_keras_stacks_batches_is_seen_by_what_is_there(
    monkeypatch, get_jax_iterator, answer
):
    adapter = type("DataAdapter", (), {"get_jax_iterator": get_jax_iterator})
    monkeypatch.setattr(internals.data, "data_adapter_class", lambda: adapter)
    assert internals.stacks_batches() is answer
