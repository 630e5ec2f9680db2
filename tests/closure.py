"""What a test or a notebook runs of our code: so that it is run again when that has changed.

Imports are followed name by name: who takes `VAE` from a package takes the module that defines it,
not all that the package holds.
"""

import ast
import functools
import hashlib
import importlib.metadata
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "artifex_keras"
# Read with whatever else is: the seam chooses its modules by the backend's name.
ALWAYS = sorted((ROOT / PACKAGE / "backend").rglob("*.py"))


def digest(path):
    """A digest of `path`, of all that it reaches, and of the versions of Keras and JAX."""
    total = hashlib.sha256()
    for name in ("keras", "jax"):
        total.update(importlib.metadata.version(name).encode())
    for file in reached(path):
        total.update(str(file.relative_to(ROOT)).encode() + code(file).encode())
    return total.hexdigest()[:16]


@functools.cache
def reached(path):
    """The files of ours that the code in `path` leads to, `path` among them, sorted."""
    found, left = set(), [path, *ALWAYS]
    while left:
        file = left.pop()
        if file not in found:
            found.add(file)
            left += used(file)
    return sorted(found)


@functools.cache
def code(path):
    """The text of a module, the code cells of a notebook."""
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n".join(
        "".join(line if not line.lstrip().startswith(("!", "%")) else "\n" for line in c["source"])
        for c in cells
        if c["cell_type"] == "code"
    )


@functools.cache
def used(path):
    """The files whose names stand in the code of `path`."""
    tree = ast.parse(code(path))
    bound = {}  # names that stand for a package of ours
    files = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    bound[alias.asname or PACKAGE] = alias.name if alias.asname else PACKAGE
                    files += named(alias.name) if "." in alias.name else []
                files += beside(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            files += beside(node.module)
            for alias in node.names if node.module.split(".")[0] == PACKAGE else ():
                whole = f"{node.module}.{alias.name}"
                if folder(whole):
                    bound[alias.asname or alias.name] = whole
                else:
                    files += named(whole)
    spelled, parents = set(), {}
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            parents[child] = node
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in bound:
            name = bound[node.id]
            while folder(name) and isinstance(parents.get(node), ast.Attribute):
                node = parents[node]
                name += f".{node.attr}"
            spelled.add(name)
    for name in spelled:
        files += named(name)
    return tuple(dict.fromkeys(files))


def beside(name):
    """The module of the tests of that name."""
    file = ROOT / "tests" / f"{name}.py"
    return [file] if file.is_file() else []


def folder(name):
    """The folder of a package of ours, None for what isn't one."""
    place = ROOT.joinpath(*name.split("."))
    return place if place.is_dir() else None


def named(name):
    """The files that a dotted name stands for: of a package, if nothing more is said, all."""
    if (place := folder(name)) is not None:
        return sorted(place.rglob("*.py"))
    module = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    if module.is_file():
        return [module]
    parent, _, last = name.rpartition(".")
    if not parent:
        return []
    if folder(parent) is None:
        return named(parent)
    entry = folder(parent) / "__init__.py"
    if not entry.is_file():
        return []
    for node in ast.walk(ast.parse(code(entry))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == last and f"{node.module}.{alias.name}" != name:
                    return named(f"{node.module}.{alias.name}")
    return [entry]
