"""The time of a step, from a trace and from the clock."""

import json
import time

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras import tracking
from artifex_keras.backend import profile
from artifex_keras.backend.profile import Operation
from artifex_keras.callbacks import ProfilingCallback
from artifex_keras.callbacks.profiling.operations import busy, own_times, slowest

X = np.random.default_rng(0).normal(size=(48, 16)).astype("float32")


def plain(steps_per_execution=1):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(64), keras.layers.Dense(1)])
    model.compile("adam", "mse", steps_per_execution=steps_per_execution)
    return model


def fit(model, *callbacks, epochs=2, **options):
    """Twelve batches an epoch."""
    options = {"batch_size": 4, "epochs": epochs, "verbose": 0, "shuffle": False, **options}
    return model.fit(X, X[:, :1], callbacks=list(callbacks), **options)


def profiling(folder, **options):
    return ProfilingCallback(folder, **{"verbose": False, **options})


class Batches(keras.utils.PyDataset):
    """Batches that take their time."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def __len__(self):
        return 12

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return X[:4], X[:4, :1]


# A trace's operations

TRACE = [
    Operation("a", "while", "p", 0.0, 10.0),
    Operation("a", "dot", "p", 1.0, 4.0),
    Operation("a", "add", "p", 2.0, 3.0),
    Operation("a", "dot", "p", 5.0, 6.0),
    Operation("b", "dot", "p", 8.0, 12.0),
    Operation("b", "dot", "q", 20.0, 21.0),
]


def test_time_inside_another_operation_is_counted_once():
    own = {(operation.name, operation.start): seconds for operation, seconds in own_times(TRACE)}
    assert own[("while", 0.0)] == 10 - 3 - 1
    assert own[("dot", 1.0)] == 3 - 1
    assert sum(own.values()) == 10 + 4 + 1


def test_the_slowest_come_first():
    rows = slowest(TRACE, 3)
    assert [(row["op"], row["program"], row["calls"]) for row in rows] == [
        ("dot", "p", 3),
        ("while", "p", 1),
        ("add", "p", 1),
    ]
    assert [row["total_ms"] for row in rows] == [7000, 6000, 1000]
    assert rows[0]["share"] == pytest.approx(7 / 15)


def test_lines_at_the_same_time_are_busy_once():
    assert busy(TRACE) == 12 + 1
    assert busy([]) == 0


# A run


@pytest.mark.seam
def test_operations_and_times_are_reported_and_written(tmp_path, backend):
    callback = profiling(tmp_path, start_step=5, num_steps=4)
    fit(plain(), callback)
    report = callback.report
    assert report["steps"] == 4
    rows = report["operations"]
    assert rows and all(row["total_ms"] > 0 for row in rows)
    products = [row for row in rows if any(n in row["op"].lower() for n in ("mm", "dot", "matmul"))]
    products += [row for row in rows if "fusion" in row["op"]]
    assert products and products[0]["calls"] % 4 == 0  # those of each step, and of no other
    times = report["milliseconds"]
    parts = sum(times[name] or 0 for name in ("data_wait", "dispatch", "drain", "other"))
    assert parts == pytest.approx(times["step"])
    assert 0 < times["device"] < times["step"] * 1.05
    assert json.loads((tmp_path / "profile.json").read_text()) == report
    assert "dispatch" in (tmp_path / "profile.txt").read_text()
    assert list(tmp_path.rglob("*.xplane.pb" if backend != "torch" else "*.trace.json.gz"))
    assert report["memory"]["host"] > 1e7
    if backend == "jax":
        program = report["memory"]["program"]
        floats = 3 * (16 * 64 + 64 + 64 + 1)  # weights and Adam's two averages
        assert 4 * floats < program["arguments"] < 4 * floats + 1000


@pytest.mark.seam
@pytest.mark.backends("jax")
def test_memory_is_that_of_the_step_whatever_else_runs(tmp_path):
    alone = profiling(tmp_path / "alone", start_step=5, num_steps=4)
    fit(plain(), alone)
    numbers = ops.ones((100_000,))
    sorting = keras.layers.Lambda(ops.sort)
    busy = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: sorting(numbers))
    other = keras.Sequential([keras.Input((16,)), keras.layers.Dense(512), keras.layers.Dense(1)])
    other.compile("adam", "mse")
    fit(other)  # a step of the same name
    beside = profiling(tmp_path / "beside", start_step=5, num_steps=4)
    fit(plain(), beside, busy)
    assert "sort" in beside.report["operations"][0]["program"]  # which takes longer than the step
    assert beside.report["memory"]["program"] == alone.report["memory"]["program"]


@pytest.mark.backends("jax", "torch")
def test_waiting_for_data_is_seen(tmp_path):
    callback = profiling(tmp_path, start_step=6, num_steps=6)
    plain().fit(Batches(0.01), verbose=0, callbacks=[callback])
    times = callback.report["milliseconds"]
    assert 8 < times["data_wait"] <= times["step"]  # torch has read the window's first batch before
    assert 9.5 < times["step_before"]


def test_waiting_for_a_callback_is_seen(tmp_path):
    slow = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: time.sleep(0.01))
    callback = profiling(tmp_path, start_step=3, num_steps=6)
    fit(plain(), callback, slow)
    times = callback.report["milliseconds"]
    assert 9.5 < times["other"] + (times["data_wait"] or 0) <= times["step"]


@pytest.mark.parametrize("validation", [False, True])
def test_a_window_goes_on_across_the_end_of_an_epoch(tmp_path, validation):
    class Slow(keras.callbacks.Callback):
        def on_test_end(self, logs=None):
            time.sleep(0.3)

    callback = profiling(tmp_path, start_step=10, num_steps=5)
    data = {"validation_data": (X, X[:, :1])} if validation else {}
    fit(plain(), callback, Slow(), **data)
    assert callback.report["steps"] == 5
    times = callback.report["milliseconds"]
    assert times["step"] < 60 and times["device"] < times["step"] * 1.05
    if validation and keras.config.backend() == "jax":
        programs = {row["program"] for row in callback.report["operations"]}
        assert "jit_test_step" not in programs


@pytest.mark.backends("jax", "tensorflow")
@pytest.mark.parametrize(("steps", "counted"), [(3, 6), (5, 5)])
def test_steps_of_an_execution_are_counted(tmp_path, steps, counted):
    callback = profiling(tmp_path, start_step=5, num_steps=5)
    fit(plain(steps), callback)
    assert callback.report["steps"] in (counted, 7)  # a remainder of two, where it is counted


def test_a_run_that_ends_within_the_window(tmp_path):
    callback = profiling(tmp_path, start_step=20, num_steps=50)
    fit(plain(), callback)
    assert callback.report["steps"] == 4


def test_a_run_that_is_too_short_says_so(tmp_path, capsys):
    callback = ProfilingCallback(tmp_path, start_step=30)
    fit(plain(), callback)
    assert callback.report is None and not list(tmp_path.iterdir())
    said = capsys.readouterr().out
    assert said == "Nothing was profiled: the run had 24 steps, and the window begins after 30.\n"


def test_it_prints_a_table(tmp_path, capsys):
    fit(plain(), ProfilingCallback(tmp_path, start_step=4, num_steps=2))
    said = capsys.readouterr().out
    assert said.startswith("Profile of 2 steps\n") and "share  total ms    calls" in said


def test_trackers_get_the_report(tmp_path, monkeypatch):
    class Tracker:
        def __init__(self):
            self.calls = []

        def __getattr__(self, name):
            return lambda *arguments: self.calls.append((name, *arguments))

    tracker = Tracker()
    monkeypatch.setattr(tracking, "active", lambda model: [tracker])
    callback = profiling(tmp_path, start_step=5, num_steps=4)
    fit(plain(), callback)
    log, text, artifact = tracker.calls
    assert log[0] == "log" and log[2] == 9
    assert log[1]["profile/step_ms"] == callback.report["milliseconds"]["step"]
    assert log[1]["profile/host_bytes"] == callback.report["memory"]["host"]
    assert text == ("text", "profile", callback.report["operations"], 9)
    assert artifact == ("artifact", "profile", tmp_path / "profile.json")


# What it leaves alone


def test_the_run_is_the_same_to_the_bit(tmp_path):
    weights = []
    for callbacks in ([], [profiling(tmp_path, start_step=3, num_steps=15)]):
        model = plain()
        history = fit(model, *callbacks).history
        kept = [*model.weights, *model.optimizer.variables]
        weights.append((history, [np.array(ops.convert_to_numpy(v)) for v in kept]))
    assert weights[0][0] == weights[1][0]
    for first, second in zip(weights[0][1], weights[1][1], strict=True):
        np.testing.assert_array_equal(first, second)


def test_outside_the_window_nothing_is_waited_for(tmp_path, monkeypatch):
    waits, synced = [], []
    monkeypatch.setattr(profile, "wait_for", lambda model: waits.append(1))
    model = plain()
    if keras.config.backend() == "jax":
        sync = model.jax_state_sync
        monkeypatch.setattr(model, "jax_state_sync", lambda: (synced.append(1), sync()))
    fit(model, epochs=2)
    alone = len(synced)
    for options in ({"start_step": 1000}, {"start_step": 2, "num_steps": 1}):
        synced.clear(), waits.clear()
        fit(model, profiling(tmp_path, **options), epochs=2)
        assert len(synced) == alone
        assert len(waits) == (0 if options["start_step"] == 1000 else 2)


def test_once_unless_asked(tmp_path):
    once, always = profiling(tmp_path / "a", start_step=2), profiling(tmp_path / "b", again=True)
    model = plain()
    for callback, differs in ((once, False), (always, True)):
        fit(model, callback)
        first = callback.report
        function = model.train_function
        fit(model, callback)
        assert (callback.report is not first) == differs
        assert model.train_function == function


@pytest.mark.parametrize("again", [False, True])
def test_a_resumed_run_is_not_profiled_once_more(tmp_path, again):
    first = profiling(tmp_path, start_step=2)
    fit(plain(), first)

    second = profiling(tmp_path, start_step=2, again=again)

    class Resume(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            second.set_state(first.get_state())

    fit(plain(), second, Resume())
    assert (second.report is not None) == again


def test_a_run_that_fails_in_the_window_leaves_nothing_open(tmp_path):
    class Fails(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 6:
                raise RuntimeError("the disk is full")

    model, callback = plain(), profiling(tmp_path, start_step=4, num_steps=8)
    with pytest.raises(RuntimeError, match="disk is full"):
        fit(model, callback, Fails())
    fit(model, callback)
    assert callback.report["steps"] == 8


def test_another_profiler_does_not_end_the_run(tmp_path):
    if keras.config.backend() == "torch":
        pytest.skip("torch runs several")
    stop = profile.start(tmp_path / "other")
    callback = profiling(tmp_path / "ours", start_step=2)
    with pytest.warns(UserWarning, match="Nothing is profiled: "):
        fit(plain(), callback)
    stop()
    assert callback.report is None


def test_bad_input(tmp_path):
    for name, value in (("start_step", -1), ("num_steps", 0), ("top", 0), ("num_steps", 1.5)):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer of at least"):
            ProfilingCallback(tmp_path, **{name: value})
