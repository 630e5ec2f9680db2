"""The callback that profiles some steps of a run."""

import json
import time
import warnings

from artifex_keras import tracking
from artifex_keras.aliases import FilePath
from artifex_keras.arguments import boolean, checked, count, file_path, integer
from artifex_keras.atomic import user_path, write_text
from artifex_keras.backend import device_memory, processes, profile
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.memory import resident_memory
from artifex_keras.callbacks.profiling.operations import slowest
from artifex_keras.callbacks.profiling.report import format_report
from artifex_keras.callbacks.profiling.window import Window

__all__ = ["ProfilingCallback"]

FEWEST = 3  # steps for a meaningful mean


@checked(
    log_dir=file_path,
    start_step=count(0),
    num_steps=count(),
    memory=boolean,
    top=count(),
    again=boolean,
    verbose=boolean,
)
class ProfilingCallback(BaseCallback):
    """Profiles `num_steps` steps of a run, once: where their time and memory went.

    It writes a trace into `log_dir`, for TensorBoard's profiler and, on JAX and torch, Perfetto
    (ui.perfetto.dev); `profile.json` and `profile.txt` beside it; and the figures to the trackers.
    Afterwards `report` is a dict of

    `operations`: the slowest operations, each with its number of calls in the window, its total
        time without that of operations inside it, and its share of the time of all operations.
    `milliseconds`: means per step. `step` is the wall-clock time of the window, between two moments
        at which the device is idle. The host spends it in `data_wait` (waiting for the next batch,
        with its transfer to the device), `dispatch` (the call of the training function), `drain`
        (waiting for the device at the end) and `other` (callbacks, Keras's loop). A slow device
        makes `dispatch` or `drain` long, since the host waits there; slow data make `data_wait`
        long. `device` is the time in which at least one operation ran; it overlaps with the host's
        parts, and `step - device` is the time in which the device was idle. `step_before` is a step
        before the window, without the trace. On TensorFlow, whose program reads the data itself,
        `data_wait` is None.
    `memory`: bytes. `host` is the resident memory of the process; `device_in_use` and `device_peak`
        the framework's count on the first device, None on a CPU; `program` the needs of the
        compiled step for arguments, results (`in_place` of them in the arguments' memory) and
        temporaries, on JAX only.

    Validation within the window is in the trace but not in these figures. Outside the window the
    callback costs nothing: it waits for no step and reads no weight.

    Args:
        log_dir: the folder of trace and tables.
        start_step: steps of this `fit` before the window; the first ones compile.
        num_steps: the length of the window; with `steps_per_execution`, full executions.
        memory: whether to measure memory too.
        top: the number of operations in the table.
        again: whether to profile in each `fit` and after each resume, rather than once.
        verbose: whether to print the table, or that the run was too short.

    Raises:
        ValueError: for numbers out of range.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(32, 4))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        profiling = ak.callbacks.ProfilingCallback("profile", 2, num_steps=2, verbose=False)
        model.fit(x, x[:, :1], batch_size=4, verbose=0, callbacks=[profiling])
        assert profiling.report["steps"] == 2 and profiling.report["milliseconds"]["step"] > 0
        ```
    """

    def __init__(
        self,
        log_dir: FilePath,
        start_step: int = 10,
        num_steps: int = 5,
        memory: bool = True,
        *,
        top: int = 15,
        again: bool = False,
        verbose: bool | int | str = True,
    ):
        super().__init__()
        self.log_dir = user_path(log_dir)
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
        # One of several processes is enough: they do the same.
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
        # One of several processes is enough: they do the same.
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
            self._window = Window(self.running_model, self.log_dir)
        except Exception as error:  # another profiler is running, the folder can't be written
            self._waiting = False
            warnings.warn(f"Nothing is profiled: {error}", stacklevel=2)

    def _abandon(self):
        """Closes a window that an earlier run, which failed, left open."""
        if self._window is not None:
            self._window.leave()
            self._window = None

    def _close(self):
        window, self._window, self._waiting = self._window, None, False
        try:
            window.close()
            self.report = self._build_report(window)
            self._write()
            self._track()
        except Exception as error:
            warnings.warn(f"The profile is incomplete: {error}", stacklevel=2)
        self._profiled = True

    def _build_report(self, window):
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
                "host": resident_memory(),
                "device_in_use": in_use,
                "device_peak": peak,
                "program": profile.step_memory(window.model, programs),
            }
        return report

    def _write(self):
        text = format_report(self.report)
        write_text(self.log_dir / "profile.json", json.dumps(self.report, indent=2) + "\n")
        write_text(self.log_dir / "profile.txt", text + "\n")
        if self.verbose:
            print(f"{text}\nThe trace is in {self.log_dir}.")

    def _track(self):
        """Sends figures and table to the trackers, at the last step of the window."""
        step = self._opened + self.report["steps"]
        times = self.report["milliseconds"].items()
        figures = {f"profile/{name}_ms": value for name, value in times if value is not None}
        memory = self.report.get("memory", {}).items()
        figures |= {f"profile/{name}_bytes": size for name, size in memory if isinstance(size, int)}
        for tracker in tracking.active(self.running_model):
            tracker.log(figures, step)
            tracker.text("profile", self.report["operations"], step)
            tracker.artifact("profile", self.log_dir / "profile.json")
