"""What every test starts from: a backend chosen before Keras is imported, and a fixed seed."""

import collections
import ctypes
import gc
import json
import os
import resource
import signal
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
# What another framework, or another version of it, can break (`--seam`): our seam, mathematics with
# golden numbers, the first test of each file of models and networks, and what is marked `seam`, on
# few families. What is Python alone (the shell, configs, pages, data) runs with `make test`.
SEAM_FOLDERS = {"backend", "objectives", "optimizers", "samplers", "schedulers"}
SEAM_FIRST = {"models", "networks", "rl"}
# Files whose tests go apart by row, a parameter of that name; others stay together.
BY_ROW = {
    "test_frame.py": "family",
    "test_on_policy.py": "algorithm",
    "test_kill.py": "family",
    "test_options.py": "cls",
}
# The long tests that passed, by name: the seconds they took and a digest of the code they ran.
LAST = Path(__file__).with_name("long_tests.json")
UNCHANGED = pytest.StashKey()
ENOUGH = 1.6  # gigabytes of a process, beyond which models and programs are let go
MORE = 0.3  # gigabytes beyond what could not be freed, after which it is tried again
LIMIT = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption(
        "--seam", action="store_true", help="what another framework or version can break"
    )
    parser.addoption(
        "--changed", action="store_true", help=f"not what passed on the same code, by {LAST.name}"
    )
    parser.addoption(
        "--record", action="store_true", help=f"write what passes, and its code, into {LAST.name}"
    )
    parser.addoption(
        "--costs", type=int, metavar="N", help="the N files and tests that take most CPU time"
    )


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    _leave_to_slow(items)
    items.sort(key=_patience, reverse=True)  # or one worker would be at the longest in the end
    first = {}
    for item in items:
        first.setdefault(_group(item), len(first))
    items.sort(key=lambda item: first[_group(item)])
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    if config.getoption("seam"):
        seen = set()
        _keep(config, items, {item: _at_the_seam(item, seen) for item in items})
    if config.getoption("changed"):
        _keep(config, items, _have_changed(config, items))


def _leave_to_slow(items):
    """Marks the cases of a test slow beyond the first ones, as many as its mark `quick` says."""
    seen = collections.Counter()
    for item in items:
        marker = item.get_closest_marker("quick")
        if marker is not None:
            test = item.path, item.originalname
            seen[test] += 1
            if seen[test] > marker.args[0]:
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session):
    """Without groups all would pass, in twice the time: each process would compile everything.

    What has been imported lives on, and a model's trace leaves little that refers to itself: the
    collector of garbage, as it comes, would take a twelfth of the time to look through it all.
    """
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)
    if keras.config.backend() == "jax":
        import contexts

        contexts.share()
    grouped = hasattr(session.config, "workerinput") and session.config.getoption("loadgroup")
    if grouped and not all("@" in item.nodeid for item in session.items):
        raise pytest.UsageError("this pytest-xdist can't group tests in this pytest")


def _have_changed(config, items):
    """A bool of each test: False for those asked for, by their mark, whose code has passed."""
    last, changed = json.loads(LAST.read_text()), dict.fromkeys(items, True)
    for item in items:
        row = last.get(item.nodeid) if item.get_closest_marker(config.option.markexpr) else None
        if row is not None and row["code"] == _code(item):
            changed[item] = False
            config.stash.setdefault(UNCHANGED, []).append(row["seconds"])
    if hasattr(config, "workeroutput"):
        config.workeroutput["unchanged"] = config.stash.get(UNCHANGED, [])
    return changed


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash[UNCHANGED] = getattr(node, "workeroutput", {}).get("unchanged", [])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.stash.get(UNCHANGED, []):
        session.exitstatus = pytest.ExitCode.OK


def _keep(config, items, kept):
    config.hook.pytest_deselected(items=[item for item in items if not kept[item]])
    items[:] = [item for item in items if kept[item]]


def _code(item):
    """The digest of what a test runs."""
    import closure

    if item.get_closest_marker("notebooks") and "name" in _parameters(item):
        return closure.digest(ROOT / "notebooks" / f"{_parameters(item)['name']}.ipynb")
    code = closure.digest(item.path, getattr(item, "originalname", None))
    if item.get_closest_marker("examples") and "name" in _parameters(item):
        return code + closure.digest(ROOT / "docs" / "examples" / f"{_parameters(item)['name']}.py")
    return code


def _group(item):
    """What runs in one process, for what it compiles: a file, or one row of it."""
    row = _parameters(item).get(BY_ROW.get(item.path.name))
    return f"{item.path} {getattr(row, 'name', row)}"


def _at_the_seam(item, seen):
    from families import SEAM_NAMES

    family, backends = _parameters(item).get("family"), item.get_closest_marker("backends")
    if item.path.name == "test_backends_agree.py":
        return True
    if family is not None and getattr(family, "name", family) not in SEAM_NAMES:
        return False
    room, first = item.path.parent.name, item.path not in seen
    seen.add(item.path)
    if backends and keras.config.backend() not in backends.args:
        return False  # nor is the next one the first: such a file is for other backends
    of_this_alone = backends and "jax" not in backends.args
    return (
        room in SEAM_FOLDERS
        or (room in SEAM_FIRST and first)
        or item.get_closest_marker("seam") is not None
        or bool(of_this_alone)
    )


def _parameters(item):
    return getattr(getattr(item, "callspec", None), "params", {})


def _patience(item):
    """Seconds that a test has asked for, beyond what all have."""
    marker = item.get_closest_marker("timeout")
    return marker.args[0] if marker and marker.args else 0


def pytest_runtest_setup(item):
    marker = item.get_closest_marker("backends")
    if marker and keras.config.backend() not in marker.args:
        pytest.skip(f"for {', '.join(marker.args)}")


def _spent():
    """Seconds of CPU time of this process and of those that it has started and waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    item.began = _spent()
    result = yield
    if nextitem is None or _group(nextitem) != _group(item):
        _let_go()
    if _memory() > item.config.stash.get(LIMIT, ENOUGH):
        _free()
        item.config.stash[LIMIT] = max(ENOUGH, _memory() + MORE)
    return result


def _let_go():
    """Lets go of what a group of tests has shared."""
    if "fresh" in sys.modules:
        sys.modules["fresh"].forget()
    if "contexts" in sys.modules:
        sys.modules["contexts"].renew()


def _free():
    """Frees what has added up to gigabytes: garbage, and if that isn't it, what was compiled.

    JAX holds each program for ever, those of a loop outside of a compiled function once for each
    call. What was compiled for one test serves the next, so it is kept while there is room.
    """
    _collect()
    if _memory() > ENOUGH and "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        _collect()


def _collect():
    """Frees what nothing refers to, and gives it back to the kernel: glibc keeps most of it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _memory():
    """Gigabytes that this process holds; where nobody says so, more than enough."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 2 * ENOUGH
    return pages * resource.getpagesize() / 2**30


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        report.user_properties.append(("cost", (_spent() - item.began, peak)))
    if call.when == "call" and report.passed and item.config.getoption("record"):
        report.user_properties.append(("passed", {"seconds": call.duration, "code": _code(item)}))
    return report


def pytest_terminal_summary(terminalreporter, config):
    reports = [r for rows in terminalreporter.stats.values() for r in rows]
    if config.getoption("record"):
        _record(reports)
    if config.getoption("costs"):
        _write_costs(terminalreporter, reports, config.getoption("costs"))
    seconds = config.stash.get(UNCHANGED, [])
    if seconds:
        many, time = len(seconds), sum(seconds)
        terminalreporter.write_line(f"{many} unchanged since they passed, in {time:.0f} s")


def _record(reports):
    rows = json.loads(LAST.read_text())
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == "passed":
                seconds = round(value["seconds"], 1)
                rows[report.nodeid.partition("@")[0]] = {"seconds": seconds, "code": value["code"]}
    LAST.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")


def _write_costs(terminalreporter, reports, count):
    """Costs are CPU time, which other work on the machine lengthens least."""
    files, tests, peak = collections.Counter(), collections.Counter(), 0.0
    for report in reports:
        found = dict(getattr(report, "user_properties", ()))
        if "cost" in found:
            seconds, memory = found["cost"]
            files[report.nodeid.partition("::")[0]] += seconds
            tests[report.nodeid] += seconds
            peak = max(peak, memory)
    terminalreporter.section(f"{files.total():.0f} s of CPU time, at most {peak:.1f} GB a process")
    for rows in (files, tests):
        for name, seconds in rows.most_common(count):
            terminalreporter.write_line(f"{seconds:7.1f} s  {name}")


@pytest.fixture(autouse=True)
def only_rows_of_ours():
    """Takes the rows away that a test, or an example that it runs, has registered.

    The module isn't imported here: with its tables each test would count as one of all the code.
    """
    yield
    extending = getattr(sys.modules.get("artifex_keras"), "extending", None)
    for kind, name in list(getattr(extending, "_REGISTERED", ())):
        del extending.KINDS[kind].table[name]
    if extending is not None:
        extending._REGISTERED.clear()


@pytest.fixture(autouse=True)
def seeded():
    """Every test sees the same random numbers, alone or among others."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def no_run_left_open():
    """A run of wandb that a broken test leaves open would take in what later tests tell theirs."""
    yield
    wandb = sys.modules.get("wandb")
    if getattr(wandb, "run", None) is not None:
        wandb.finish()


@pytest.fixture
def heeds_ctrl_c():
    """Python's own handler: a shell makes its jobs in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def random():
    """numpy's generator, which every test begins anew: its numbers don't depend on other tests."""
    return np.random.default_rng(11)


@pytest.fixture
def backend():
    """The name of the Keras backend under test."""
    return keras.config.backend()


@pytest.fixture(scope="session")
def shared_data():
    """The folder with real data that is not part of the repository; skips where there is none.

    It is `$ARTIFEX_KERAS_DATA`, or `shared/data` beside the repository.
    """
    folder = Path(os.environ.get("ARTIFEX_KERAS_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no folder of shared data; ARTIFEX_KERAS_DATA names one")
    return folder


@pytest.fixture
def prepared(monkeypatch):
    """Makes the shell stop before it trains; then holds `(config, dataset, trainer)`."""
    from artifex_keras.shell import training

    kept = []

    def keep(name, requested, output):
        kept[:] = training.prepare(name, requested)
        return None, False

    monkeypatch.setattr(training, "train", keep)
    return kept
