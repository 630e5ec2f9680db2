"""Every block of Python on the site's pages runs as it stands, alone, in an empty folder.

The examples in docstrings, which the reference shows too, are those of `test_examples`.
"""

import re
from pathlib import Path

import keras
import pytest

import artifex_keras as ak

if keras.config.backend() != "jax":
    pytest.skip("the pages' examples run on JAX", allow_module_level=True)

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [DOCS / "index.md", *sorted(DOCS.glob("guides/*.md")), *sorted(DOCS.glob("reference/*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
]


def test_there_are_blocks():
    assert len(BLOCKS) > 8


def public():
    """The public classes and functions of the packages that a user calls, by full name."""
    parts = ("models", "trainers", "rl", "callbacks", "optimizers", "schedulers", "networks")
    for part in (*parts, "datasets", "metrics", "distributed", "planning"):
        package = getattr(ak, part)
        for thing in (getattr(package, name) for name in package.__all__):
            ours = str(getattr(thing, "__module__", "")).startswith("artifex_keras")
            if ours and callable(thing) and hasattr(thing, "__qualname__"):
                yield f"{thing.__module__}.{thing.__qualname__}"


INSIDE = ("Batch", "GenerativeModel", "Target", "Chip", "Plan", "Metric")  # not called by users


def test_all_that_is_public_stands_on_a_page():
    shown = set(re.findall(r"^::: (\S+)", "".join(p.read_text() for p in PAGES), re.MULTILINE))
    missing = {name for name in public() if name.rpartition(".")[2] not in INSIDE} - shown
    assert not missing, "Give each a line `::: name` on a page of docs/reference."


@pytest.mark.site
@pytest.mark.parametrize("block", BLOCKS)
def test_the_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "<block>", "exec"), {"__name__": "block"})
