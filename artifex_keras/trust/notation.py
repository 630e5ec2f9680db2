"""YAML and JSON: plain values only, within limits of size, depth and digits."""

import collections
import functools
import json
import re

from artifex_keras.aliases import FilePath
from artifex_keras.arguments import shown
from artifex_keras.remote import local_path
from artifex_keras.trust.reading import FileError, read_text, reading, utf8

__all__ = ["dump_yaml", "parse_json", "parse_yaml", "read_json", "read_json_lines", "read_yaml"]

DEPTH = 50  # of lists and mappings inside each other
DIGITS = 100  # of a number
YAML_BYTES = 2**18
JSON_BYTES = 2**29
LINE_BYTES = 2**26  # of one line of a .jsonl file

TAG = "tag:yaml.org,2002:"
# A plain word is what it matches first here; else it is text. Unlike YAML 1.1, 1e-3 is a number,
# and 12:30, 010 and 2024-01-01 are text.
WORDS = {
    "bool": (r"(?i:yes|no|true|false|on|off)", "yYnNtTfFoO"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
TRUE = ("yes", "true", "on")
FORBIDDEN = re.compile("[\0\ud800-\udfff]")


# YAML


def read_yaml(path, what="a YAML file"):
    """The mapping that a YAML file holds, with texts as keys; {} for a file without content.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: for what isn't YAML or holds more than plain values, with the place; for a file
            that is too large, nested too deep, or no mapping.
    """
    found = parse_yaml(read_text(path, what, YAML_BYTES), path)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise FileError(
            f"{str(path)!r} holds no settings: there must be lines of `key: value`. Received: "
            f"{shown(found)}."
        )
    return found


def parse_yaml(text: str, path: FilePath | None = None):
    """The plain values of a YAML text: None, bool, int, float, str, and lists and dicts of them.

    Tags, aliases, merges, keys that are no texts, and keys that come twice are errors: a few
    hundred bytes of aliases can stand for more than fits into memory, and a tag names a type.

    Args:
        text: YAML.
        path: of the file that it comes from, for errors.

    Raises:
        ValueError: with the place; a `FileError` where there is a `path`.
    """
    import yaml

    subject, kind = ("This", ValueError) if path is None else (repr(str(path)), FileError)
    try:
        return yaml.load(text, _loader())
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark
        raise kind(
            f"{subject} is not YAML: line {place.line + 1}, column {place.column + 1}: "
            f"{error.problem}."
        ) from error
    except yaml.YAMLError as error:  # a character that YAML doesn't allow
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise kind(f"{subject} is not YAML: line {line}: a special character.") from error
    except (ValueError, RecursionError) as error:
        raise kind(f"{subject} is not YAML: {error}.") from error


@functools.cache
def _loader():
    """The class that reads plain values alone."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {}
        yaml_constructors = {}
        depth = 0

        def compose_node(self, parent, index):
            event = self.peek_event()
            if isinstance(event, yaml.AliasEvent):
                raise _fault(event, f"aliases are not taken: write the value of *{event.anchor}")
            if event.tag not in (None, "!"):
                raise _fault(event, f"tags are not taken, here {shown(event.tag)}")
            if self.depth == DEPTH:
                raise _fault(event, f"nested deeper than {DEPTH} levels")
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def mapping(self, node):
            found = {}
            for key_node, value_node in node.value:
                if key_node.tag != f"{TAG}str":
                    where = shown(getattr(key_node, "value", "")) if _plain(key_node) else "a list"
                    raise _fault(key_node, f"a key must be a text, quoted if need be; not {where}")
                if key_node.value == "<<":
                    raise _fault(key_node, "merges (<<) are not taken")
                if key_node.value in found:
                    raise _fault(key_node, f"the key {shown(key_node.value)} comes twice")
                found[key_node.value] = self.construct_object(value_node, deep=True)
            return found

        def sequence(self, node):
            return self.construct_sequence(node, deep=True)

    def _plain(node):
        return isinstance(node, yaml.ScalarNode)

    def _fault(place, problem):
        return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)

    def number(convert):
        def construct(loader, node):
            if len(node.value) > DIGITS:
                raise _fault(node, f"a number of more than {DIGITS} digits")
            try:
                return convert(node.value.replace("_", "").lower())
            except ValueError:
                raise _fault(node, f"{shown(node.value)} is no number") from None

        return construct

    def text_of(loader, node):
        if FORBIDDEN.search(node.value):
            raise _fault(node, "a text with NUL or half a surrogate pair")
        return node.value

    _add_words(Loader)
    constructors = {
        "bool": lambda loader, node: node.value.lower() in TRUE,
        "null": lambda loader, node: None,
        "int": number(lambda text: int(text, 0)),
        "float": number(lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan"))),
        "str": text_of,
        "map": Loader.mapping,
        "seq": Loader.sequence,
    }
    for name, constructor in constructors.items():
        Loader.add_constructor(f"{TAG}{name}", constructor)
    return Loader


def _add_words(cls):
    for name, (pattern, first) in WORDS.items():
        cls.add_implicit_resolver(f"{TAG}{name}", re.compile(f"^(?:{pattern})$"), list(first))


def dump_yaml(values):
    """Plain values as YAML text, keys in their order; `parse_yaml` gives them back."""
    import yaml

    return yaml.dump(values, Dumper=_dumper(), sort_keys=False, allow_unicode=True)


@functools.cache
def _dumper():
    """The class that writes what `_loader` reads, and quotes what either version of YAML would not
    call text."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    _add_words(Dumper)
    return Dumper


# JSON


def read_json(path, what="a JSON file"):
    """What a JSON file holds.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: for what isn't JSON, is too large, or nested too deep.
    """
    text = read_text(path, what, JSON_BYTES)
    with reading(path, what):
        return parse_json(text)


def read_json_lines(path):
    """`(number, value)` of each line of a .jsonl file that isn't empty, numbered from 1.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: for a line that isn't JSON, with its number.
    """
    path = local_path(path)
    if path.is_dir():
        raise FileError(f"{str(path)!r} is a folder, where there should be a .jsonl file.")
    with reading(path, "a .jsonl file"), path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise FileError(
                    f"Line {number} of {str(path)!r} has more than {LINE_BYTES:,} bytes."
                )
            text = utf8(line, path, number)
            if text.strip():
                yield number, _json_line(text, number, path)


def _json_line(text, number, path):
    try:
        return parse_json(text)
    except ValueError as error:
        raise FileError(
            f"Each line must be a JSON object: {error} in line {number} of {str(path)!r}."
        ) from error


def parse_json(text):
    """The values of a JSON text.

    Raises:
        ValueError: for what isn't JSON, or is nested deeper than 50 levels, or has half a
            surrogate pair in a text, a key twice in an object, or a number of too many digits.
    """
    try:
        found = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH} levels") from None
    if text.count("[") + text.count("{") > DEPTH:
        _check_depth(found)
    if "\\ud" in text or "\\uD" in text:
        _check_text(found)
    return found


def _object(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        names = collections.Counter(name for name, _ in pairs)
        raise ValueError(f"the key {shown(names.most_common(1)[0][0])} comes twice")
    return found


def _check_depth(value):
    level = [value]
    for _ in range(DEPTH + 1):
        level = [inner for value in level for inner in _inner(value)]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEPTH} levels")


def _inner(value):
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _check_text(value):
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text with half a surrogate pair (\\ud800 to \\udfff)") from None
