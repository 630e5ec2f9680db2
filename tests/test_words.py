"""Names and sentences use the field's words: what docs/GLOSSARY.md replaces does not come back."""

import ast
import functools
import io
import json
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Names of functions, classes, arguments, variables and attributes, and what to call them.
NAMES = {
    "acting": "policy_model",
    "adopt_average": "load_ema_weights",
    "alone": "single_process, single_device",
    "arrange": "shard",
    "arrangement": "sharding, layout",
    "averaged_weights": "ema_weights",
    "begun": "start_decode",
    "borne": "tolerated",
    "continued": "continue_decode",
    "cut": "shard",
    "drawn": "sampled, generated",
    "going": "keep_updating",
    "held_to": "resolve_reference",
    "instead": "fallbacks",
    "judge": "reward_model, reward_fn",
    "knobs": "trainer_options",
    "lay_out": "shard, assign_layout",
    "made_of": "what the function builds",
    "meet": "build_from_batch",
    "moved": "sync_reference, or the noun",
    "of_the_first": "on_first_process",
    "pace": "updates_per_batch",
    "prepared": "batch, or the noun",
    "refuse": "reject, forbid_arguments",
    "restored": "load, restore",
    "shares": "num_shards",
    "spread": "shard, or the statistic's name",
    "statistics_kept": "frozen_batch_stats",
    "taken": "option_names, accepted_arguments",
    "tell": "report, log",
    "told": "logs, values, reported",
    "whole": "drop_remainder, to_host_array, unsharded",
    "worth": "advantages",
}
# Of these any part of a name counts, as in `told_metrics`.
PARTS = {"acting", "arrange", "arrangement", "borne", "going", "knobs", "refuse", "tell", "told"}

# Docstrings, comments, messages and pages, and what to say.
PHRASES = {
    r"\btold\b": "given, reported, logged",
    r"\btells?\b": "says, reports, shows",
    r"\bas (?:it|they) stands?\b": "unchanged, without a change",
    r"\bgo(?:es)? on on\b": "continues",
    r"\baloud\b": "with a warning, with an error",
    r"\bborne\b": "tolerated",
    r"\bcut (?:over|along|by|into|among)\b": "sharded over, split into",
    r"\b(?:laid|lays?|laying) out\b": "sharded, placed",
    r"\bspread over\b": "sharded over, distributed over",
    r"\bheld to\b": "compared with, kept close to",
    r"\bthat of both\b": "say of which two",
}

# How many faults each part has still. A part that isn't named has none; numbers only shrink.
REMAINING = {
    "backend": 12,
}

SOURCES = sorted((ROOT / "artifex_keras").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def names(source):
    """(name, line) of everything that a source file gives a name to."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield getattr(node, "id", getattr(node, "attr", None)), node.lineno


def texts(source):
    """(text, line) of the strings and comments of a source file."""
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", None)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in kinds:
            yield token.string, token.start[0]


def bad_names(source):
    for name, line in names(source):
        plain = name.strip("_")
        for word in {plain, *PARTS.intersection(plain.lower().split("_"))} & NAMES.keys():
            yield line, f"the name `{name}`: {NAMES[word]}"


def bad_phrases(text, line=1):
    flat = re.sub(r"\s+", " ", text)
    for pattern, better in PHRASES.items():
        for found in re.finditer(pattern, flat, re.IGNORECASE):
            yield line, f"“{found[0]}”: {better}"


def faults(path):
    """What is wrong with the words of a file, (line, text) of each."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from bad_names(text)
        for string, line in texts(text):
            yield from bad_phrases(string, line)
    elif path.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(text)["cells"]):
            if cell["cell_type"] == "markdown":
                yield from bad_phrases("".join(cell["source"]), number)
    else:
        for number, paragraph in enumerate(text.split("\n\n")):
            if "GLOSSARY" not in path.name:
                yield from bad_phrases(paragraph, number)


def part(path):
    """The folder or the file at the top of the package, or beside it, that a file belongs to."""
    inside = path.relative_to(ROOT).parts
    return inside[1] if inside[0] == "artifex_keras" else inside[0]


@functools.cache
def by_part():
    found = {}
    for path in (*SOURCES, *PAGES, *NOTEBOOKS):
        for line, text in faults(path):
            found.setdefault(part(path), []).append(f"{path.relative_to(ROOT)}:{line} {text}")
    return found


@pytest.mark.parametrize("name", sorted({part(p) for p in (*SOURCES, *PAGES, *NOTEBOOKS)}))
def test_words_are_those_of_the_field(name):
    found = by_part().get(name, [])
    assert len(found) <= REMAINING.get(name, 0), "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "def told(x): pass",
        "told_metrics = 1",
        "def f(made_of): pass",
        "self.knobs = ()",
        '"""Weights, cut over the devices."""',
        "x = 1  # as it stands",
        'raise ValueError(f"The dataset doesn\'t tell {x}.")',
    ],
)
def test_a_wrong_word_is_found(source):
    found = [*bad_names(source), *(f for text, _ in texts(source) for f in bad_phrases(text))]
    assert len(found) == 1


@pytest.mark.parametrize("source", ["shown = 1", "totals = 2", '"""A shard of the batch."""'])
def test_a_right_word_passes(source):
    assert not list(bad_names(source))
    assert not [f for text, _ in texts(source) for f in bad_phrases(text)]


if __name__ == "__main__":  # `python tests/test_words.py [part]` lists them
    import sys

    found = by_part()
    for name in sys.argv[1:] or found:
        print(*found.get(name, ()), sep="\n")
    print(Counter({name: len(lines) for name, lines in found.items()}))
