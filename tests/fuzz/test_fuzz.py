"""Arguments that make no sense: each is refused by an error of ours that names the argument.

`found.json` holds what the fuzzer has found so far: [call, argument, value], tried first. Then come
random cases, the same each time.
"""

import json
import random
from pathlib import Path

import keras
import pytest

if keras.config.backend() != "jax":
    pytest.skip("on JAX, which has meshes of devices", allow_module_level=True)

from fuzz.judge import outcome
from fuzz.kinds import POOL
from fuzz.rows import BY_NAME, NOT_CALLED, ROWS, public_calls

FOUND = [tuple(case) for case in json.loads(Path(__file__).with_name("found.json").read_text())]
CASES = 2_000
LARGE = {"2**40"}  # right for a count, and more than a machine holds


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def complaint(name, values):
    """What is wrong with how a call with changed arguments ends, in a line; None if nothing is."""
    row = BY_NAME[name]
    changes = {argument: POOL[value] for argument, value in values.items()}
    fits = {argument: bool(row.kind(argument)(value)) for argument, value in changes.items()}
    if any(fits[argument] for argument, value in values.items() if value in LARGE):
        return None
    wrong = outcome(row, changes, fits)
    return wrong and f"{name}({', '.join(f'{a}={v}' for a, v in values.items())}): {wrong}"


def misspelt(argument, chance):
    """The name with one letter left out, doubled, or in its neighbour's place."""
    at = chance.randrange(len(argument) - 1)
    before, letter, after = argument[:at], argument[at], argument[at + 1 :]
    return chance.choice(
        [before + after, before + letter + letter + after, before + after[0] + letter + after[1:]]
    )


def test_what_was_found():
    wrong = [complaint(name, {argument: value}) for name, argument, value in FOUND]
    assert not list(filter(None, wrong))


@pytest.mark.parametrize("part", range(4))
def test_random_arguments(part):
    chance = random.Random(part)
    everything = [(row, argument) for row in ROWS for argument in row.arguments]
    wrong = []
    for _ in range(CASES // 4):
        row, argument = chance.choice(everything)
        others = [chance.choice(row.arguments)] if chance.random() < 0.1 else []
        values = {name: chance.choice(list(POOL)) for name in (argument, *others)}
        wrong.append(complaint(row.name, values))
    assert not list(filter(None, wrong))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_misspelt_argument_is_answered_with_the_right_one(row):
    chance = random.Random(row.name)
    argument = chance.choice([n for n in row.arguments if len(n) > 2] or [None])
    if argument is None:
        return
    name = misspelt(argument, chance)
    while name in row.arguments:
        name = misspelt(argument, chance)
    with pytest.raises((TypeError, ValueError), match=f"Did you mean.*'{argument}'"):
        row.call(**{name: 1})


def test_each_call_is_right_as_it_stands():
    for row in ROWS:
        if "none" not in map(str, row.base().values()):  # those read what isn't there
            row.call()


def test_all_that_is_public_has_a_row():
    missing = public_calls() - {row.target for row in ROWS} - NOT_CALLED
    assert not sorted(f"{each.__module__}.{each.__name__}" for each in missing), (
        "Give each a row in tests/fuzz/rows.py: a right call, and what its arguments may be."
    )


def test_each_argument_has_a_kind():
    for row in ROWS:
        for argument in row.arguments:
            assert callable(row.kind(argument)), (row.name, argument)
