"""What a test or a notebook runs of our code: so that it is run again when that has changed.

Names are followed one by one: who takes `ak.VAE` takes the module that defines it and what that one
reaches, not all that the package lists. What can't be followed counts as all of the package.
Comments, docstrings and layout are not code.
"""

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "artifex_keras"
EVERYTHING = sorted((ROOT / PACKAGE).rglob("*.py"))
# Runs with the first import, or is chosen by the backend's name.
BACKEND = os.environ.get("KERAS_BACKEND", "jax")
OTHERS = {"jax", "tensorflow", "torch"} - {BACKEND}
ALWAYS = [
    ROOT / PACKAGE / "default_backend.py",
    *(f for f in sorted((ROOT / PACKAGE / "backend").rglob("*.py")) if f.parent.name not in OTHERS),
]
# Import modules by variables, and only those of others.
IMPORT_OTHERS = {
    ROOT / PACKAGE / file
    for file in ("backend/keras_internals/names.py", "callbacks/visualization.py", "utils.py")
}
COMMAND = re.compile(r"^(?!.*pip install).*\bartifex-keras($| +[a-z])", re.M)
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


# ---- digests -------------------------------------------------------------------------------------


@functools.cache
def digest(path, test=None):
    """A digest of `path`, or of one test in it, of all that it reaches, and of the versions."""
    total = hashlib.sha256(".".join([BACKEND, *platform.python_version_tuple()[:2]]).encode())
    for name in dict.fromkeys(["keras", "jax", BACKEND]):
        total.update(importlib.metadata.version(name).encode())
    for file, text in parts(path, test):
        total.update(f"{file.relative_to(ROOT).as_posix()}\n{text}\n".encode())
    return total.hexdigest()[:16]


def parts(path, test=None):
    """(file, what counts of it) of all that `path`, or one test in it, leads to."""
    own = slice_of(path, test)
    roots = {path: own, **{f: slice_of(f, None, asked_for(own)) for f in conftests(path)}}
    files = reached(tuple(ALWAYS), *(names(file, tree) for file, tree in roots.items()))
    counted = {file: tree(file) for file in files} | roots
    for file in entries(counted):
        counted.setdefault(file, own_code(file))
    return [(file, ast.dump(counted[file])) for file in sorted(counted)]


def reached(*groups):
    """The files in `groups` and those that they lead to."""
    found, left = set(), [file for group in groups for file in group]
    while left:
        file = left.pop()
        if file not in found:
            found.add(file)
            left += names(file, tree(file))
    return found


def conftests(path):
    """The files whose fixtures the tests in `path` may ask for."""
    folders = [p for p in path.parents if p == ROOT / "tests" or ROOT / "tests" in p.parents]
    return [f / "conftest.py" for f in folders if (f / "conftest.py").is_file()]


def entries(files):
    """The `__init__` of every package that a file of `files` lies in: they run before it."""
    folders = {p for file in files for p in file.parents if ROOT / PACKAGE in (p, *p.parents)}
    return [f / "__init__.py" for f in folders if (f / "__init__.py").is_file()]


# ---- code ----------------------------------------------------------------------------------------


@functools.cache
def tree(path):
    """The syntax tree of a module, or of a notebook, without docstrings; of data the text."""
    if path.suffix not in (".py", ".ipynb"):
        return ast.Module([ast.Expr(ast.Constant(path.read_text()))], [])
    module = ast.parse(path.read_text() if path.suffix != ".ipynb" else cells_of(path))
    for node in ast.walk(module):
        if isinstance(node, ast.Module | DEFINITIONS) and ast.get_docstring(node) is not None:
            del node.body[0]
    return module


def cells_of(path):
    """The code cells as one text."""
    cells = json.loads(path.read_text())["cells"]
    return "\n".join(map(python_of, (c["source"] for c in cells if c["cell_type"] == "code")))


def python_of(lines):
    """A cell as Python: what is for the shell, a line or all, becomes a call of `shell`."""
    text = "".join(lines)
    if text.startswith("%%") and not text.startswith(("%%writefile", "%%time")):
        return f"shell({text!r})"
    return re.sub(r"^(\s*)([!%].*)$", lambda line: f"{line[1]}shell({line[2]!r})", text, flags=re.M)


def slice_of(path, test, asked=None):
    """`tree(path)` with what one of its tests uses; of a conftest (`test` None), what its fixtures
    use: those of the names in `asked`, and those that run by themselves.

    Of a notebook, or of a file without a test named, everything.
    """
    module = tree(path)
    if test is None and path.name != "conftest.py":
        return module
    kept, left = [], [n for n in module.body if is_root(n, test, read_in(module), asked)]
    while left:
        kept += left
        used = set().union(*map(read_in, left))
        if asked is not None:
            used |= asked_for(ast.Module(left, []))
        left = [n for n in module.body if n not in kept and used.intersection(bound_by(n))]
    return ast.Module([node for node in module.body if node in kept], [])


def is_root(node, test, used, asked=None):
    """Whether a statement of a test file counts for `test`, without that another one names it."""
    names = bound_by(node)
    if test in names or "pytestmark" in names:
        return True
    if isinstance(node, DEFINITIONS):  # fixtures, and what is registered
        marks = " ".join(map(ast.unparse, node.decorator_list))
        if asked is not None and "fixture" in marks and "autouse" not in marks:
            return node.name in asked
        return bool(marks) and not node.name.startswith(("test", "pytest_"))
    return not used.intersection(names)


def asked_for(module):
    """The names by which code may ask for fixtures: arguments, and those in `usefixtures`."""
    arguments = {node.arg for node in ast.walk(module) if isinstance(node, ast.arg)}
    marks = [
        node
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("usefixtures", "value"))
    ]
    texts = (a.value for mark in marks for a in mark.args if isinstance(a, ast.Constant))
    return arguments.union(texts)


def bound_by(node):
    """The names that an import, a definition or an assignment binds."""
    if isinstance(node, DEFINITIONS):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    return [name for name in assigned(node) if name.isidentifier()]


def read_in(node):
    """The names that code reads."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


@functools.cache
def own_code(path):
    """What an `__init__` does besides taking names from elsewhere and listing them."""
    listing = ast.Import | ast.ImportFrom
    rest = [node for node in tree(path).body if not isinstance(node, listing)]
    # What the shell command alone does: notebooks and tests of models don't depend on it.
    rest = [n for n in rest if ast.unparse(getattr(n, "test", n)) != "is_command()"]
    return ast.Module([node for node in rest if "__all__" not in assigned(node)], [])


def assigned(node):
    """The names that a statement assigns to."""
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [ast.unparse(target) for target in targets if target is not None]


# ---- names ---------------------------------------------------------------------------------------


def names(path, module):
    """The files that the names in `module`, the code of `path`, lead to."""
    bound, files = {}, []
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            files += imported(path, node, bound)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            files += quoted(path, node.value)
        elif isinstance(node, ast.List | ast.Tuple):
            files += started(node.elts)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__")
        ):
            files += imported_by_call(path, node)
    for name in attributes(module, bound):
        files += named(name)
    return tuple(dict.fromkeys(files))


def imported(path, node, bound):
    """The files that an import leads to; packages of ours go into `bound` by their names here."""
    files = []
    for alias in node.names:
        if isinstance(node, ast.Import):
            whole, here = alias.name, alias.asname or alias.name.partition(".")[0]
            package = whole if alias.asname else here
        else:
            base = absolute(path, node)
            whole = package = f"{base}.{alias.name}".removesuffix(".*")
            here = alias.asname or alias.name
            files += beside(path, f"{base}.py")
        files += beside(path, f"{whole}.py")
        if not ours(whole):
            continue
        if folder(package):
            bound[here] = package
        if alias.name == "*" or not folder(whole):
            files += named(whole)
    return files


def absolute(path, node):
    """The module that an import takes from, by its whole name."""
    above = path.relative_to(ROOT).parent.parts
    above = above[: len(above) + 1 - node.level] if node.level else ()
    return ".".join([*above, *filter(None, [node.module])])


def attributes(module, bound):
    """The dotted names, from a package of ours on, that stand in the code."""
    parents = {child: node for node in ast.walk(module) for child in ast.iter_child_nodes(node)}
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and node.id in bound:
            name = bound[node.id]
            while folder(name) and isinstance(parents.get(node), ast.Attribute):
                node = parents[node]
                name += f".{node.attr}"
            found.add(name)
    return sorted(found)


def quoted(path, text):
    """The files that a string leads to: a dotted name, a script, a program, a shell's command."""
    if re.fullmatch(r"[\w-]+\.(py|json)", text):
        return beside(path, text)
    if re.fullmatch(rf"{PACKAGE}(\.\w+)+", text):
        return resolved(text)
    if ROOT / PACKAGE not in path.parents and re.search(COMMAND, text):
        return EVERYTHING
    if not re.search(rf"^\s*(import|from) {PACKAGE}", text, re.M):
        return []
    try:
        return names(path, ast.parse(text))
    except SyntaxError:
        return EVERYTHING


def started(items):
    """The files of `python -m name`, where a list holds such a command."""
    values = [getattr(item, "value", None) for item in items]
    return EVERYTHING if ("-m", PACKAGE) in zip(values, values[1:], strict=False) else []


def imported_by_call(path, call):
    """The files of a module imported by its name as a value: where it is a variable, everything."""
    name = ast.unparse(call.args[0]) if call.args else ""
    if path in IMPORT_OTHERS or isinstance(call.args[0], ast.Constant):  # a constant is `quoted`
        return []
    if name.startswith("f'{__name__}."):
        return sorted(path.parent.rglob("*.py"))
    return [] if name.startswith(f"f'{PACKAGE}.backend.") else EVERYTHING


# ---- files ---------------------------------------------------------------------------------------


def ours(name):
    return name.partition(".")[0] == PACKAGE


def beside(path, file):
    """The file of the tests of that name, in the folder of `path` or above all."""
    files = [folder / file for folder in (path.parent, ROOT / "tests")]
    return [file for file in files if file.is_file() and ROOT / "tests" in file.parents]


def folder(name):
    """The folder of a package of ours, None for what isn't one."""
    place = ROOT.joinpath(*name.split("."))
    return place if ours(name) and place.is_dir() else None


def named(name):
    """The files that a dotted name of ours stands for: all of them, if that can't be said."""
    return resolved(name) or ([] if name.rpartition(".")[2].startswith("__") else EVERYTHING)


@functools.cache
def resolved(name):
    """The files that a dotted name of ours stands for: of a package, if no more is said, all."""
    parent, _, last = name.rpartition(".")
    if (place := folder(name)) is not None:
        return sorted(place.rglob("*.py"))
    if not parent:
        return []
    if (module := ROOT.joinpath(*name.split(".")).with_suffix(".py")).is_file():
        return [module, *listed(parent, last)]
    return resolved(parent) if folder(parent) is None else listed(parent, last)


def listed(package, name):
    """The files that give a package's name: from its `__init__`, or from the one at the top."""
    entry, top = folder(package) / "__init__.py", ROOT / PACKAGE / "__init__.py"
    files = []
    for node in tree(entry).body if entry.is_file() else ():
        if isinstance(node, ast.ImportFrom):
            base = absolute(entry, node)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                if alias.name == "*":
                    files += named(f"{base}.{name}") if name in public(base) else []
                elif name == (alias.asname or alias.name) and base != f"{package}.{name}":
                    files += named(whole) if whole != f"{package}.{name}" else []
        elif name in (assigned(node) or [getattr(node, "name", None)]):
            files.append(entry)
    given = f"{package}.{name}".removeprefix(f"{PACKAGE}.")
    for node in tree(top).body if top.is_file() else ():
        if given in assigned(node):
            files += named(f"{PACKAGE}.{ast.unparse(node.value)}")
    return files


def public(package):
    """The names that `from package import *` takes, where they are listed."""
    entry = folder(package) / "__init__.py"
    lists = [node.value for node in tree(entry).body if "__all__" in assigned(node)]
    return ast.literal_eval(lists[0]) if lists else ()
