"""The callback that logs rows to the console, a file and trackers."""

import contextlib
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from artifex_keras import backend
from artifex_keras.aliases import FilePath
from artifex_keras.arguments import (
    boolean,
    checked,
    count,
    file_path,
    integer,
    one_of,
    optional,
)
from artifex_keras.backend import processes, reader
from artifex_keras.backend.utilization import steps_at_peak
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.logging.readings import epoch_means, scalars
from artifex_keras.callbacks.logging.speed import SpeedClock
from artifex_keras.callbacks.memory import memory_in_use
from artifex_keras.tracking import Guarded, Rows, Trackers, description
from artifex_keras.tracking.run import close_broken_off

__all__ = ["LoggingCallback"]

logger = logging.getLogger("artifex_keras")

OWN = ("learning_rate", "weight_norm")  # read beside the metrics

# The values of `console`: from `verbose` of `fit`, 1 for its progress bar, to whether lines are
# printed when the logger is not enabled.
CONSOLE = {
    "auto": lambda verbose: verbose not in (1, "auto"),
    "log": lambda verbose: False,
    "True": lambda verbose: True,
    "False": None,
}


@checked(
    log_every_n_steps=count(),
    file=optional(file_path),
    console=one_of("auto", "log", True, False),
    norms=boolean,
    performance=boolean,
    folder=file_path,
)
class LoggingCallback(BaseCallback):
    """Logs metrics, learning rates and speed every n steps and at the end of each epoch.

    A row goes to the console, to a file and to trackers (see `tracking`), with the same `step`:
    the batches since the start of the run, over all epochs and resumes. A row has

    - `step`, `epoch` from 1, and `row`: "step", or "epoch" for the row that ends an epoch;
    - the metrics as Keras shows them: running means of the epoch, in the epoch's row its means and
      the `val_` metrics, equal to the history;
    - `learning_rate`, of the next update; of several optimizers `learning_rate/generator`, ...;
    - with `norms`, `weight_norm` of all trainable weights and `gradient_norm` of the last step;
    - with `performance`, since the row before and without validation, `steps_per_second`,
      `examples_per_second` (for models of tokens `tokens_per_second`); `mfu` where the chip is
      known, see below; `seconds` of the run;
      `device_memory_bytes` and `device_memory_peak_bytes`, or on a CPU `host_memory_bytes` of the
      process.

    `mfu`, model FLOPs utilization, is the share of the peak figures of all devices that the steps
    reach: operations of their matrix products and convolutions per second, rematerialised ones
    included, by the peak of the chip in `planning.CHIPS` for bfloat16 or float32. There is one for
    our models on JAX, unless a loop of the step turns an unknown number of times. It is counted
    once, for the first row with a speed, by tracing the step again.

    Values are fetched from the device only for a row. A new run overwrites the file; a resumed run,
    or one with `initial_epoch`, keeps the rows up to its first step. NaN and infinity are written
    as nan, inf and -inf, in JSON as strings. A failure to write is a warning.

    Gradients exist only inside a step, so with `norms` the step of a `GenerativeModel` measures
    them before clipping, for each optimizer, in every step: one more pass over the gradients, and
    one more metric in the history. Other models have no such metric.

    Args:
        log_every_n_steps: steps from one row to the next.
        use_wandb: True, or a dict of options of the tracker "wandb". A tracker that the trainer or
            another callback has open is not opened again.
        use_tensorboard: the same for "tensorboard".
        file: a path that ends in .csv or .jsonl.
        tracking: trackers with their options, such as `{"mlflow": {"experiment": "digits"}}`; the
            names are those of `tracking.TRACKERS`.
        console: "auto" logs to the logger "artifex_keras" at level INFO; if that is not enabled, it
            prints, unless Keras shows its progress bar. "log" never prints, True always prints,
            False does neither.
        norms: whether to measure norms.
        performance: whether to measure speed, time and memory. Without them the file of an
            interrupted and resumed run equals that of an uninterrupted one.
        folder: the folder of the trackers' files; by default the working folder.

    Raises:
        ValueError: for arguments out of range, an unknown tracker or option, or a secret among the
            options.
        ImportError: for a tracker whose package isn't installed.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(32, 4))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        log = ak.callbacks.LoggingCallback(2, file="log.csv", console=False)
        model.fit(x, x[:, :1], batch_size=8, epochs=2, verbose=0, callbacks=[log])
        rows = open("log.csv").read().splitlines()
        assert {"step", "epoch", "loss", "learning_rate"} <= set(rows[0].split(","))
        ```
    """

    def __init__(
        self,
        log_every_n_steps: int = 100,
        use_wandb: bool = False,
        use_tensorboard: bool = False,
        file: FilePath | None = None,
        *,
        tracking: Any = None,
        console: bool | str = "auto",
        norms: bool = False,
        performance: bool = True,
        folder: FilePath = ".",
    ):
        super().__init__()
        self._prints = CONSOLE[str(console)]
        self.log_every_n_steps = integer("log_every_n_steps", log_every_n_steps, minimum=1)
        self.norms, self.performance, self.folder = norms, performance, folder
        options = _tracker_options(tracking, wandb=use_wandb, tensorboard=use_tensorboard)
        self._trackers = Trackers(options)
        self._file = None if file is None else Guarded(Rows(file))
        self._resumed_state = self._reader = None
        self._reset()

    def _reset(self):
        self._open = False
        self._epoch = self._base = self._batch = self._last = 0
        self._clock = None
        self._at_peak = ()  # steps per second, when it has been asked

    @property
    def step(self):
        """Steps of the run so far."""
        return self._base + self._batch

    def set_model(self, model):
        super().set_model(model)
        if self.norms and hasattr(model, "gradient_norms"):
            model.gradient_norms = True

    # The run

    def on_train_begin(self, logs=None):
        self.close("failed")  # a run before that broke off
        close_broken_off(self.running_model)  # the same of another callback
        self._reset()

    def on_epoch_begin(self, epoch, logs=None):
        if not self._open:
            self._start(epoch, self._resumed_state or {})
            self._resumed_state = None
        elif self._clock is not None:
            self._clock.go(self.step)  # what other callbacks do between epochs is not training
        self._epoch = epoch

    def _start(self, epoch, state):
        steps = (self.params or {}).get("steps") or 0
        self._base, self._batch = state.get("base", epoch * steps), state.get("batch", 0)
        if epoch > state.get("epoch", epoch):  # saved at its end, before we saw it
            self._base += self._batches()
            self._batch = 0
        self._last = self.step
        seconds = state.get("seconds", 0.0)
        self._clock = SpeedClock(self._base, self.step, seconds) if self.performance else None
        config = getattr(self.trainer, "config", None)
        params = {}
        if self._trackers:
            params = description(
                self.running_model, config.to_dict() if config is not None else None
            )
        self._trackers.open(
            self.running_model,
            params,
            step=self.step,
            state=state.get("trackers"),
            folder=self.folder,
        )
        if self._file is not None and not processes.index():
            self._file.begin("", {})
            self._file.open(params, self.step)
        self._open = True

    def on_train_batch_begin(self, batch, logs=None):
        # The begin of a batch is the end of the one before, seen in order and without a sync.
        step = self._base + batch
        self._batch = batch
        if step // self.log_every_n_steps > self._last // self.log_every_n_steps:
            if self._has_listeners():
                self._log_row(step)
        elif self._clock is not None and self._clock.since is None:
            self._clock.start(step)
        self._last = step

    def on_epoch_end(self, epoch, logs=None):
        step = self._base + self._batches()
        due = step // self.log_every_n_steps > self._last // self.log_every_n_steps
        logs = {name: float(value) for name, value in (logs or {}).items()}
        self._log_row(step, logs, line=due)
        self._base, self._batch, self._epoch, self._last = step, 0, epoch + 1, step
        self._final = logs

    def on_test_begin(self, logs=None):
        if self._open and self._clock is not None:
            # Waits, for what was dispatched so far is training; then Keras forgets the count.
            self._clock.pause(self._read()["examples"])

    def on_test_end(self, logs=None):
        if self._open and self._clock is not None:
            self._clock.go_on()

    def on_train_end(self, logs=None):
        self.close()

    @contextlib.contextmanager
    def closed_at_the_end(self):
        """A context in which an exception closes the trackers with the status "failed"."""
        try:
            yield
        except BaseException:
            self.close("failed")
            raise

    def close(self, status="finished"):
        """Closes file and trackers; `status` is "finished" or "failed"."""
        if not self._open:
            return
        self._open = False
        final = getattr(self, "_final", {})
        summary = {**final, "steps": self._base, "epochs": self._epoch}
        with tempfile.TemporaryDirectory() as folder:
            keep = status == "finished" and self._trackers.keep_model
            kept = _save_model(self.model, folder) if keep else {}
            self._trackers.finish(
                self.running_model, status=status, summary=summary, artifacts=kept
            )
        if self._file is not None and not processes.index():
            self._file.close(status)

    def _batches(self):
        """The number of batches of the epoch that ends."""
        done = self._batch + (getattr(self.running_model, "steps_per_execution", None) or 1)
        steps = (self.params or {}).get("steps")
        if steps:
            return min(done, steps)
        # Data of unknown length end after the begin of a batch that then isn't there; only the
        # loop on torch looks first.
        found = self.running_model.stop_training or backend.name() == "torch"
        return done if found else self._batch

    def _has_listeners(self):
        """Whether a row would go anywhere; True in several processes, which read together."""
        if processes.count() > 1:
            return True
        printing = self._prints is not None and (
            logger.isEnabledFor(logging.INFO) or self._prints(self.params.get("verbose"))
        )
        return printing or self._file is not None or bool(self._trackers)

    # A row

    def _log_row(self, step, epoch_logs=None, line=True):
        read = self._read()
        now = time.perf_counter()
        row = epoch_means(read) if epoch_logs is None else dict(epoch_logs)
        row |= {name: value for name, value in read.items() if name.startswith(OWN)}
        if self._clock is not None:
            speed = self._clock.lap(now, step, read["examples"], epoch_logs is not None)
            counted = getattr(self.running_model, "counts", "examples")
            row |= {name.format(counted): value for name, value in speed.items()}
            row |= self._utilization(speed.get("steps_per_second")) | memory_in_use()
        if line and not processes.index():
            self._print_row(step, row)
        if self._file is not None and not processes.index():
            kind = "step" if epoch_logs is None else "epoch"
            self._file.log({"epoch": self._epoch + 1, "row": kind, **row}, step)
        self._trackers.log({"epoch": self._epoch + 1, **row}, step)
        if self._clock is not None:
            self._clock.go(step)  # what was done here is not training

    def _utilization(self, steps_per_second):
        """MFU, a dict; empty where it isn't known."""
        if steps_per_second is None:
            return {}
        if not self._at_peak:
            self._at_peak = (self._steps_at_peak(),)
        return {} if self._at_peak[0] is None else {"mfu": steps_per_second / self._at_peak[0]}

    def _steps_at_peak(self):
        fit = getattr(self.running_model, "running_fit", None)
        rows = getattr(getattr(fit, "iterator", None), "data_adapter", None)
        try:
            return steps_at_peak(self.running_model, getattr(rows, "batch_size", None))
        except Exception as error:  # no reason to end a run
            logger.warning("mfu is not logged: %s", error)
            return None

    def _read(self):
        """The `scalars` on the device, as floats; compiled once for a model with its optimizer."""
        model = self.running_model
        key = id(model), id(model.optimizer), len(model.metrics)
        if self._reader is None or self._reader[0] != key:
            read = reader(model, lambda: scalars(model, self.norms), weights=self.norms)
            self._reader = key, read
        return self._reader[1]()

    def _print_row(self, step, row):
        if self._prints is None:
            return
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        skipped = ("seconds", "memory", "_per_second")
        shown = {n: v for n, v in row.items() if not any(part in n for part in skipped)}
        values = " - ".join(f"{name}: {value:.4g}" for name, value in shown.items())
        line = f"epoch {self._epoch + 1}/{epochs}, step {step - self._base}/{steps or '?'}"
        line = f"{line} - {values}"
        if "steps_per_second" in row:
            line += f" - {row['steps_per_second']:.4g} steps/s"
        if logger.isEnabledFor(logging.INFO):
            logger.info(line)
        elif self._prints(self.params.get("verbose")):
            print(line, flush=True)

    # Resuming

    def get_state(self):
        state = {"epoch": self._epoch, "base": self._base, "batch": self._batch}
        if self._clock is not None:
            state["seconds"] = self._clock.seconds()
        return {**state, "trackers": self._trackers.state()}

    def set_state(self, state):
        """Continues from a state of `get_state` in the next run: steps, file, trackers' runs."""
        self._resumed_state = state


def _tracker_options(tracking, **flags):
    """The options of `tracking` and of the flags, which are booleans or dicts of options."""
    wanted = dict(tracking) if isinstance(tracking, dict) else tracking
    for name, flag in flags.items():
        if isinstance(flag, dict) or flag is True:
            if wanted and name in wanted:
                raise ValueError(
                    f"The tracker {name!r} is given twice, by `use_{name}` and in `tracking`."
                )
            wanted = {**(wanted or {}), name: {} if flag is True else flag}
        elif flag is not False and flag is not None:
            raise ValueError(
                f"`use_{name}` must be True, False or a dict of options. "
                f"Received: a {type(flag).__name__}."
            )
    return wanted


def _save_model(model, folder):
    """Saves the model in `folder`: `{"model.keras": path}`, or {} and a warning if it can't be."""
    path = Path(folder, "model.keras")
    try:
        with processes.undistributed():
            model.save(path)
    except Exception as error:
        logger.warning("the model is not kept by the trackers: %s", error)
        return {}
    return {path.name: path}
