"""The extras that notebooks, pages and messages name are those of `pyproject.toml`."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = sorted((ROOT / "artifex_keras").rglob("*.py"))
NAMED = re.compile(r"artifex-keras\[([a-z, ]+)\]")
ASKED = re.compile(r"""optional\(\s*"[\w.]+",\s*"(\w+)"\s*\)""")


def project():
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]


def extras():
    return set(project()["optional-dependencies"])


def named_in(text):
    return {name.strip() for group in NAMED.findall(text) for name in group.split(",")}


def cells(notebook):
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_install_extras_that_there_are(notebook):
    assert named_in("\n".join(cells(notebook))) <= extras()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_first_cell_installs_the_package_from_its_address(notebook):
    """What it installs is what `pyproject.toml` says: name, address, and no older Keras."""
    first = next(source for source in cells(notebook) if "%pip install" in source)
    asked = re.findall(r'"([^"]+)"', re.search(r"%pip install (.*)", first).group(1))
    name, _, address = next(each for each in asked if " @ " in each).partition(" @ ")
    assert name.partition("[")[0] == project()["name"]
    assert address == f"git+{project()['urls']['Repository']}"
    assert next(each for each in asked if each.startswith("keras")) in project()["dependencies"]
    assert "can't be reached" in first
    ast.parse(re.sub(r"^(\s*)%.*", r"\1pass", first, flags=re.MULTILINE))


def test_notebooks_name_the_package_in_their_first_code():
    """Where it is installed at all, so that the check above has something to look at."""
    assert sum("artifex-keras" in "".join(cells(notebook)[:3]) for notebook in NOTEBOOKS) >= 5


def test_pages_and_messages_name_extras_that_there_are():
    pages = set().union(*(named_in(path.read_text(encoding="utf-8")) for path in PAGES))
    code = set().union(*(set(ASKED.findall(path.read_text(encoding="utf-8"))) for path in CODE))
    assert {"tables", "tensorflow"} <= code and pages | code <= extras()


@pytest.mark.parametrize("text", ["artifex-keras[checkpoint]", "artifex-keras[text, chekpoint]"])
def test_an_extra_that_there_is_not_is_found(text):
    assert not named_in(f'%pip install "{text} @ git+https://example.org"') <= extras()
