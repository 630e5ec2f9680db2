"""A running `fit` of one of our models: what its callbacks need and Keras keeps to itself."""

import inspect
import itertools
import sys

import keras

from artifex_keras.arguments import check_keywords
from artifex_keras.backend import keras_internals
from artifex_keras.backend.ahead import Overlap

__all__ = ["QuietBar", "RunningFit", "exact_steps", "loud", "named_arguments", "validates"]


class RunningFit:
    """One `fit`, from its call to its end: a context in which the model has it as `running_fit`.

    Keras makes the list of callbacks and the iterator over the data inside its own `fit` and shows
    them to nobody. So the list is made here and handed to Keras, and the iterator is noted when
    Keras hands it to the model to be built.

    Args:
        model: the one that is fitted.
        arguments: of its `fit`, by name.

    Attributes:
        callbacks: the `keras.callbacks.CallbackList`, Keras's own callbacks among them.
        iterator: Keras's iterator over the training data; None before it is there.
        validates: whether there are validation data.
        overlap: the `Overlap` of a model that `samples_ahead`, else None.
        is_running: whether `fit` hasn't ended.
        at_exit: functions to call at its end, also when it ends by an exception.
    """

    def __init__(self, model, arguments):
        self.model = model
        self.iterator = self.overlap = None
        self.is_running = False
        self.at_exit = []
        given = arguments.get("validation_data"), arguments.get("validation_split")
        self.validates = given[0] is not None or bool(given[1])
        self.callbacks = arguments.get("callbacks")
        self._params = None  # of the callbacks, where the list is ours
        if not isinstance(self.callbacks, keras.callbacks.CallbackList):
            verbose, epochs = arguments.get("verbose", "auto"), arguments.get("epochs", 1)
            self._params = {"verbose": verbose, "epochs": _limited(epochs)}
            self.callbacks = keras.callbacks.CallbackList(
                [*keras.tree.flatten(self.callbacks or []), *self._bar(verbose)],
                add_history=True,
                add_progbar=verbose != 0,
            )

    def _bar(self, verbose):
        """The progress bar of a model that has quiet metrics, in a list; Keras adds its own."""
        bars = keras.tree.flatten(self.callbacks or [])
        if verbose == 0 or any(isinstance(bar, keras.callbacks.ProgbarLogger) for bar in bars):
            return []
        return [QuietBar(self.model)] if getattr(self.model, "quiet_metrics", ()) else []

    def __enter__(self):
        self._before = self.model.running_fit
        self.is_running = True
        # Not by the model's own `__setattr__`, which looks through it for layers and weights.
        object.__setattr__(self.model, "running_fit", self)
        return self

    def __exit__(self, *error):
        self.is_running = False
        object.__setattr__(self.model, "running_fit", self._before)
        for function in self.at_exit:
            function()

    def begin(self, iterator):
        """Notes the iterator over the training data: the first that Keras builds the model with.

        The callbacks get their model and parameters now that it is built, as Keras does it.
        """
        if self.iterator is not None:
            return
        self.iterator = iterator
        _before_each_epoch(iterator, self.model.follow_changes)
        if getattr(self.model, "samples_ahead", False):
            self.overlap = Overlap(iterator)
        if self._params is not None:
            self.callbacks.set_model(self.model)
            self.callbacks.set_params(self._params | {"steps": iterator.num_batches})

    def forget_ahead(self):
        """Forgets what is begun of the next batch, which no checkpoint holds: after a save a run
        then has the numbers of one that resumes from it."""
        if self.overlap is not None:
            self.overlap.forget()


class QuietBar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar without the model's `quiet_metrics`, in validation too."""

    def __init__(self, fitted):
        super().__init__()
        self.fitted = fitted

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, self._shown(logs))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, self._shown(logs))

    def _shown(self, logs):
        return loud(logs or {}, self.fitted.quiet_metrics)

    def get_state(self):
        return {}

    def set_state(self, state):
        """There is nothing to keep from one run to the next."""


def loud(logs, quiet):
    """`logs` without the quiet metrics; each is left out of validation too."""
    return {k: v for k, v in logs.items() if not {k, k.removeprefix("val_")} & {*quiet}}


def _limited(epochs):
    """As many epochs as there will be: `keras.config` may limit those of every run, to debug it."""
    limit = keras.config.max_epochs() if hasattr(keras.config, "max_epochs") else None
    return min(epochs, limit) if limit else epochs


def named_arguments(fit, *args, **kwargs):
    """The arguments of a call of `fit`, by name; a TypeError where Python would raise it."""
    check_keywords("fit", kwargs, inspect.signature(fit).parameters)
    return dict(inspect.signature(fit).bind(*args, **kwargs).arguments)


def validates(model):
    """Whether the running `fit` of a Keras model has validation data; True where that isn't known.

    Of a model that isn't ours the frame of Keras's `fit` says it.
    """
    if getattr(model, "running_fit", None) is not None:
        return model.running_fit.validates
    frame = sys._getframe(1)
    while frame is not None:
        if {"epoch_iterator", "callbacks", "initial_epoch"} <= frame.f_locals.keys():
            return frame.f_locals.get("validation_data") is not None
        frame = frame.f_back
    return True


def _before_each_epoch(iterator, look):
    """Lets `look()` be called when the callbacks of an epoch's beginning are over."""

    def enumerate_epoch():
        look()
        yield from keras_epoch()

    keras_epoch = keras_internals.replace_epochs(iterator, enumerate_epoch)


def exact_steps(iterator):
    """Lets Keras's iterator give `steps_per_epoch` batches an epoch, and not a multiple.

    Where `steps_per_execution` doesn't divide them, Keras's last execution of an epoch reads past
    its end, and counts what it reads for the wrong epoch.
    """
    size, steps = iterator.steps_per_execution, iterator.steps_per_epoch
    if not steps or steps % size == 0 or hasattr(iterator, "_artifex_keras_exact"):
        return

    def enumerate_epoch():
        for first, last, batches in keras_epoch():
            missing = last + 1 - steps
            if missing > 0:
                keras_internals.count_as_seen(iterator, -missing)
                last, batches = steps - 1, itertools.islice(batches, steps - first)
            yield first, last, batches

    keras_epoch = keras_internals.replace_epochs(iterator, enumerate_epoch)
    iterator._artifex_keras_exact = True
