"""The map of docs/ARCHITECTURE.md names every file of the package."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "artifex_keras"


def test_every_file_is_on_the_map():
    named = set(
        re.findall(r"([\w.]+\.py)`", (ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8"))
    )
    files = (file for file in PACKAGE.rglob("*.py") if file.name != "__init__.py")
    missing = [str(file.relative_to(PACKAGE)) for file in files if file.name not in named]
    assert not missing, f"Add them to the rows of their rooms: {missing}."
