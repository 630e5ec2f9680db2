"""The examples of docs/examples run on this backend at a small setting, and reach a number.

A bound lies between the number that the trained model reaches and that of a model that has learned
nothing, or too little, which the comment says.
"""

import ast
import io
import re
import runpy
import tokenize
from pathlib import Path

import keras
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "examples"
PAGE = FOLDER.parent / "keras-io.md"
MOST = 40  # lines

# name: settings, and between what the number must lie. In comments: what knows nothing reaches.
SMALL = {
    "vae": ({"epochs": 20}, 20, 30),  # 44.4 nats, one half in every pixel
    "dcgan_overriding_train_step": (
        {"epochs": 20, "width": 8, "learning_rate": 1e-3},
        0,
        8,
    ),  # 11.5, untrained
    "wgan_gp": ({"epochs": 60, "width": 16, "learning_rate": 1e-3}, 0, 100),  # 404, untrained
    "conditional_gan": (
        {"epochs": 200, "width": 16, "learning_rate": 5e-4},  # faster, it may collapse to one digit
        0.3,
        1.01,
    ),  # 0.1, chance
    "pixelcnn": ({"epochs": 8, "filters": 16, "blocks": 1}, 15, 36),  # 44.4 nats, coins
    "real_nvp": (
        {"epochs": 40, "limit": 1000, "width": 32, "learning_rate": 1e-3},
        1,
        2.3,
    ),  # 2.73 nats, a Gaussian
    "ddim": (  # untrained 1010, on TensorFlow 1423, on torch 634: each has a classifier of its own
        {"epochs": 25, "widths": (8, 16)},
        0,
        350 if keras.config.backend() == "torch" else 600,
    ),
    "ddpm": (
        {"epochs": 10, "widths": (8, 16), "levels": 100, "learning_rate": 1e-3},
        0,
        15,
    ),  # 48, untrained
    "text_generation_gpt": (
        {"epochs": 3, "width": 32, "length": 32, "vocabulary": 400},
        1.5,
        3.7,
    ),  # 4.13 bits, pieces by how often they come
    "text_generation_with_miniature_gpt": (
        {"epochs": 5, "width": 32, "length": 20, "vocabulary": 1000},
        5,
        30,
    ),  # 65, words by how often they come
    "lstm_character_level_text_generation": (
        {"epochs": 12, "limit": 2000, "width": 32},
        2,
        3.8,
    ),  # 4.69 bits, characters by how often they come
    "midi_generation_with_transformer": (
        {"epochs": 10, "limit": 1000, "width": 32, "notes": 8},
        2.99,  # the entropy of the melodies
        15,
    ),  # 389, a guess
}
LAYOUT = {getattr(tokenize, name) for name in ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT")}
LAYOUT |= {tokenize.ENDMARKER}


def code_lines(source):
    """How many lines hold code: no blank ones, no comments, no docstrings."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def test_lines_are_counted():
    assert code_lines('"""Title."""\n\nx = (\n    1,  # one\n    # two\n    2,\n)\nf(x)\n') == 5


def test_the_page_lists_the_examples_with_their_lines():
    rows = re.findall(r"^\| \[(\w+)\]\(.*?\) \| \d+ \| (\d+) \|", PAGE.read_text("utf-8"), re.M)
    counted = {file.stem: code_lines(file.read_text("utf-8")) for file in FOLDER.glob("*.py")}
    assert {name: int(lines) for name, lines in rows} == counted
    assert counted.keys() == SMALL.keys()
    assert max(counted.values()) <= MOST


def id_of(name):
    """With the backend, so that `make record` writes a line for each."""
    return f"{name}-{keras.config.backend()}"


@pytest.mark.examples
@pytest.mark.parametrize("name", SMALL, ids=id_of)
def test_example_reaches_its_number(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, low, high = SMALL[name]
    number = runpy.run_path(str(FOLDER / f"{name}.py"))["main"](**settings)
    assert low < number < high
