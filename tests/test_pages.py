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


@pytest.mark.parametrize("text", ["and then...", "as follows,", "on and on…"])
def test_a_broken_off_sentence_is_seen(text):
    assert breaks_off(text)
