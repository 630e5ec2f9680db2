"""YAML and JSON from files: plain values, or one error with the file's name, at once."""

import json
import time

import pytest
import yaml

import artifex_keras as ak
from artifex_keras.shell.settings import read_config
from artifex_keras.trust import FileError, dump_yaml, parse_json, parse_yaml, read_json, read_yaml

NESTED_ALIASES = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)

BAD = {
    "nested aliases": (NESTED_ALIASES, "line 2, column 10: aliases are not taken"),
    "an alias": ("optimizer: &o {type: adam}\nscheduler: *o", "line 2, column 12: aliases"),
    "an alias of itself": ("a: &a [*a]", "aliases are not taken"),
    "lists in lists": ("a: " + "[" * 2000, "nested deeper than 50 levels"),
    "dicts in dicts": ("{a: " * 2000, "nested deeper than 50 levels"),
    "steps inwards": ("".join(f"{' ' * n}a:\n" for n in range(200)), "nested deeper"),
    "dashes": ("- " * 500 + "x", "nested deeper than 50 levels"),
    "an integer as key": ("1: 2", "line 1, column 1: a key must be a text"),
    "null as key": ("batch_size: 1\n~: 2", "line 2, column 1: a key must be a text"),
    "a truth value as key": ("training: {on: 1}", "a key must be a text"),
    "a list as key": ("? [a, b]\n: 2", "a key must be a text"),
    "a float as key": ("1e3: 2", "a key must be a text"),
    "a key twice": ("seed: 1\nbatch_size: 2\nseed: 3", "line 3, column 1: the key 'seed' comes"),
    "a merge": ("training:\n  <<: {seed: 1}", "line 2, column 3: merges"),
    "a type by tag": ("a: !!python/object/apply:os.system [true]", "tags are not taken"),
    "a name by tag": ("a: !!python/name:os.system", "tags are not taken"),
    "a tag of one's own": ("a: !mine {b: c}", "tags are not taken, here '!mine'"),
    "a tag of YAML": ("a: !!binary aGVsbG8=", "tags are not taken"),
    "a tagged key": ("!!str a: b", "tags are not taken"),
    "an enormous integer": ("seed: " + "9" * 5000, "line 1, column 7: a number of more than 100"),
    "an enormous hex": ("seed: 0x" + "f" * 5000, "a number of more than 100 digits"),
    "no number": ("seed: 0x_", "'0x_' is no number"),
    "NUL": ("seed: 1\n\0", "there is a NUL in line 2"),
    "NUL by escape": (r'checkpoint_dir: "a\0b"', "a text with NUL"),
    "half a pair": (r'checkpoint_dir: "\ud800"', "half a surrogate pair"),
    "a bell": ("seed: 1\na: \x07", "line 2: a special character"),
    "a list": ("- 1\n- 2", "holds no settings"),
    "a text": ("adam", "holds no settings"),
    "two documents": ("seed: 1\n---\nseed: 2", "another document"),
    "a tab": ("\tseed: 1", "line 1, column 1"),
    "half a list": ("a: [1", "line 1"),
    "UTF-16": ("seed: 1".encode("utf-16"), "it is UTF-16"),
    "Latin-1": ("name: Zürich\n".encode("latin-1"), "is not UTF-8 text: .* in line 1"),
    "binary": (bytes(range(256)), "can't be read|not UTF-8|a NUL"),
    "too large": (b"#" * 300_000, "too large for a config: it has more than 262,144 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_config_is_one_error_that_names_the_file(name, tmp_path):
    content, message = BAD[name]
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.process_time()
    for read in (ak.TrainingConfig.from_yaml, lambda path: read_config(path.parent)):
        with pytest.raises(FileError, match=message) as raised:
            read(path)
        assert str(path) in str(raised.value) and len(str(raised.value)) < 600
    assert time.process_time() - began < 2


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        ak.TrainingConfig.from_yaml(tmp_path / "none.yaml")
    with pytest.raises(FileError, match="is a folder, where there should be a config"):
        ak.TrainingConfig.from_yaml(tmp_path)
    with pytest.raises(FileError, match="no ordinary file"):
        read_yaml("/dev/zero")
    (tmp_path / "config.yaml").write_text("# nothing\n")
    with pytest.raises(FileError, match="config.yaml' holds no settings"):
        read_config(tmp_path)
    (tmp_path / "config.yaml").write_text("family: vae\ntraining: [1]\n")
    with pytest.raises(FileError, match=r"`training` must be a section of keys.*config.yaml'"):
        read_config(tmp_path)


def test_a_hundred_megabytes_are_refused_unread(tmp_path):
    with open(tmp_path / "config.yaml", "wb") as file:
        file.truncate(10**8)
    began = time.process_time()
    with pytest.raises(FileError, match="too large"):
        ak.TrainingConfig.from_yaml(tmp_path / "config.yaml")
    assert time.process_time() - began < 0.5


def test_plain_words():
    assert parse_yaml("[1e-3, -.5, 1_000, 0x10, .inf, yes, ~, 2024-01-01, 12:30, 007, =]") == [
        0.001, -0.5, 1000, 16, float("inf"), True, None, "2024-01-01", "12:30", "007", "="
    ]  # fmt: skip
    assert parse_yaml("") is None and parse_yaml("\ufeffa: 1") == {"a": 1}


def test_what_is_written_is_read_back():
    words = "1e-3 010 12:30 yes = 2024-01-01 ~ null 1_000 .5 1. 0x1 *a !b #c .NaN yEs".split()
    words += ["", "- c", "é: b", "\n e", "\x07"]
    shared = [1, -2]
    values = {"words": words, "rest": [1e-5, 1e300, float("inf"), None, True, shared, shared]}
    assert parse_yaml(dump_yaml(values)) == yaml.safe_load(dump_yaml(values)) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested deeper than 50 levels"),
        ('{"a": ' * 60 + "1" + "}" * 60, "nested deeper than 50 levels"),
        ("9" * 5000, "limit"),
        (r'{"a": ["\ud800"]}', "half a surrogate pair"),
        ("{'a': 1}", "double quotes"),
        ("", "Expecting value"),
    ],
)
def test_a_bad_json_file_is_one_error_that_names_it(text, message, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(FileError, match=message) as raised:
        read_json(path)
    assert str(path) in str(raised.value)


def test_json_within_the_limits():
    assert parse_json(json.dumps("😀")) == "😀"
    assert parse_json("[" * 49 + "]" * 49)
