"""The callback that saves a run and resumes it."""

import contextlib
import sys

import numpy as np

from artifex_keras.aliases import FilePath
from artifex_keras.arguments import (
    boolean,
    checked,
    count,
    folder_path,
    integer,
    lookup,
    number,
    text,
)
from artifex_keras.backend import keras_internals, processes
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.checkpoint.arrays import restore, snapshot
from artifex_keras.callbacks.checkpoint.clock import Clock
from artifex_keras.callbacks.checkpoint.kept import kept_in
from artifex_keras.callbacks.checkpoint.last import LastCallback
from artifex_keras.callbacks.checkpoint.newest import newest, newest_of_all
from artifex_keras.callbacks.checkpoint.orbax_files import orbax
from artifex_keras.callbacks.checkpoint.parts import folder_of_all, needed_by, own_parts
from artifex_keras.callbacks.checkpoint.position import DataPosition
from artifex_keras.callbacks.checkpoint.remote_store import store_in
from artifex_keras.callbacks.checkpoint.settings import Settings
from artifex_keras.callbacks.checkpoint.signals import AgreedSignals, Signals, end_process
from artifex_keras.callbacks.checkpoint.states import (
    Unkept,
    callback_state,
    config_of,
    model_description,
    named_callbacks,
    set_callback_states,
    versions,
    why_ended,
)
from artifex_keras.callbacks.checkpoint.trees import pack
from artifex_keras.callbacks.checkpoint.writing import Writing
from artifex_keras.callbacks.metric import Watched

__all__ = ["CheckpointCallback"]

RESUME = {"never": False, "auto": True}


@checked(
    save_dir=folder_path,
    save_best=boolean,
    metric=text,
    best_to_keep=count(),
    asynchronous=boolean,
    heed_signals=boolean,
    verbose=boolean,
)
class CheckpointCallback(BaseCallback):
    """Saves a run, and resumes it exactly: to the last bit on a CPU.

    A checkpoint holds the weights, optimizers, averages, seeds, the metrics of the running epoch,
    the history, the position in the data, and the states of all callbacks. Orbax writes it in a
    thread beside the training, into a folder that gets its name when it is complete. A run on a CPU
    that was killed and resumed ends with the same weights, optimizer and history as one that was
    not, if the data come in the same order again: arrays, a `PyDataset`, a grain dataset, a torch
    loader and a `tf.data` pipeline with seeded shuffling do. If they don't, a warning says so.
    `tf.data` and generators are read up to the right batch; the others begin there.

    SIGTERM and Ctrl-C save and end the run after the step; a second signal ends it at once. After
    SIGTERM the process then ends too, as it would have without this callback. If a
    checkpoint can't be written, a warning says why, the run continues, and earlier ones stay.

    Where weights are sharded over several processes, each writes the parts that it holds, and reads
    those that it needs, if all see one folder under `save_dir`. Else the first one alone writes,
    and sends the others what it has read. Any number of processes can resume a checkpoint. A signal
    to one of them ends all after the same step.

    One run at a time writes into the folder: a second one is refused, with who holds it. A killed
    run holds nothing. Reading a folder in use is fine.

    The folder may be behind an address, such as "gs://bucket/run" with the extra `gcs`. There a
    checkpoint is complete when its last object is written, and a run that goes on elsewhere waits a
    minute to see that no other one is at work.

    It works in any `keras.Model.fit`. Use `restore_checkpoint` and `export_checkpoint` afterwards.

    Args:
        save_dir: the folder of the checkpoints: a path, or an address.
        save_every_n_epochs: epochs from one checkpoint to the next; None for none by epochs. The
            end of the run is always saved.
        save_every_n_steps: also save after so many batches, within epochs too.
        save_best: also save after each epoch with the best value of `metric` so far.
        metric: the name of the metric in the logs.
        mode: "min" or "max" for a metric that should fall or rise; "auto" asks the model.
        max_to_keep: how many of the newest checkpoints to keep; None keeps all.
        resume: "auto" resumes from the newest readable checkpoint, or starts where there is none;
            "never" starts, and moves existing checkpoints into the subfolder `earlier-1`.
        save_every_n_minutes: also save after so many minutes.
        best_to_keep: with `save_best`, how many of the best checkpoints to keep.
        asynchronous: whether to write while the training continues.
        heed_signals: whether SIGTERM and SIGINT save and stop.
        end_on_sigterm: whether the process ends when `fit` has saved after a SIGTERM; False lets
            `fit` return, and `interrupted` says why. Of several processes, which agree on the
            step, `fit` always returns.
        verbose: whether to print where a run resumes and why it stops.

    Attributes:
        interrupted: the name of the signal that ended the run, or None.

    Raises:
        ValueError: for arguments out of range; in `fit`, for a metric that the run won't have or of
            which the model doesn't say which way is better, without a `mode`, for a folder into
            which another run writes, and for a checkpoint of a different model, with the
            differences.
        ImportError: if Orbax isn't installed, or what reaches an address.
        RemoteError: in `fit`, if an address can't be reached when a run begins or resumes.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(32, 4))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        model.fit(x, x[:, :1], verbose=0, callbacks=[ak.callbacks.CheckpointCallback("run")])

        resumed = ak.callbacks.CheckpointCallback("run", resume="auto")
        history = model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[resumed])
        assert history.epoch == [0, 1]
        ```
    """

    def __init__(
        self,
        save_dir: FilePath,
        save_every_n_epochs: int = 1,
        save_every_n_steps: int | None = None,
        save_best: bool = False,
        metric: str = "val_loss",
        mode: str = "auto",
        max_to_keep: int = 5,
        resume: str = "never",
        *,
        save_every_n_minutes: float | None = None,
        best_to_keep: int = 1,
        asynchronous: bool = True,
        heed_signals: bool = True,
        end_on_sigterm: bool = True,
        verbose: bool | int | str = True,
    ):
        super().__init__()
        optional = {"minimum": 1, "optional": True}
        self.save_every_n_epochs = integer("save_every_n_epochs", save_every_n_epochs, **optional)
        self.save_every_n_steps = integer("save_every_n_steps", save_every_n_steps, **optional)
        self.save_every_n_minutes = number(
            "save_every_n_minutes", save_every_n_minutes, above=0, optional=True
        )
        self.save_best = save_best
        self.resume = lookup(RESUME, resume, "resume")
        self.asynchronous = asynchronous
        self.heed_signals = heed_signals
        self.end_on_sigterm = boolean("end_on_sigterm", end_on_sigterm)
        self.verbose = verbose
        self.watched = Watched(metric, mode)
        self.store = store_in(
            save_dir,
            integer("max_to_keep", max_to_keep, **optional),
            integer("best_to_keep", best_to_keep, minimum=1) if save_best else 0,
        )
        self.interrupted = None
        self._step = self._saved = self._last_checked = 0
        self._writing = Writing(self.store.folder)
        self._lock = self.store.lock(self._is_running)
        self._clock = Clock(self.save_every_n_minutes)
        orbax()

    def on_train_begin(self, logs=None):
        self._position = DataPosition.of_running_fit(self.running_model)
        if self.save_best:
            self.watched.begin(self.running_model)
        last = LastCallback(self)
        last.set_model(self.running_model)
        last.set_params(self.params)
        self._position.callbacks.append(last)

    # The hooks of `LastCallback`

    def begin(self):
        several = processes.count() > 1
        self._signals = (
            AgreedSignals(self._say_signal)
            if several
            else Signals(self._position.runs_in, self._say_signal)
        )
        self.interrupted = None
        self._metrics = None
        self._description = model_description(self.running_model)
        self._settings = Settings(self.running_model, self._description, config_of(self.trainer))
        processes.on_first_process(self._take_folder)
        self._in_one_folder = folder_of_all(self.store.folder)
        found = self._find() if self.resume else None
        if found is not None:
            self._resume(*found)
        else:
            self._start_fresh()
        self._unkept = Unkept(self._position.callbacks)
        self._clock.restart()
        if self.heed_signals:
            self._signals.install()

    def _take_folder(self):
        """Takes and tidies the folder."""
        with contextlib.suppress(OSError):  # a folder that can't be written: `save` warns
            self._lock.acquire()
        if (fit := getattr(self.running_model, "running_fit", None)) is not None:
            fit.at_exit.append(self._leave_folder)
        Writing.finish(self.store.folder)  # an earlier `fit` that broke off may still write
        self.store.sweep()

    def _find(self):
        """`(named_arrays, meta)` of the newest readable checkpoint, None where there is none."""
        if not self._in_one_folder:
            return newest(self.store)

        def needed():
            self._position.build_model(self.model)
            return needed_by(self.model)

        return newest_of_all(self.store, needed)

    def _start_fresh(self):
        if not processes.on_first_process(self._owns_folder):
            self._step = self._saved = self._last_checked = 0
            self.watched.best = None

    def _owns_folder(self):
        """Whether the checkpoints are of an earlier `fit` of this callback; moves others aside."""
        steps = self.store.steps()
        same_run = steps[:1] == [self._saved]
        if steps and not same_run:
            aside = self.store.set_aside()
            self._say(f"Checkpoints of an earlier run are now in {str(aside)!r}.")
        return same_run

    def begin_epoch(self, epoch):
        self._epoch, self._epoch_start, self._epoch_left = epoch, self._step, False
        history = self.running_model.history
        rows = {name: list(values) for name, values in history.history.items()}
        self._history_before = {"epoch": list(history.epoch), "rows": rows}
        # Keras has read it, and would keep it for another `fit`.
        keras_internals.set_initial_epoch(self.running_model, None)
        if self._metrics is not None:  # Keras has just reset them
            self._epoch_start -= self._batches_done
            restore(self.model, self._metrics, "metrics")
            self._metrics = None

    def begin_batch(self, batch):
        self._step = self._epoch_start + batch
        due, signal = self._due(), self._stop_signal()
        if (due or signal) and self._position.has_another_batch():
            if signal:
                self._stop(complete=False)
            else:
                self._save(complete=False)

    def leave_epoch(self):
        """Counts the batches of the epoch; saves a run that another callback stops within it.

        It is called before validation, which resets the metrics of the training.
        """
        stopped = not self._position.complete and self.running_model.stop_training
        if stopped and not self._epoch_left and not self.interrupted:
            self._epoch_left = True
            self._position.count_trained()
            self._step = self._epoch_start + self._position.batch
            self._save(complete=False)
        elif not self._epoch_left:
            self._step = self._epoch_start + self._position.batch

    def end_epoch(self, epoch, logs):
        self.leave_epoch()
        complete = self._position.complete
        if self.interrupted or self._stop_signal():
            if not self.interrupted:
                self._stop(complete)
            return
        rating = self._rating(logs) if complete and self.save_best else None
        every = self.save_every_n_epochs
        due = complete and every is not None and (epoch + 1) % every == 0
        last = self.running_model.stop_training or epoch + 1 == self.params.get("epochs")
        best = rating is not None and self.watched.best == rating[0]
        if self._due() or due or last or best:
            self._save(complete, rating)

    def end(self):
        self._signals.remove()
        keras_internals.set_initial_epoch(self.running_model, None)
        try:
            self._settings.end(self.model)
            self._writing.wait()
        finally:
            self._leave_folder()
        if self.interrupted == "SIGTERM" and self.end_on_sigterm and processes.count() == 1:
            end_process(self.interrupted)

    def _leave_folder(self):
        Writing.finish(self.store.folder)
        self._lock.release()

    def _is_running(self):
        """Whether the `fit` that holds the folder hasn't broken off."""
        frames = list(sys._current_frames().values())
        while frames:
            if self._position.runs_in(frames[-1]):
                return True
            frames[-1] = frames[-1].f_back  # another `fit` may run inside of it
            frames = [frame for frame in frames if frame is not None]
        return False

    def _due(self):
        """Whether a multiple of the steps, or the minutes, passed since the last call."""
        steps, before = self.save_every_n_steps, self._last_checked
        self._last_checked = self._step
        if steps is not None and self._step // steps > before // steps:
            return True
        return self._clock.due()

    def _stop_signal(self):
        """The name of the signal that ends the run, or None."""
        return self._signals.asked() if self.heed_signals else None

    def _rating(self, logs):
        """`(value, rating)` of the metric, the rating greater for a better value; None for NaN."""
        if not self.watched.is_due(logs, self.running_model):
            return None
        self.watched.ask(self.running_model)
        value = self.watched.value(logs)
        self.watched.improved(value)
        return None if np.isnan(value) else (value, self.watched.sign * value)

    # Saving

    def _stop(self, complete):
        self.interrupted = self._signals.received
        self._save(complete)
        self._writing.wait()
        self.running_model.stop_training = True

    def _save(self, complete, rating=None):
        if self._step == self._saved:
            if not complete:
                return
            self._step += 1  # after the last batch only the end of the epoch is new
        self._clock.restart()
        self._writing.wait()
        if (fit := getattr(self.running_model, "running_fit", None)) is not None:
            fit.forget_ahead()
        model = self.model  # fetches what a compiled run holds
        own = own_parts(model) if self._in_one_folder else None
        named_arrays = snapshot(model) if own is None else own
        others = [] if processes.index() else named_arrays  # what else is kept, the first one keeps
        meta = pack(self._meta(model, complete, rating), others, "kept")
        step = self._saved = self._step
        if own is None and processes.index():
            return
        save = self.store.save if own is None else self.store.save_part
        self._writing.start(
            lambda: save(step, named_arrays, meta, rating and rating[1]),
            f"The checkpoint of step {step} in {str(self.store.folder)!r}",
            self.asynchronous,
        )

    def _meta(self, model, complete, rating):
        history = {"epoch": model.history.epoch, "rows": model.history.history}
        return {
            "position": self._position.state(self._epoch, complete),
            "history": history if complete else self._history_before,  # without a part of an epoch
            "callbacks": {
                name: callback_state(callback)
                for name, callback in named_callbacks(self._position.callbacks)
            },
            "unkept": self._unkept.find(self._epoch, self._position.batch - 1),
            "best": self.watched.best,
            "metric": rating and {self.watched.metric: rating[0]},
            "settings": self._settings.values,
            "model": self._description,
            "versions": versions(),
        }

    # Resuming

    def _resume(self, named_arrays, meta):
        kept = kept_in(named_arrays, meta, self.store.path(meta["step"]))
        position = kept["position"]
        self._position.build_model(self.model)
        self._settings.resume(self.model, named_arrays, kept, self.store.folder)
        self._position.restore(position)
        running = [each for each in named_arrays if each.name.startswith("metrics/")]
        self._metrics = running if position["batch"] else None
        self._batches_done = position["batch"]
        self._step = self._saved = self._last_checked = meta["step"]
        self.watched.best = kept["best"]
        history = self.running_model.history
        history.epoch, history.history = kept["history"]["epoch"], kept["history"]["rows"]
        set_callback_states(self._position.callbacks, kept["callbacks"], kept.get("unkept", {}))
        self._go_on(meta["step"], position)

    def _go_on(self, step, position):
        """Says at which epoch Keras's loop begins; behind the last one where the run is over."""
        epoch, epochs = position["epoch"], self.params.get("epochs") or 0
        ended = why_ended(self._position.callbacks)
        place = f"epoch {epoch + 1}, batch {position['batch'] + 1}."
        if ended:
            place = (
                f"the run had ended, as {ended}. Nothing more is trained. To go on, leave that "
                "callback out or give it more patience."
            )
        elif epoch >= epochs:
            place = f"all {epochs} epochs are done. Nothing more is trained. To go on, give more."
        keras_internals.set_initial_epoch(self.running_model, max(epoch, epochs * bool(ended)))
        self._say(f"Resuming after step {step}: {place}")

    def _say(self, line):
        if self.verbose and not processes.index():
            print(line, flush=True)

    def _say_signal(self, name):
        self._say(f"\n{name}: saving after this step, then stopping. Again stops at once.")
