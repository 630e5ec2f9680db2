"""What every test starts from: a backend chosen before Keras is imported, and a fixed seed."""

import collections
import os
import resource
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")

import keras  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
# What leans on the insides of Keras and of the framework: `--sparse` leaves these folders whole,
# but for the tests that go through all families; on another backend than JAX the mathematics too.
ON_THE_EDGE = {"backend", "optimizers", "schedulers"}
MATHEMATICS = {"objectives", "samplers"}


def pytest_addoption(parser):
    parser.addoption(
        "--sparse", type=int, metavar="N", help="one test in N of each file, with exceptions"
    )
    parser.addoption(
        "--costs", type=int, metavar="N", help="the N files and tests that take most CPU time"
    )


def pytest_collection_modifyitems(config, items):
    items.sort(key=_patience, reverse=True)  # or one worker would be at the longest in the end
    every, seen, kept = config.getoption("sparse"), collections.Counter(), []
    whole_folders = ON_THE_EDGE | (set() if keras.config.backend() == "jax" else MATHEMATICS)
    for item in items if every else ():
        families = "family" in getattr(getattr(item, "callspec", None), "params", ())
        whole = item.path.parent.name in whole_folders and not families
        if whole or seen[item.path] % every == 0:
            kept.append(item)
        seen[item.path] += 1
    if every:
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


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
def pytest_runtest_protocol(item):
    item.began = _spent()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        report.user_properties.append(("cost", (_spent() - item.began, peak)))
    return report


def pytest_terminal_summary(terminalreporter, config):
    """Costs are CPU time, which other work on the machine lengthens least."""
    count = config.getoption("costs")
    if not count:
        return
    files, tests, peak = collections.Counter(), collections.Counter(), 0.0
    reports = [r for rows in terminalreporter.stats.values() for r in rows]
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
