"""Small things that every layer of the package needs and Keras does not offer."""

import difflib
import importlib

import numpy as np

__all__ = ["integer", "lookup", "optional", "unknown_name"]


def unknown_name(name, choices, what):
    """The message for a name that is not among `choices`, with the nearest ones first."""
    choices = sorted(map(str, choices))
    near = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"Unknown {what} {name!r}.{hint} Choices: {', '.join(choices)}."


def lookup(table, name, what):
    """The row of `table` called `name`; `what` says in the error what was looked for.

    Raises:
        ValueError: with the nearest names and all choices, if there is no such row.
    """
    if not isinstance(name, str) or name not in table:
        raise ValueError(unknown_name(name, table, what))
    return table[name]


def integer(name, value, *, minimum=0, optional=False):
    """The int `value`, if it is an integer of at least `minimum`, or with `optional` None."""
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(
            f"`{name}` must be an integer of at least {minimum}"
            f"{' or None' if optional else ''}. Received: {name}={value!r}."
        )
    return int(value)


def optional(module, extra):
    """The optional module called `module`, imported now.

    Raises:
        ImportError: names the extra of this package that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f"`{package}` is needed here and not installed: pip install 'artifex-keras[{extra}]'"
        ) from error
