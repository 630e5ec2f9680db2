"""Reward functions by name: those that are ready, and those in a user's own file."""

import inspect
import re
import sys
from pathlib import Path

from artifex_keras.arguments import unknown_name
from artifex_keras.backend import processes
from artifex_keras.rl import exact_match, gsm8k_answer, math_answer
from artifex_keras.trust import load_model, run_file

__all__ = ["READY", "rewards"]

READY = {
    "exact_match": exact_match,
    "gsm8k": lambda: exact_match(extract=gsm8k_answer),
    "math": lambda: exact_match(extract=math_answer),
}
USUAL = "reward"  # the name of a file's function, if nothing else is said
FILE = re.compile(r"(?P<path>.+\.py)(:(?P<function>\w+))?")


def rewards(said):
    """The reward functions that a config names: one, or a list of them.

    "file.py" is the function `reward` of that file, or its only one; "file.py:function" that
    function; "model.keras" a saved reward model; other names are rows of `READY`.

    Raises:
        ValueError: for a name that there isn't, a file that can't be run, and one that a command
            was to run which neither names it nor says `--trust`.
        FileNotFoundError: for a file that isn't there.
    """
    if isinstance(said, list):
        return [rewards(each) for each in said]
    if not isinstance(said, str):
        raise ValueError(
            "`reward` must be a file, as in 'reward.py', 'reward.py:function' or 'model.keras', "
            f"one of {', '.join(READY)}, or a list of these. Received: {said!r}."
        )
    if said in READY:
        return READY[said]()
    if said.endswith(".keras"):
        return load_model(Path(said).expanduser())
    found = FILE.fullmatch(said)
    if found is None:
        raise ValueError(f"{unknown_name(said, READY, 'reward')} Nor is it a .py or .keras file.")
    path = Path(found["path"]).expanduser()
    return _function(_module(path), path, found["function"])


def _module(path):
    """What a Python file defines."""
    return run_file(path, f"reward_file_{path.stem}", _say)


def _say(line):
    """Prints beside the output; of several processes the first one does."""
    if not processes.index():
        print(line, file=sys.stderr)


def _function(module, path, name):
    own = [
        key for key, value in vars(module).items()
        if not key.startswith("_") and inspect.isfunction(value)
        and value.__module__ == module.__name__
    ]  # fmt: skip
    if name is None:
        name = own[0] if len(own) == 1 and not hasattr(module, USUAL) else USUAL
    if not hasattr(module, name):
        raise ValueError(
            f"{unknown_name(name, own, f'function of {path.name!r}')} "
            f"Say which one: {path.name}:FUNCTION."
        )
    return getattr(module, name)
