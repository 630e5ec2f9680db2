"""Rules of names, choices, texts and other values that are no numbers."""

import os
from pathlib import Path

from artifex_keras.arguments.messages import broken_rule, nearest, shown, unknown_name
from artifex_keras.arguments.numeric import as_python
from artifex_keras.remote import RemotePath, is_address, is_mangled, local_path

__all__ = [
    "boolean",
    "choice",
    "dictionary",
    "file_path",
    "folder_path",
    "forbid_arguments",
    "function",
    "instance_of",
    "known_name",
    "lookup",
    "one_of",
    "optional",
    "row_of",
    "text",
]


def boolean(name, value):
    """The bool `value`; numpy's are taken too, 0, 1 and "yes" are not."""
    plain = as_python(value)
    if not isinstance(plain, bool):
        raise broken_rule(name, value, "True or False")
    return plain


def choice(name, value, choices):
    """`value`, if it is one of `choices`; neither True nor 1.0 is taken for 1."""
    plain = as_python(value)
    for allowed in choices:
        if type(plain) is type(allowed) and plain == allowed:
            return allowed
    near = nearest(value, [c for c in choices if isinstance(c, str)])
    listed = " or ".join(filter(None, [", ".join(map(repr, choices[:-1])), repr(choices[-1])]))
    raise broken_rule(name, value, listed, near)


def lookup(table, name, what):
    """The row of `table` called `name`; `what` says in the error what was looked for.

    Raises:
        ValueError: with the nearest names and all choices, if there is no such row.
    """
    return table[known_name(name, table, what)]


def known_name(name, choices, what):
    """`name`, if it is among `choices`.

    Raises:
        ValueError: with the nearest names and all choices, if it isn't.
    """
    if not isinstance(name, str) or name not in choices:
        raise ValueError(unknown_name(name, choices, what))
    return name


def forbid_arguments(given, names, why):
    """Raises a ValueError if one of `names` is among the arguments `given`, a dict."""
    for name in names:
        if name in given:
            raise ValueError(f"`{name}` is of no use here: {why}. Received: {shown(given[name])}.")


def text(name, value):
    """The str `value`, if it is one and not empty."""
    plain = as_python(value)
    if not isinstance(plain, str) or not plain:
        raise broken_rule(name, value, "a text")
    return plain


def file_path(name, value):
    """`value` as a `pathlib.Path`, if it is the path of a local file or folder, as text or Path."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise broken_rule(name, value, "a path")
    return local_path(value, name)


def folder_path(name, value):
    """`value` as a `pathlib.Path`, or as a `RemotePath` for an address as "gs://bucket/run"."""
    if isinstance(value, RemotePath):
        return value
    if isinstance(value, str | os.PathLike) and is_address(value):
        try:
            return RemotePath(value)
        except ValueError as error:
            raise ValueError(f"`{name}` can't be {str(value)!r}. {error}") from error
    if isinstance(value, str | Path) and is_mangled(value):
        raise ValueError(
            f"`{name}` must be a local path, or a whole address such as 'gs://bucket/run'. "
            f"Received: {str(value)!r}. `pathlib` drops a slash of an address: give it as a text."
        )
    return file_path(name, value)


def function(name, value):
    """`value`, if it can be called and is no class."""
    if not callable(value) or isinstance(value, type):
        raise broken_rule(name, value, "a function")
    return value


def dictionary(name, value):
    """`value`, if it is a dict with texts for keys."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise broken_rule(name, value, "a dict of options by name")
    return value


def one_of(*choices):
    """The rule of a value that is among `choices`."""
    return lambda name, value: choice(name, value, choices)


def row_of(table, what):
    """The rule of a name in `table`, see `known_name`."""
    return lambda name, value: known_name(value, table, what)


def optional(rule):
    """The rule of None, or of what `rule` says."""

    def checking(name, value):
        try:
            return None if value is None else rule(name, value)
        except ValueError as error:
            raise ValueError(str(error).replace(". Received:", " or None. Received:", 1)) from None

    return checking


def instance_of(*types, what):
    """The rule of an object of one of these types, which the message calls `what`."""

    def rule(name, value):
        if not isinstance(value, types):
            raise broken_rule(name, value, what)
        return value

    return rule
