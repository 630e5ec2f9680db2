"""What is published is finished: no placeholder, no broken-off sentence, no noise in outputs."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PLACEHOLDER = re.compile(r"\b(TEXT|TODO|FIXME|XXX|TBD|LOREM|lorem ipsum)\b")
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def breaks_off(text):
    return text.rstrip().endswith(("...", "…", ","))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_finished(path):
    for number, cell in enumerate(cells(path)):
        text = "".join(cell["source"])
        where = f"cell {number}: {text[:60]!r}"
        if cell["cell_type"] == "markdown":
            assert not PLACEHOLDER.search(text), where
            assert text.strip() and not breaks_off(text), where
            continue
        assert cell["execution_count"], f"not executed: {where}"
        for output in cell["outputs"]:
            assert output.get("name") != "stderr", where
            assert output["output_type"] != "error", where
            assert "Traceback (most recent call last)" not in str(output), where


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_is_finished_and_its_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    assert not PLACEHOLDER.search(text)
    for target in LINK.findall(text):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


FILE = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/?)`")
STOP = re.compile(r"^\| `([\w/]+\.py)` \| `(\w+)` \|", re.MULTILINE)
MAPS = [ROOT / "docs" / f"{name}.md" for name in ("ARCHITECTURE", "CONTRIBUTING", "GLOSSARY")]


def is_there(name):
    return any((folder / name).exists() for folder in (ROOT, ROOT / "artifex_keras"))


@pytest.mark.parametrize("path", MAPS, ids=lambda path: path.stem)
def test_the_files_that_a_map_names_are_there(path):
    named = {name for name in FILE.findall(path.read_text(encoding="utf-8")) if "/" in name}
    assert len(named) >= 15
    assert not sorted(name for name in named if not is_there(name))


def test_the_stops_of_the_journeys_are_there():
    stops = STOP.findall((ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert len(stops) > 35
    for file, name in stops:
        source = (ROOT / "artifex_keras" / file).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(def|class) {name}\b", source, re.MULTILINE), f"{file}: {name}"


@pytest.mark.parametrize("text", ["and then...", "as follows,", "on and on…"])
def test_a_broken_off_sentence_is_seen(text):
    assert breaks_off(text)
