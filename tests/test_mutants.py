"""The table of faults follows the code: each is found once, and makes another program."""

import ast
import collections
import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT))
from benchmarks import mutants  # noqa: E402

sys.path.pop()
FAULTS = {fault.name: fault for fault in mutants.FAULTS}


@pytest.fixture(scope="module")
def sources():
    return mutants.sources_of(ROOT / "artifex_keras")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_once_in_the_package_and_compiles(name, sources):
    fault = FAULTS[name]
    found = mutants.places(fault, sources)
    assert len(found) == 1, (
        f"The text of the fault {name!r} stands {len(found)} times in `{fault.within}`: "
        "let benchmarks/faults.py follow the code."
    )
    before = sources[found[0].file]
    after = mutants.rewritten(fault, before, found[0])
    assert after != before and ast.parse(after)
    assert mutants.test_files(fault)


def test_names_are_unique():
    counts = collections.Counter(fault.name for fault in mutants.FAULTS)
    assert max(counts.values()) == 1


def test_broken_lines_do_not_hide_a_fault():
    fault = mutants.FAULTS[0]._replace(within="f", old="g(a, b) + 1", new="g(b, a)")
    text = (
        "def f(a, b):\n    return g(\n        a, b\n    ) + 1\n\n\ndef h(a, b):\n    g(a, b) + 1\n"
    )
    (place,) = mutants.places(fault, {"file": text})
    assert mutants.rewritten(fault, text, place).startswith("def f(a, b):\n    return g(b, a)\n")
