"""Each message that docs/guides/troubleshooting.md quotes stands in the source, word for word."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
GAP = "\0"  # in a text of the source: a value that differs from case to case
ROW = re.compile(r"^\| (.+?) \|", re.MULTILINE)
QUOTED = [row for row in ROW.findall(PAGE) if row != "message"]


def text(node):
    """The text of a string in the source, with gaps for what it is filled with; None of others."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part) or GAP for part in node.values)
    return None


def texts():
    """All strings of the package. A part of an f-string may stand for a message's beginning."""
    for path in sorted((ROOT / "artifex_keras").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (found := text(node)) is not None:
                yield found


TEXTS = list(dict.fromkeys(texts()))


def stands(message):
    """Whether a text of the source has the quoted message; `...` is a gap with words around it."""
    parts = [part for part in re.split(r"\s*\.\.\.\s*", message) if part]
    pattern = re.compile(r"[^\n]{0,80}?".join(map(re.escape, parts)))
    return any(max(parts, key=len) in found and pattern.search(found) for found in TEXTS)


def test_each_message_is_in_the_source():
    assert len(QUOTED) > 180
    gone = [message for message in QUOTED if not stands(message)]
    assert not gone, "Quote them as they are now, or take their rows out."
