"""Checkpoints from which a run goes on as if it had never stopped."""

import warnings

import keras
import numpy as np

from artifex_keras.arguments import integer, lookup, number
from artifex_keras.backend import keras_internals, processes
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.checkpoint.arrays import packed, restore, snapshot, unpacked
from artifex_keras.callbacks.checkpoint.clock import Clock
from artifex_keras.callbacks.checkpoint.position import RunningFit
from artifex_keras.callbacks.checkpoint.signals import AgreedSignals, Signals
from artifex_keras.callbacks.checkpoint.states import (
    callback_state,
    config_of,
    model_description,
    named_callbacks,
    set_callback_state,
    versions,
)
from artifex_keras.callbacks.checkpoint.store import Damaged, Store, orbax
from artifex_keras.callbacks.checkpoint.writing import Writing
from artifex_keras.callbacks.metric import Watched

__all__ = ["CheckpointCallback"]

RESUME = {"never": False, "auto": True}

# Settings that may be others in a run that goes on, whose numbers they don't change.
FREE = {
    *("num_epochs", "checkpoint_dir", "max_checkpoints", "log_frequency", "verbose"),
    *("save_frequency", "save_every_n_steps", "save_every_n_minutes", "save_best"),
}


class CheckpointCallback(BaseCallback):
    """Keeps a run on disk, whole at every moment, and goes on from there to the bit.

    A checkpoint holds the weights, optimizers, averages, seeds, the metrics of the running epoch,
    the history, the place in the data, and the states of all callbacks. Orbax writes it beside the
    training, into a folder that gets its name when all is there. On a CPU a run that was killed and
    goes on ends with the weights, optimizer and history of one that was not, to the last bit, if
    the data come in the same order again: arrays, a `PyDataset`, a grain dataset and a `tf.data`
    pipeline with seeded shuffling do. If they don't, a warning says so.

    SIGTERM and Ctrl-C save and end the run after the step, a second one ends it at once. If a
    checkpoint can't be written, a warning says why, the run goes on, and those there stay.

    In a run of several processes the first one alone reads and writes the folder, and tells the
    others what it has read; so the same checkpoint goes on in another number of processes. A signal
    to any of them ends all after the same step.

    Works in any `keras.Model.fit`; see `restore_checkpoint` and `export_checkpoint` for afterwards.

    Args:
        save_dir: the folder.
        save_every_n_epochs: epochs from one to the next; None saves none for the epochs' sake. The
            end of the run is always kept.
        save_every_n_steps: also after so many batches within the epochs.
        save_best: also after each epoch in which `metric` was better than ever.
        metric: its name in the logs.
        mode: "min", "max", or "auto", which goes by the name.
        max_to_keep: how many of the newest stay; None keeps all.
        resume: "auto" goes on after the newest readable checkpoint, or begins if there is none;
            "never" begins, and moves what is there into a folder `earlier-1` within.
        save_every_n_minutes: also so often.
        best_to_keep: how many of the best stay, with `save_best`.
        asynchronous: write while the training goes on.
        heed_signals: save and stop at SIGTERM and SIGINT.
        verbose: say where a run goes on, and why it stops.

    Attributes:
        interrupted: None, or the signal that ended the run.

    Raises:
        ValueError: for settings outside their range; in `fit`, for a metric that there won't be,
            and for a checkpoint of another model, with what differs.
        ImportError: without Orbax.
    """

    def __init__(
        self,
        save_dir,
        save_every_n_epochs=1,
        save_every_n_steps=None,
        save_best=False,
        metric="val_loss",
        mode="auto",
        max_to_keep=5,
        resume="never",
        *,
        save_every_n_minutes=None,
        best_to_keep=1,
        asynchronous=True,
        heed_signals=True,
        verbose=True,
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
        self.verbose = verbose
        self.watched = Watched(metric, mode)
        self.store = Store(
            save_dir,
            integer("max_to_keep", max_to_keep, **optional),
            integer("best_to_keep", best_to_keep, minimum=1) if save_best else 0,
        )
        self.interrupted = None
        self._step = self._saved = self._asked = 0
        self._writing = Writing(self.store.folder)
        self._clock = Clock(self.save_every_n_minutes)
        orbax()

    def on_train_begin(self, logs=None):
        self._fit = RunningFit.of_callback()
        self._check_metric()
        last = _Last(self)
        last.set_model(self.running_model)
        last.set_params(self.params)
        self._fit.callbacks.append(last)

    def _check_metric(self):
        if self.save_best and self.watched.metric.startswith("val_") and not self._fit.validates:
            raise ValueError(
                f"`save_best` watches {self.watched.metric!r}, and `fit` has no `validation_data`. "
                "Give it some, or watch another metric."
            )

    # The hooks of `_Last`

    def begin(self):
        several = processes.count() > 1
        self._signals = (
            AgreedSignals(self._say_signal)
            if several
            else Signals(self._fit.runs_in, self._say_signal)
        )
        self.interrupted = None
        self._metrics = None
        self._description = model_description(self.running_model)
        self._config = config_of(self.trainer)
        found = processes.on_first_process(self._found)
        if found is not None:
            self._go_on(*found)
        else:
            self._begin_anew()
        self._clock.restart()
        if self.heed_signals:
            self._signals.install()

    def _found(self):
        """`newest()` of a run that goes on, once the folder is in order."""
        Writing.finish(self.store.folder)  # of a fit that broke off: what it saved counts
        self.store.sweep()
        return self.newest() if self.resume else None

    def _begin_anew(self):
        if not processes.on_first_process(self._is_ready):
            self._step = self._saved = self._asked = 0
            self.watched.best = None

    def _is_ready(self):
        """Whether the folder is this callback's, after another `fit`; makes room if it isn't."""
        steps = self.store.steps()
        same_run = steps[:1] == [self._saved]
        if steps and not same_run:
            aside = self.store.set_aside()
            self._say(f"Checkpoints of an earlier run are in {str(aside)!r} now.")
        return same_run

    def begin_epoch(self, epoch):
        self._epoch, self._first, self._left = epoch, self._step, False
        history = self.running_model.history
        rows = {name: list(values) for name, values in history.history.items()}
        self._before = {"epoch": list(history.epoch), "rows": rows}
        # Keras has read it, and would keep it for another `fit`.
        keras_internals.set_initial_epoch(self.running_model, None)
        if self._metrics is not None:  # Keras has just put them to zero
            self._first -= self._batches_done
            restore(self.model, self._metrics, "metrics")
            self._metrics = None

    def begin_batch(self, batch):
        self._step = self._first + batch
        due, asked = self._due(), self._asked_to_stop()
        if (due or asked) and self._fit.goes_on():
            if asked:
                self._stop(complete=False)
            else:
                self._save(complete=False)

    def leave_epoch(self):
        """Counts the batches done; keeps a run that somebody ends within an epoch.

        That is before validation, which forgets the metrics of the training.
        """
        stopped = not self._fit.complete and self.running_model.stop_training
        if stopped and not self._left and not self.interrupted:
            self._left = True
            self._fit.trained()
            self._step = self._first + self._fit.batch
            self._save(complete=False)
        elif not self._left:
            self._step = self._first + self._fit.batch

    def end_epoch(self, epoch, logs):
        self.leave_epoch()
        complete = self._fit.complete
        if self.interrupted or self._asked_to_stop():
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
        self._writing.wait()

    def _due(self):
        """Whether a number of steps or minutes has passed since this was asked last."""
        steps, before = self.save_every_n_steps, self._asked
        self._asked = self._step
        if steps is not None and self._step // steps > before // steps:
            return True
        return self._clock.due()

    def _asked_to_stop(self):
        """The signal after which the run is to end, None without one."""
        return self._signals.asked() if self.heed_signals else None

    def _rating(self, logs):
        """The metric's value, and a number that is greater for a better one."""
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
            self._step += 1  # Keras asked for a batch after the last, and all that's left is to end
        self._clock.restart()
        self._writing.wait()
        model = self.model  # fetches what a compiled run holds
        leaves = snapshot(model)
        meta = packed(self._meta(model, complete, rating), leaves, "kept")
        step = self._saved = self._step
        if processes.index():
            return
        self._writing.start(
            lambda: self.store.save(step, leaves, meta, rating and rating[1]),
            f"The checkpoint of step {step} in {str(self.store.folder)!r}",
            self.asynchronous,
        )

    def _meta(self, model, complete, rating):
        history = {"epoch": model.history.epoch, "rows": model.history.history}
        return {
            "position": self._fit.position(self._epoch, complete),
            "history": history if complete else self._before,  # without a part of an epoch
            "callbacks": {
                name: callback_state(callback)
                for name, callback in named_callbacks(self._fit.callbacks)
            },
            "best": self.watched.best,
            "metric": rating and {self.watched.metric: rating[0]},
            "config": self._config,
            "model": self._description,
            "versions": versions(),
        }

    # Going on

    def newest(self):
        """`(leaves, meta)` of the newest readable checkpoint, None if there is none at all.

        Damaged ones are passed over with a warning.

        Raises:
            ValueError: if there are some and none can be read.
        """
        for step in self.store.steps():
            try:
                return self.store.load(step)
            except Damaged as error:
                warnings.warn(f"{error} The one before is tried.", stacklevel=2)
        if self.store.steps():
            raise ValueError(
                f"No checkpoint in {str(self.store.folder)!r} can be read. Begin anew with "
                'resume="never".'
            )
        return None

    def _go_on(self, leaves, meta):
        arrays = {leaf.name: leaf.value for leaf in leaves}
        kept = unpacked(meta["kept"], arrays)
        position = kept["position"]
        self._fit.build(self.model)
        restore(self.model, leaves)
        self._fit.resume(position)
        self._compare(kept["config"])
        self._metrics = leaves if position["batch"] else None
        self._batches_done = position["batch"]
        self._step = self._saved = self._asked = meta["step"]
        self.watched.best = kept["best"]
        history = self.running_model.history
        history.epoch, history.history = kept["history"]["epoch"], kept["history"]["rows"]
        for name, callback in named_callbacks(self._fit.callbacks):
            if name in kept["callbacks"]:
                set_callback_state(callback, kept["callbacks"][name])
        keras_internals.set_initial_epoch(self.running_model, position["epoch"])
        self._say(
            f"Going on after step {meta['step']}: epoch {position['epoch'] + 1}, "
            f"batch {position['batch'] + 1}."
        )

    def _compare(self, config):
        """Warns of settings by which the run goes on in another way than it began."""
        now, then = self._config or {}, config or {}
        differ = sorted(k for k in now.keys() & then.keys() - FREE if now[k] != then[k])
        if differ:
            changes = ", ".join(f"{key} was {then[key]!r} and is {now[key]!r}" for key in differ)
            warnings.warn(f"The run goes on with other settings: {changes}.", stacklevel=2)

    def _say(self, line):
        if self.verbose and not processes.index():
            print(line, flush=True)

    def _say_signal(self, name):
        self._say(f"\n{name}: saving after this step, then stopping. Again stops at once.")


class _Last(keras.callbacks.Callback):
    """The end of the list of callbacks: when it is called, all others have been."""

    def __init__(self, owner):
        super().__init__()
        self.owner = owner

    def on_train_begin(self, logs=None):
        self.owner.begin()

    def on_epoch_begin(self, epoch, logs=None):
        self.owner.begin_epoch(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        self.owner.begin_batch(batch)

    def on_test_begin(self, logs=None):
        self.owner.leave_epoch()

    def on_epoch_end(self, epoch, logs=None):
        self.owner.end_epoch(epoch, logs)

    def on_train_end(self, logs=None):
        self.owner.end()
