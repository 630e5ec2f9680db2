"""Every block of Python on the site's pages runs unchanged, alone, in an empty folder.

On the page of papers the blocks under one heading run together, after those of its introduction.
The examples in docstrings, which the reference shows too, are those of `test_examples`.
"""

import re
from pathlib import Path

import keras
import pytest
from test_import import DOCUMENTED

import artifex_keras as ak

if keras.config.backend() != "jax":
    pytest.skip("the pages' examples run on JAX", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [DOCS / "index.md", *sorted(DOCS.glob("guides/*.md")), *sorted(DOCS.glob("reference/*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
]

PAPERS = (DOCS / "papers.md").read_text(encoding="utf-8")
INTRODUCTION, *GROUPS = re.split(r"^## ", PAPERS, flags=re.MULTILINE)
NUMBER = re.compile(r"(?<![\d.])[012]\d{3}\.\d{4,5}(?![\d.])")  # of arXiv
# What a stranger copies first: the README's first block.
README = (DOCS.parent / "README.md").read_text(encoding="utf-8")
BLOCKS.append(pytest.param(BLOCK.search(README)[1], id="README"))


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


def test_each_documented_module_has_a_page():
    names = {name.rpartition(".")[2] for name in DOCUMENTED} - {"arguments"}
    assert not names - {page.stem for page in DOCS.glob("reference/*.md")}


@pytest.mark.site
@pytest.mark.parametrize("block", BLOCKS)
def test_the_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "import keras_tuner" in block:
        pytest.importorskip("keras_tuner")
    exec(compile(block, "<block>", "exec"), {"__name__": "block"})


@pytest.mark.site
@pytest.mark.parametrize("group", [pytest.param(g, id=g.partition("\n")[0]) for g in GROUPS])
def test_the_settings_of_papers_run(group, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "block"}
    for block in BLOCK.findall(INTRODUCTION + group):
        exec(compile(block, "<block>", "exec"), names)


def papers():
    """`(title, text)` of each entry of the page of papers."""
    for group in GROUPS:
        for entry in re.split(r"^### ", group, flags=re.MULTILINE)[1:]:
            title, _, text = entry.partition("\n")
            yield title, text


def test_each_paper_has_a_source_and_settings_that_run():
    titles = [title for title, _ in papers()]
    assert len(titles) == len(set(titles)) > 60
    for title, text in papers():
        assert re.search(r"\d{4},\s\[[^]]+\]\(https://", text), f"no year and source: {title}"
        assert BLOCK.search(text), f"no block: {title}"


def test_numbers_and_links_of_papers_agree():
    links = re.findall(r"\[([^]]+)\]\(https://arxiv\.org/abs/([^)]+)\)", PAPERS)
    assert len(links) > 60
    assert all(number == target for number, target in links)


@pytest.mark.site
def test_each_paper_that_the_package_names_is_on_the_page():
    """But for those that a docstring names for a detail: see `DETAILS`."""
    sources = (file.read_text(encoding="utf-8") for file in (ROOT / "artifex_keras").rglob("*.py"))
    named = {number for source in sources for number in NUMBER.findall(source)}
    missing = named - set(NUMBER.findall(PAPERS)) - DETAILS
    assert not missing, "Give each an entry in docs/papers.md."


DETAILS = {
    "1502.01852",  # an initialiser
    "1709.07871",  # FiLM, inside the timed networks
}
