"""Imports go downwards only, and a framework is imported behind the seam alone."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "artifex_keras"

# From what a person runs down to what everything needs. A part imports itself and rows below it.
ROWS = (
    {"cli", "__main__", "shell"},
    {"trainers", "config", "extending"},
    {"planning"},
    {"models", "rl", "callbacks", "optimizers", "distributed", "tracking", "sharing"},
    {"networks", "samplers", "objectives", "schedulers", "datasets", "pictures", "metrics"},
    {"gradient_accumulation", "mixed_precision"},
    {"backend"},
    {"trust"},
    {"columns"},
    {"attributes"},
    {"arguments", "renamed", "atomic", "folder_lock", "utils", "default_backend", "endings"}
    | {"aliases", "remote_lock"},
    {"remote"},
)
BESIDE = {  # arrows along a row
    ("rl", "models"),
    ("models", "optimizers"),
    ("trainers", "config"),
    ("networks", "objectives"),
    ("samplers", "objectives"),
    ("folder_lock", "atomic"),
    ("remote_lock", "folder_lock"),
}
ALONE = {  # know Keras, and of ours nothing but this
    "callbacks": {
        "backend",
        "metrics",
        "pictures",
        "tracking",
        "aliases",
        "arguments",
        "atomic",
        "attributes",
        "folder_lock",
        "remote",
        "remote_lock",
        "renamed",
        "trust",
        "utils",
    },
    "objectives": {"arguments"},
}

FRAMEWORKS = {"jax", "jaxlib", "optax", "tensorflow", "torch"}
# What these wrap is the framework's, whatever the backend: its optimizers, its data pipelines.
AT_THE_EDGE = {
    "optimizers/optax_wrappers.py": "optax",
    "datasets/augmentation.py": "tensorflow",
}
# Imported with the package; everything else is imported where it is used.
AT_IMPORT = {"keras", "numpy", "artifex_keras", *sys.stdlib_module_names}

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path.parent.name or path.stem != "__init__"]


def part(file):
    """The room of the house that a file stands in: a folder, or a module beside them."""
    return file.parts[0] if file.parent.name else file.stem


def row(name):
    return next(depth for depth, names in enumerate(ROWS) if name in names)


def imports(file, source):
    """(module, line, whether at import time) of each import in `source`, lazy ones included."""

    def visit(node, eager):
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            for module in imported_by(file, child):
                yield module, child.lineno, eager and not lazy
            yield from visit(child, eager and not lazy)

    return visit(ast.parse(source), True)


def imported_by(file, node):
    """The absolute names of the modules that one node of the syntax tree imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = ["artifex_keras", *file.parent.parts]
        above = above[: len(above) + 1 - node.level] if node.level else []
        base = ".".join([*above, *filter(None, [node.module])])
        return [f"{base}.{alias.name}" for alias in node.names]
    called = getattr(node, "func", None)
    if getattr(called, "id", getattr(called, "attr", None)) in {"import_module", "optional"}:
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
    return []


def faults(file, source):
    """What is wrong with the imports of one file, a line each."""
    here = part(file)
    for module, line, eager in imports(file, source):
        where = f"{file}:{line} imports {module}"
        package, _, inside = module.partition(".")
        if package == "artifex_keras" and not downwards(here, inside.partition(".")[0]):
            yield f"{where}: not below {here}/"
        if package in FRAMEWORKS and not framework_belongs(file, package):
            yield f"{where}: frameworks stay behind backend/"
        elif eager and package not in AT_IMPORT and here != "backend":
            yield f"{where}: import it in the function that uses it"


def downwards(here, there):
    if there == here or (here, there) in BESIDE:
        return True
    if here in ALONE:
        return there in ALONE[here]
    return here in ROWS[0] or any(there in names for names in ROWS[row(here) + 1 :])


def framework_belongs(file, package):
    if file.as_posix() in AT_THE_EDGE:
        return package == AT_THE_EDGE[file.as_posix()]
    folder = file.parts[1] if part(file) == "backend" else None
    return package in {folder, f"{folder}lib"}


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_imports_go_downwards(file):
    assert list(faults(file, (PACKAGE / file).read_text())) == []


def test_every_part_has_a_row():
    known = set().union(*ROWS)
    assert {part(file) for file in MODULES} <= known


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("objectives/elbo.py", "from artifex_keras.backend import value_and_grad"),
        ("models/vae.py", "from artifex_keras import config"),
        ("models/vae.py", "from ..trainers.trainer import Trainer"),
        ("models/gan.py", "def f():\n    from artifex_keras.rl import ppo"),
        ("networks/mlp.py", "def f():\n    import jax.numpy as jnp"),
        ("backend/jax/step.py", "import torch"),
        ("optimizers/factory.py", "import importlib\nimportlib.import_module('optax')"),
        ("optimizers/optax_wrappers.py", "import optax"),
        ("callbacks/base.py", "from artifex_keras import VAE"),
        ("cli.py", "import matplotlib.pyplot as plt"),
        ("tracking/run.py", "try:\n    import wandb\nexcept ImportError:\n    wandb = None"),
        ("utils.py", "from .backend import TrainStep"),
    ],
)
def test_a_wrong_import_is_found(file, source):
    assert len(list(faults(Path(file), source))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("rl/ppo.py", "from artifex_keras.models.base import GenerativeModel"),
        ("models/vae.py", "import keras\nfrom artifex_keras.objectives import elbo"),
        ("models/vae.py", "from . import base\nfrom ..utils import lookup"),
        ("backend/jax/step.py", "import jax\nfrom jax import numpy as jnp"),
        ("cli.py", "def plot():\n    import matplotlib.pyplot as plt\n    import artifex_keras"),
        ("optimizers/optax_wrappers.py", "def f():\n    import optax"),
    ],
)
def test_a_right_import_passes(file, source):
    assert list(faults(Path(file), source)) == []


def asks_for_the_backend(source):
    """The lines that ask Keras which framework runs."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == "backend":
            if ast.unparse(node) in ("keras.config.backend", "keras.backend.backend"):
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module in ("keras.config", "keras.backend"):
            yield from (node.lineno for alias in node.names if alias.name == "backend")


@pytest.mark.parametrize("file", [path for path in MODULES if part(path) != "backend"], ids=str)
def test_which_framework_runs_is_asked_in_backend_alone(file):
    """Elsewhere it is `backend.name()`, or better a function of the seam that differs."""
    assert list(asks_for_the_backend((PACKAGE / file).read_text())) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("keras.config.backend() == 'jax'", 1),
        ("keras.backend.backend()", 1),
        ("from keras.config import backend", 1),
        ("backend.name() == 'jax'", 0),
        ("keras.backend.standardize_dtype('float32')", 0),
    ],
)
def test_asking_for_the_framework_is_found(source, count):
    assert len(list(asks_for_the_backend(source))) == count


def graph():
    """The modules that each module imports, lazily or not, by their files."""
    modules = {}
    for file in FILES:
        names = file.parent.parts if file.stem == "__init__" else (*file.parent.parts, file.stem)
        modules[".".join(["artifex_keras", *names])] = file
    edges = {}
    for name, file in modules.items():
        found = set()
        for module, _, _ in imports(file, (PACKAGE / file).read_text()):
            target = module if module in modules else module.rpartition(".")[0]
            if target in modules and target != name:
                found.add(target)
        edges[name] = found - {"artifex_keras"}
    return edges


def circle(edges):
    """A list of modules each of which imports the next, the last one the first; None without."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return None
        path.append(name)
        for other in sorted(edges[name]):
            found = visit(other)
            if found:
                return found
        done.add(path.pop())
        return None

    return next(filter(None, map(visit, sorted(edges))), None)


def test_no_module_imports_itself_through_others():
    assert circle(graph()) is None


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
