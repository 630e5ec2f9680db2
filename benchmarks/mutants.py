"""Whether the tests notice: one fault at a time, in a copy, and the tests that should fail.

    python -m benchmarks.mutants              all faults of `faults.FAULTS`
    python -m benchmarks.mutants --only NAME  those whose names hold NAME, or one of NAME,NAME
    python -m benchmarks.mutants --list       what there is

A fault is *killed* if a test fails, *lived* if all pass. A fault whose text isn't found exactly
once in the package is *stale*: the code was rewritten, and `faults.py` must follow. A test that
fails without the fault too kills nothing: the fault is *unproven*.
"""

import argparse
import ast
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults import FAULTS

__all__ = ["Place", "places", "rewritten", "sources_of", "test_files"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "artifex_keras"
RESULTS = ROOT / "benchmarks" / "results" / "mutants.json"
LIMIT = 300  # seconds that the tests of one fault may take; an endless loop is noticed too
COPIED = (PACKAGE, "tests", "benchmarks")


# A fault's place in the package


class Place(NamedTuple):
    """A stretch of characters of a file."""

    file: Path
    start: int
    end: int


def places(fault, sources):
    """Every `Place` of a fault's old text among `sources`, `{file: text}`.

    It is looked for in what is called as the fault says; where nothing is called so, everywhere.
    """
    within = fault.within
    if not any(within in _definitions(text) for text in sources.values()):
        within = None
    pattern = _pattern(fault.old)
    found = set()
    for file, text in sources.items():
        if pattern.search(text):
            for start, end in _stretches(text, within):
                for match in pattern.finditer(text, start, end):
                    found.add(Place(file, *match.span()))
    return sorted(found)


def _pattern(snippet):
    """The snippet as a regular expression that doesn't mind how its lines are broken."""
    tokens = re.findall(r"\w+|[^\w\s]", snippet)
    parts = [re.escape(tokens[0])]
    for before, token in zip(tokens, tokens[1:], strict=False):
        words = re.match(r"\w", before[-1]) and re.match(r"\w", token[0])
        parts.append((r"\s+" if words else r"\s*") + re.escape(token))
    first, last = (r"\b" if re.match(r"\w", edge) else "" for edge in (tokens[0], tokens[-1]))
    return re.compile(first + "".join(parts) + last)


def _stretches(text, within):
    """Start and end of each function or class of that name; of the whole text without a name."""
    return [(0, len(text))] if within is None else _definitions(text).get(within, [])


@functools.lru_cache(maxsize=1024)
def _definitions(text):
    """Start and end of each function and class, `{name: [(start, end), ...]}`."""
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, kinds):
            stretch = (lines[node.lineno - 1], lines[node.end_lineno])
            found.setdefault(node.name, []).append(stretch)
    return found


def sources_of(folder):
    """The text of every Python file below a folder."""
    return {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}


def rewritten(fault, text, place):
    """The file's text with the fault in it."""
    return text[: place.start] + fault.new + text[place.end :]


# Running its tests


def test_files(fault, root=ROOT):
    """The test files that a fault names by the ends of their paths, relative to `root`."""
    known = [path.relative_to(root) for path in sorted((root / "tests").rglob("test_*.py"))]
    found = []
    for end in fault.tests.split():
        fitting = [path for path in known if f"/{path.as_posix()}".endswith(f"/{end}.py")]
        if len(fitting) != 1:
            raise ValueError(f"{fault.name}: {len(fitting)} test files end in {end!r}.")
        found += map(str, fitting)
    return found


def _copy(root):
    """The tree in a temporary folder, compiled, so that no run writes bytecode."""
    for name in COPIED:
        ignore = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", root / PACKAGE, root / "tests"])


class Noticed:
    """A plugin of pytest that keeps which tests fail, and how many run."""

    def __init__(self):
        self.failed, self.ran = [], 0

    def pytest_runtest_logreport(self, report):
        self.ran += report.when == "call" and not report.skipped
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)


def _in_child(root, arguments, devices, out):
    """Runs pytest in a process of its own. Gives `{"failed": [...], "ran": n}`, None if it hung.

    The child is forked after the slow imports, before a device is started.
    """
    answer = root / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        try:
            os.setpgid(0, 0)
            flags = "--xla_backend_optimization_level=0"
            if devices:
                flags += " --xla_force_host_platform_device_count=8"
                os.environ["NPROC"] = "32"
            os.environ["XLA_FLAGS"] = flags
            os.environ["PYTHONPATH"] = str(root)
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            sys.dont_write_bytecode = True
            os.chdir(root)
            sys.path[:] = [str(root), *(p for p in sys.path if p not in ("", str(ROOT)))]
            for name in [n for n in sys.modules if n.split(".")[0] in COPIED]:
                del sys.modules[name]
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            import pytest

            noticed = Noticed()
            code = pytest.main(["-p", "no:cacheprovider", *arguments], plugins=[noticed])
            answer.write_text(
                json.dumps({"failed": noticed.failed, "ran": noticed.ran, "code": int(code)})
            )
        finally:
            os._exit(0)
    began = time.monotonic()
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() - began > LIMIT:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.05)
    if not answer.exists():  # it crashed
        return {"failed": ["the process"], "ran": 0, "code": 3}
    return json.loads(answer.read_text())


def _tried(fault, root, sources, out):
    """What becomes of one fault: a row of the table."""
    found = places(fault, sources)
    row = {"name": fault.name, "outcome": "stale", "by": None, "seconds": 0.0, "file": None}
    if len(found) != 1:
        return row | {"by": f"found {len(found)} times"}
    place, began = found[0], time.monotonic()
    row["file"] = str(place.file.relative_to(root))
    times = place.file.stat().st_mtime
    place.file.write_text(rewritten(fault, sources[place.file], place), encoding="utf-8")
    os.utime(place.file, (times + 5000, times + 5000))  # older bytecode is not for this
    try:
        files = test_files(fault, root)
        arguments = ["-x", *files, *(["-k", fault.chosen] if fault.chosen else [])]
        answer = _in_child(root, arguments, "distributed" in files[0], out)
    finally:
        place.file.write_text(sources[place.file], encoding="utf-8")
        os.utime(place.file, (times, times))
    row["seconds"] = round(time.monotonic() - began, 1)
    if answer is None:
        return row | {"outcome": "killed", "by": f"more than {LIMIT} s"}
    if answer["failed"]:
        return row | {"outcome": "killed", "by": answer["failed"][0]}
    if not answer["ran"]:
        return row | {"outcome": "no tests", "by": fault.chosen}
    return row | {"outcome": "lived", "by": f"{answer['ran']} tests"}


def _proven(rows, root, out):
    """The rows; those that a test has killed which fails without a fault too become unproven."""
    ids = sorted({row["by"] for row in rows if row["outcome"] == "killed" and "::" in row["by"]})
    failing = set()
    for devices in (False, True):
        chosen = [name for name in ids if ("/distributed/" in name) is devices]
        if chosen:
            answer = _in_child(root, chosen, devices, out)
            failing |= set(chosen if answer is None or answer["code"] > 1 else answer["failed"])
    for row in rows:
        if row["by"] in failing:
            row["outcome"] = "unproven"
    return rows


def _line(row):
    by = row["by"] or ""
    by = by.rsplit("/", 1)[-1]
    return f"{row['outcome']:9} {row['seconds']:6.1f} s  {row['name']:42} {by}"


def _commit():
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", help="those whose names hold this; several by commas")
    parser.add_argument("--list", action="store_true", help="name the faults, try none")
    parser.add_argument("--label", default="now", help="the table's name in the results")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the results go")
    options = parser.parse_args()
    parts = [""] if options.only is None else options.only.split(",")
    faults = [fault for fault in FAULTS if any(part in fault.name for part in parts)]
    if not faults:
        raise SystemExit(f"No fault's name holds {options.only!r}.")
    if options.list:
        sources = sources_of(ROOT / PACKAGE)
        for fault in faults:
            found = places(fault, sources)
            where = found[0].file.relative_to(ROOT) if len(found) == 1 else f"stale: {len(found)}"
            print(f"{fault.name:42} {where}")
        return
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("MPLBACKEND", "agg")
    import keras  # noqa: F401  once for all children
    import pytest  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = Path(folder).resolve()
        _copy(root)
        commit = _commit()
        sources = sources_of(root / PACKAGE)
        with open(root / "log.txt", "w") as out:
            rows = []
            for fault in faults:
                rows.append(_tried(fault, root, sources, out))
                print(_line(rows[-1]), flush=True)
            rows = _proven(rows, root, out)
        if len(faults) == 1:
            print((root / "log.txt").read_text()[-4000:])
    outcomes = [row["outcome"] for row in rows]
    counts = {name: outcomes.count(name) for name in sorted(set(outcomes))}
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    if not options.only:
        kept = json.loads(options.output.read_text()) if options.output.exists() else {}
        kept[options.label] = {"commit": commit, "counts": counts, "faults": rows}
        options.output.write_text(json.dumps(kept, indent=1) + "\n")
    for row in rows:
        if row["outcome"] != "killed":
            print(_line(row))
    sys.exit(counts.get("killed", 0) != len(rows))


if __name__ == "__main__":
    main()
