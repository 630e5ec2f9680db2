"""Where the time and the memory of a step go."""

import json
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path

import keras

from artifex_keras import tracking
from artifex_keras.backend import device_memory, processes, profile
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.utils import integer

__all__ = ["ProfilingCallback", "slowest"]

PARTS = {  # of a step's time, in the order of the table
    "step": "a step, while the profiler runs",
    "data_wait": "waiting for the next batch",
    "dispatch": "handing the step to the device",
    "drain": "waiting for the device at the end",
    "other": "callbacks and Keras's loop",
    "device": "the device at work (beside the host)",
    "step_before": "a step before the profiler ran",
}
FEWEST = 3  # steps that make a mean worth telling
UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))


class ProfilingCallback(BaseCallback):
    """Profiles `num_steps` steps of a run, once, and says where their time and memory went.

    It writes a trace into `log_dir`, which TensorBoard's profiler, and on JAX and torch Perfetto
    (ui.perfetto.dev), can open; `profile.json` and `profile.txt` beside it; and hands the figures
    to the trackers. `report` holds them afterwards:

    `operations`: the slowest operations, each with how often it ran in the window, its total time
        without that of the operations inside it, and its share in the time of all.
    `milliseconds`: means per step. `step` is the window's time by the clock, from when the device
        was idle to when it was again. The host spends it in `data_wait` (for the next batch, its
        way to the device included), `dispatch` (the call of the training function), `drain` (at the
        end, for the device to do what it has been handed) and `other` (callbacks, Keras's loop).
        Where the device is the slow part, `dispatch` or `drain` are long, as the host waits there;
        where the data are, `data_wait` is. `device` is how long operations ran, several at once
        counted once: it runs beside the host, so that it is no further part of the sum, and
        `step - device` is how long the device waited. `step_before` is a step before the window,
        without the trace. On TensorFlow data are read inside the program: `data_wait` is None.
    `memory`: bytes. `host` is the process in main memory; `device_in_use` and `device_peak` what
        the framework counts on the first device, None on a CPU; `program` what the compiled step
        needs for arguments, results (`in_place` of them in arguments' memory) and in between, known
        on JAX alone.

    Validation within the window is in the trace but not in these figures. Outside its window the
    callback costs nothing: it waits for no step and reads no weight.

    Args:
        log_dir: the folder of trace and tables.
        start_step: steps of this `fit` before the window; the first ones compile.
        num_steps: the window's length; with `steps_per_execution`, whole executions.
        memory: look at memory too.
        top: operations in the table.
        again: profile in each `fit` and after each resume, rather than once.
        verbose: print the table, or that the run was too short for one.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(
        self,
        log_dir,
        start_step=10,
        num_steps=5,
        memory=True,
        *,
        top=15,
        again=False,
        verbose=True,
    ):
        super().__init__()
        self.log_dir = Path(log_dir)
        self.start_step = integer("start_step", start_step)
        self.num_steps = integer("num_steps", num_steps, minimum=1)
        self.top = integer("top", top, minimum=1)
        self.memory, self.again, self.verbose = memory, again, verbose
        self.report = None
        self._profiled = self._resumed = False
        self._window = None

    # The run

    def on_train_begin(self, logs=None):
        self._abandon()
        # Of several processes, which do the same, one is enough.
        self._waiting = (self.again or not self._profiled) and processes.index() == 0
        self._before = self._first = self._since = None
        self._earlier = self._batch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._first = self._since = None

    def on_train_batch_begin(self, batch, logs=None):
        if not self._waiting:
            return
        if self._window is not None:
            self._window.resume()
            if self._window.steps >= self.num_steps:
                self._close()
            return
        if self._first is None:
            self._first = self._second = batch
        elif self._second == self._first:
            self._second = batch
        elif self._since is None:  # Keras compiles in the first execution and in the second
            self._since = batch, time.perf_counter()
        self._batch = batch
        if self._earlier + batch - self._first >= self.start_step:
            self._open(batch)

    def on_test_begin(self, logs=None):
        if self._window is not None:
            self._window.pause()

    def on_epoch_end(self, epoch, logs=None):
        if not self._waiting:
            return
        if self._window is not None:
            self._window.pause()
        elif self._first is not None:
            steps = self.params.get("steps") or self._batch + self.running_model.steps_per_execution
            self._earlier += steps - self._first

    def on_train_end(self, logs=None):
        if self._window is not None:
            self._window.pause()
            self._close()
        elif self._waiting and self.verbose:
            print(
                f"Nothing was profiled: the run had {self._earlier} steps, and the window "
                f"begins after {self.start_step}."
            )

    def get_state(self):
        return {"profiled": self._profiled}

    def set_state(self, state):
        self._profiled = bool(state["profiled"])
        # Of several processes, which do the same, one is enough.
        self._waiting = (self.again or not self._profiled) and processes.index() == 0

    # The window

    def _open(self, batch):
        self._opened = self._earlier + batch - self._first
        profile.wait_for(self.running_model)
        if self._since is not None and batch - self._since[0] >= FEWEST:
            steps, seconds = batch - self._since[0], time.perf_counter() - self._since[1]
            self._before = 1e3 * seconds / steps
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self._window = _Window(self.running_model, self.log_dir)
        except Exception as error:  # another profiler is running, the folder can't be written
            self._waiting = False
            warnings.warn(f"Nothing is profiled: {error}", stacklevel=2)

    def _abandon(self):
        """Ends a window that a run left open when it failed."""
        if self._window is not None:
            self._window.leave()
            self._window = None

    def _close(self):
        window, self._window, self._waiting = self._window, None, False
        try:
            window.close()
            self.report = self._reported(window)
            self._write()
            self._tell()
        except Exception as error:
            warnings.warn(f"The profile is incomplete: {error}", stacklevel=2)
        self._profiled = True

    def _reported(self, window):
        rows = slowest(window.operations, self.top)
        report = {
            "steps": window.steps,
            "milliseconds": {**window.milliseconds(), "step_before": self._before},
            "operations": rows,
        }
        if self.memory:
            programs = {operation.program for operation in window.operations}
            in_use, peak = device_memory() or (None, None)
            report["memory"] = {
                "host": _resident(),
                "device_in_use": in_use,
                "device_peak": peak,
                "program": profile.step_memory(window.model, programs),
            }
        return report

    def _write(self):
        text = _text(self.report)
        (self.log_dir / "profile.json").write_text(
            json.dumps(self.report, indent=2) + "\n", encoding="utf-8"
        )
        (self.log_dir / "profile.txt").write_text(text + "\n", encoding="utf-8")
        if self.verbose:
            print(f"{text}\nThe trace is in {self.log_dir}.")

    def _tell(self):
        """Hands figures and table to the trackers, at the last step of the window."""
        step = self._opened + self.report["steps"]
        times = self.report["milliseconds"].items()
        figures = {f"profile/{name}_ms": value for name, value in times if value is not None}
        memory = self.report.get("memory", {}).items()
        figures |= {f"profile/{name}_bytes": size for name, size in memory if isinstance(size, int)}
        for tracker in tracking.active(self.running_model):
            tracker.log(figures, step)
            tracker.text("profile", self.report["operations"], step)
            tracker.artifact("profile", self.log_dir / "profile.json")


class _Window:
    """The steps between two moments at which the device is idle."""

    def __init__(self, model, folder):
        self.model, self.function = model, model.train_function
        self.steps = 0
        self.data_wait = self.dispatch = self.drain = 0.0
        self.pauses, self.paused = [], None
        self.operations = []
        self._reads = keras.config.backend() != "tensorflow"  # whose program reads by itself
        self._returned = None
        self.began = time.perf_counter()
        self._stop = profile.start(folder)
        self._wrapper = self._run
        model.train_function = self._wrapper
        self.started = time.perf_counter()

    def _run(self, *arguments):
        """The training function, timed. Its last argument is an iterator, or a list of batches."""
        if self._stop is None:
            return self.function(*arguments)
        *state, source = arguments
        waited, began = self.data_wait, time.perf_counter()
        if hasattr(source, "__next__") and self._reads:
            source = self._timed(source)
        elif hasattr(source, "__len__"):
            self.steps += len(source)
            if self._returned is not None:  # read in Keras's loop since
                self.data_wait += began - self._returned
                waited = self.data_wait
        else:
            self.steps += self.model.steps_per_execution
        result = self.function(*state, source)
        self._returned = time.perf_counter()
        self.dispatch += self._returned - began - (self.data_wait - waited)
        return result

    def _timed(self, source):
        while True:
            began = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            finally:
                self.data_wait += time.perf_counter() - began
            self.steps += 1
            yield batch

    def pause(self):
        if self.paused is None:
            began = time.perf_counter()
            profile.wait_for(self.model)
            self.paused = time.perf_counter()
            self.drain += self.paused - began
            self._returned = None

    def resume(self):
        if self.paused is not None:
            self.pauses.append((self.paused, time.perf_counter()))
            self.paused = None

    def leave(self):
        """Puts the training function back and ends the trace."""
        if self.model.train_function == self._wrapper:
            self.model.train_function = self.function
        stop, self._stop = self._stop, None
        return stop()

    def close(self):
        self.pause()
        self.ended = self.paused
        operations = self.leave()
        # The trace's clock starts at some moment while it is being started.
        outside = [(start - self.started, end - self.started) for start, end in self.pauses]
        self.operations = [
            operation
            for operation in operations
            if not any(start < operation.start < end for start, end in outside)
        ]

    def milliseconds(self):
        """The means of the parts of a step."""
        paused = sum(end - start for start, end in self.pauses)
        step = self.ended - self.started - paused
        reads = self._reads and self.data_wait > 0
        seconds = {
            "step": step,
            "data_wait": self.data_wait if reads else None,
            "dispatch": self.dispatch,
            "drain": self.drain,
            "other": step - self.data_wait - self.dispatch - self.drain,
            "device": busy(self.operations) if self.operations else None,
        }
        steps = max(self.steps, 1)
        return {
            name: None if value is None else 1e3 * value / steps for name, value in seconds.items()
        }


# What a trace tells


def busy(operations):
    """Seconds in which at least one of `operations` ran."""
    total, until = 0.0, float("-inf")
    for operation in sorted(operations, key=lambda operation: operation.start):
        total += max(0.0, operation.end - max(operation.start, until))
        until = max(until, operation.end)
    return total


def own_times(operations):
    """`(operation, seconds)` of each, without what other operations took inside it."""
    lines = defaultdict(list)
    for operation in operations:
        lines[operation.line].append(operation)
    for line in lines.values():
        around, own = [], {}
        for index, operation in sorted(
            enumerate(line), key=lambda pair: (pair[1].start, -pair[1].end)
        ):
            while around and line[around[-1]].end <= operation.start:
                around.pop()
            length = operation.end - operation.start
            own[index] = length
            if around:
                own[around[-1]] -= length
            around.append(index)
        for index, seconds in own.items():
            yield line[index], max(seconds, 0.0)


def slowest(operations, count):
    """The `count` operations that took longest: dicts of op, program, calls, total_ms, share."""
    calls, totals = defaultdict(int), defaultdict(float)
    for operation, seconds in own_times(operations):
        calls[operation.name, operation.program] += 1
        totals[operation.name, operation.program] += seconds
    whole = sum(totals.values()) or 1.0
    order = sorted(totals, key=lambda key: (-totals[key], key))[:count]
    return [
        {
            "op": name,
            "program": program,
            "calls": calls[name, program],
            "total_ms": 1e3 * totals[name, program],
            "share": totals[name, program] / whole,
        }
        for name, program in order
    ]


def _resident():
    """Bytes of this process in main memory; the most so far where the present isn't told."""
    try:
        import resource

        statm = Path("/proc/self/statm")
        if statm.exists():
            return int(statm.read_text().split()[1]) * resource.getpagesize()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    except ImportError:  # Windows
        return None


# Tables


def _text(report):
    lines = [f"Profile of {report['steps']} steps", "", "  ms/step"]
    for name, value in report["milliseconds"].items():
        shown = "      -  " if value is None else f"{value:9.3f}"
        lines.append(f"{shown}  {name}: {PARTS[name]}")
    lines += ["", "    share  total ms    calls  operation"]
    for row in report["operations"]:
        program = f"  in {row['program']}" if row["program"] else ""
        share, total, calls = row["share"], row["total_ms"], row["calls"]
        lines.append(f"  {share:6.1%}  {total:8.3f}  {calls:7}  {row['op']}{program}")
    if not report["operations"]:
        lines.append("  (the trace has no operations)")
    if "memory" in report:
        lines += ["", "  memory", *(f"  {line}" for line in _memory_lines(report["memory"]))]
    return "\n".join(lines)


def _memory_lines(memory):
    yield f"{_size(memory['host']):>10}  this process in main memory"
    for name in ("device_in_use", "device_peak"):
        if memory[name] is not None:
            yield f"{_size(memory[name]):>10}  {name.replace('_', ' ', 2)}"
    for kind, size in memory["program"].items():
        yield f"{_size(size):>10}  the compiled step: {kind.replace('_', ' ')}"


def _size(size):
    if size is None:
        return "unknown"
    unit, factor = next(pair for pair in UNITS if size >= pair[1] or pair[1] == 1)
    return f"{size / factor:.1f} {unit}" if factor > 1 else f"{size} B"
