"""Checkpoints from which a run goes on as if it had never stopped."""

import importlib.metadata
import threading
import time
import warnings
import weakref

import keras
import numpy as np

from artifex_keras.backend import keras_internals, processes
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.leaves import packed, restore, snapshot, unpacked
from artifex_keras.callbacks.metric import Watched
from artifex_keras.callbacks.position import RunningFit
from artifex_keras.callbacks.stopping import AgreedSignals, Signals
from artifex_keras.callbacks.store import Damaged, Store, orbax
from artifex_keras.utils import integer, lookup

__all__ = ["CheckpointCallback", "export_checkpoint", "restore_checkpoint"]

RESUME = {"never": False, "auto": True}

# Settings that may be others in a run that goes on, whose numbers they don't change.
FREE = {
    *("num_epochs", "checkpoint_dir", "max_checkpoints", "log_frequency", "verbose"),
    *("save_frequency", "save_every_n_steps", "save_every_n_minutes", "save_best"),
}

# What Keras's own callbacks carry from epoch to epoch.
KEPT_BY_KERAS = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "best_weights", "stopped_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best",),
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
        self.save_every_n_minutes = _positive("save_every_n_minutes", save_every_n_minutes)
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
        self._writing = _Writing(self.store.folder)
        self._clock = _Clock(self.save_every_n_minutes)
        orbax()

    def on_train_begin(self, logs=None):
        self._fit = RunningFit.of_callback()
        self._check_metric()
        last = _Last(self)
        last.set_model(self._model)
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
        self._description = _description(self._model)
        self._config = _config_of(self.trainer)
        found = processes.of_the_first(self._found)
        if found is not None:
            self._go_on(*found)
        else:
            self._begin_anew()
        self._clock.restart()
        if self.heed_signals:
            self._signals.install()

    def _found(self):
        """`newest()` of a run that goes on, once the folder is in order."""
        _Writing.finish(self.store.folder)  # of a fit that broke off: what it saved counts
        self.store.sweep()
        return self.newest() if self.resume else None

    def _begin_anew(self):
        if not processes.of_the_first(self._is_ready):
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
        history = self._model.history
        rows = {name: list(values) for name, values in history.history.items()}
        self._before = {"epoch": list(history.epoch), "rows": rows}
        # Keras has read it, and would keep it for another `fit`.
        keras_internals.set_initial_epoch(self._model, None)
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
        stopped = not self._fit.complete and self._model.stop_training
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
        last = self._model.stop_training or epoch + 1 == self.params.get("epochs")
        best = rating is not None and self.watched.best == rating[0]
        if self._due() or due or last or best:
            self._save(complete, rating)

    def end(self):
        self._signals.remove()
        keras_internals.set_initial_epoch(self._model, None)
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
        self._model.stop_training = True

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
            "callbacks": {name: _state(c) for name, c in _named(self._fit.callbacks)},
            "best": self.watched.best,
            "metric": rating and {self.watched.metric: rating[0]},
            "config": self._config,
            "model": self._description,
            "versions": _versions(),
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
        history = self._model.history
        history.epoch, history.history = kept["history"]["epoch"], kept["history"]["rows"]
        for name, callback in _named(self._fit.callbacks):
            if name in kept["callbacks"]:
                _set_state(callback, kept["callbacks"][name])
        keras_internals.set_initial_epoch(self._model, position["epoch"])
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


class _Clock:
    """Says when so many minutes have passed: in several processes by the first one's clock.

    That takes a message, so it is sent when half of the time left should be over, again and again.
    """

    def __init__(self, minutes):
        self.minutes = minutes
        self.restart()

    def restart(self):
        self._began = time.monotonic()
        self._steps = self._next = 0

    def due(self):
        """Whether they have; to be called once a step."""
        if self.minutes is None:
            return False
        if processes.count() == 1:
            return self._left() <= 0
        self._steps += 1
        if self._steps < self._next:
            return False
        wait = processes.of_the_first(self._steps_to_wait)
        self._next = self._steps + wait
        return wait == 0

    def _left(self):
        return 60 * self.minutes - (time.monotonic() - self._began)

    def _steps_to_wait(self):
        """Steps for half of the seconds left, at the pace so far; 0 when none is left."""
        left = self._left()
        pace = self._steps / max(60 * self.minutes - left, 1e-9)
        return max(1, int(pace * left / 2)) if left > 0 else 0


class _Writing:
    """One piece of work beside the training; what goes wrong in it becomes a warning.

    Args:
        folder: where it writes.
    """

    threads = weakref.WeakKeyDictionary()  # of all callbacks of this process, with their folders

    def __init__(self, folder):
        self.folder = folder
        self._thread = self._failed = None

    @classmethod
    def finish(cls, folder):
        """Waits until no callback writes into `folder` any more."""
        for thread, place in list(cls.threads.items()):
            if place == folder:
                thread.join()

    def start(self, work, what, asynchronous):
        def run():
            try:
                work()
            except Exception as error:  # a full disk, a folder without rights
                self._failed = f"{what} could not be written: {error}. The run goes on."

        if asynchronous:
            self._thread = threading.Thread(target=run, name="checkpoint")
            self.threads[self._thread] = self.folder
            self._thread.start()
        else:
            run()
            self.wait()

    def wait(self):
        """Waits until the work is done."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            warnings.warn(failed, stacklevel=2)


def restore_checkpoint(model, save_dir, step="newest"):
    """Puts a checkpoint's weights, optimizer and seeds into a model like the one that was saved.

    Args:
        model: a compiled model, built like that one (its family's `build`, or a first call).
        save_dir: the folder of the `CheckpointCallback`.
        step: "newest", "best", or the number in the folder's name.

    Returns:
        the step.

    Raises:
        ValueError: without such a checkpoint, for a damaged one, and for one of another model, with
            what differs.
    """
    step, leaves, _ = _chosen(save_dir, step)
    _build_optimizer(model)
    restore(model, leaves, "model", "optimizer")
    return step


def export_checkpoint(save_dir, path, step="newest", *, model=None):
    """Writes a checkpoint as a `.keras` file, which `keras.saving.load_model` reads.

    Args:
        save_dir: the folder of the `CheckpointCallback`.
        path: the file to write.
        step: "newest", "best", or the number in the folder's name.
        model: a built and compiled model for the weights. By default it is made as the checkpoint
            describes it, which needs classes that Keras can find, as for `load_model`.

    Returns:
        the path.
    """
    step, leaves, meta = _chosen(save_dir, step)
    if model is None:
        arrays = {leaf.name: leaf.value for leaf in leaves}
        described = unpacked(meta["kept"], arrays)["model"]
        if described is None:
            raise ValueError("The checkpoint doesn't describe its model: give `model`.")
        model = keras.saving.deserialize_keras_object(described)
    _build_optimizer(model)
    restore(model, leaves, "model", "optimizer")
    model.save(path)
    return path


def _chosen(save_dir, step):
    store = Store(save_dir)
    steps = {"newest": store.steps()[:1], "best": store.best()[:1]}.get(step, [step])
    if not steps or steps[0] not in store.steps():
        raise ValueError(
            f"There is no checkpoint {step!r} in {str(save_dir)!r}. There are: {store.steps()}."
        )
    try:
        return steps[0], *store.load(steps[0])
    except Damaged as error:
        raise ValueError(str(error)) from error


def _build_optimizer(model):
    if getattr(model, "optimizer", None) is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


# What is kept besides the variables


def _named(callbacks):
    """Callbacks with names that they have in the next process too."""
    times = {}
    for callback in callbacks:
        kind = type(callback).__name__
        times[kind] = times.get(kind, 0) + 1
        yield f"{kind}-{times[kind]}", callback


def _kept_by_keras(callback):
    kinds = (kind for kind in KEPT_BY_KERAS if isinstance(callback, kind))
    return KEPT_BY_KERAS.get(next(kinds, None), ())


def _state(callback):
    if hasattr(callback, "get_state"):
        return callback.get_state()
    return {key: getattr(callback, key, None) for key in _kept_by_keras(callback)}


def _set_state(callback, state):
    if hasattr(callback, "set_state"):
        callback.set_state(state)
        return
    for key in _kept_by_keras(callback):
        setattr(callback, key, state[key])


def _description(model):
    """The model as Keras describes it, None if it can't."""
    return _kept_or_none(lambda: keras.saving.serialize_keras_object(model))


def _config_of(trainer):
    """The trainer's config as a dict, None without one that can be written down."""
    return _kept_or_none(lambda: trainer.config.to_dict())


def _kept_or_none(make):
    try:
        made = make()
        packed(made, [], "made")
        return made
    except Exception:  # a user's class without `get_config`, or with objects in it
        return None


def _versions():
    versions = {"backend": keras.config.backend(), "numpy": np.__version__}
    for name in ("artifex-keras", "keras", "jax", "orbax-checkpoint"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


# Settings


def _positive(name, value):
    if value is not None and not value > 0:
        raise ValueError(f"`{name}` must be None or positive. Received: {name}={value!r}.")
    return value
