"""Whether a call with a changed argument ended as it should."""

import re
import traceback

import artifex_keras

PACKAGE = artifex_keras.__path__[0]


def outcome(row, changes, fits):
    """None if the call ended as it should, else what is wrong.

    Right are a result, if every changed value belongs to its argument's kind, and an error of
    ours: a ValueError or TypeError that the package itself raises and that names the argument.
    """
    try:
        row.call(**changes)
    except Exception as error:
        return None if all(fits.values()) and ours(error) else foreign(error, changes)
    wrong = [name for name, good in fits.items() if not good]
    return f"accepted {', '.join(wrong)}" if wrong else None


def ours(error):
    """Whether the package itself raises a ValueError, a TypeError, or what a missing file gets."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    kinds = ValueError | TypeError | ImportError | FileNotFoundError
    return isinstance(error, kinds) and last.startswith(PACKAGE)


def foreign(error, changes):
    """None of an error of ours, else the error in a line."""
    frames = traceback.extract_tb(error.__traceback__)
    text = f"{type(error).__name__}: {error}".replace("\n", " ")[:160]
    if not isinstance(error, ValueError | TypeError | ImportError | FileNotFoundError):
        return text
    if not frames[-1].filename.startswith(PACKAGE):
        return f"foreign {text} at {frames[-1].filename[-40:]}:{frames[-1].lineno}"
    message = str(error)
    named = any(re.search(rf"\b{name}\b", message) for name in changes)
    return None if named or message.startswith("Unknown ") else f"unnamed {text}"
