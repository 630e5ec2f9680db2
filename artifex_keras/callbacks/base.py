"""The base class of callbacks, whose hooks may take the trainer as their first argument."""

import functools
import inspect

import keras

from artifex_keras.attributes import Spelled
from artifex_keras.backend import keras_internals

__all__ = ["BaseCallback"]

# Hooks that may take the trainer: Keras's hook that calls each, and its arguments from Keras's.
HOOKS = {
    "on_train_start": ("on_train_begin", lambda logs: ()),
    "on_train_begin": ("on_train_begin", lambda logs: ()),
    "on_train_end": ("on_train_end", lambda logs: ()),
    "on_epoch_start": ("on_epoch_begin", lambda epoch, logs: (epoch,)),
    "on_epoch_begin": ("on_epoch_begin", lambda epoch, logs: (epoch,)),
    "on_epoch_end": ("on_epoch_end", lambda epoch, logs: (epoch, logs)),
    "on_train_batch_start": ("on_train_batch_begin", lambda batch, logs: (batch,)),
    "on_train_batch_begin": ("on_train_batch_begin", lambda batch, logs: (batch,)),
    "on_train_batch_end": ("on_train_batch_end", lambda batch, logs: (batch, logs.get("loss"))),
    "on_validation_start": ("on_test_begin", lambda logs: ()),
    "on_validation_end": ("on_test_end", lambda logs: (logs,)),
}


class BaseCallback(Spelled, keras.callbacks.Callback):
    """A Keras callback whose hooks may also take the trainer as their first argument.

    Both kinds of hook work in `trainer.train()` and in `model.fit()`:

        class Mine(BaseCallback):
            def on_epoch_start(self, trainer, epoch): ...
            def on_epoch_end(self, trainer, epoch, metrics): ...
            def on_train_batch_end(self, trainer, batch_idx, loss): ...

        class Mine(BaseCallback):
            def on_epoch_begin(self, epoch, logs=None): ...
            def on_epoch_end(self, epoch, logs=None): ...
            def on_train_batch_end(self, batch, logs=None): ...

    A hook whose first argument is named `trainer` is of the first kind. There are
    `on_train_start` and `on_train_end` (trainer); `on_epoch_start` (trainer, epoch);
    `on_epoch_end` (trainer, epoch, metrics); `on_train_batch_start` (trainer, batch_idx);
    `on_train_batch_end` (trainer, batch_idx, loss); `on_validation_start` (trainer);
    `on_validation_end` (trainer, metrics). Epochs and batches count from 0, losses are the running
    means of the epoch, as Keras shows them. Hooks of batches wait for each step to be done.

    State that a resumed run needs goes into `get_state`, a dict of plain values and arrays; a
    checkpoint keeps it with its types, and `set_state` receives it. Numbers, texts, bytes, dates,
    lists, tuples, sets, dicts with any keys, and random generators are plain values.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(32, 4))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")

        class PrintLoss(ak.callbacks.BaseCallback):
            def on_epoch_end(self, trainer, epoch, metrics):
                print(epoch, metrics["loss"])

        model.fit(x, x[:, :1], verbose=0, callbacks=[PrintLoss()])
        ```
    """

    def __init__(self):
        super().__init__()
        self._trainer = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        written = {name: cls.__dict__[name] for name in HOOKS if name in cls.__dict__}
        for name, hook in written.items():
            if _wants_trainer(hook):
                keras_name, arguments = HOOKS[name]
                own = cls.__dict__.get(keras_name) if keras_name != name else None
                setattr(cls, keras_name, _with_trainer(hook, arguments, own))

    @property
    def running_model(self):
        """The model as it runs: `model` first waits for the step and puts its weights in place."""
        return keras_internals.model_of(self)

    @property
    def trainer(self):
        """The trainer of this run; the model in a `fit` without a trainer."""
        return self.running_model if self._trainer is None else self._trainer

    @trainer.setter
    def trainer(self, trainer):
        self._trainer = trainer

    @property
    def ended(self):
        """Why this callback has ended the run for good, a text; None if it hasn't.

        Asked when a checkpoint is resumed, after `set_state`: such a run isn't trained further.
        """
        return None

    def get_state(self):
        """The state that a checkpoint keeps of this callback: a dict, empty by default."""
        return {}

    def set_state(self, state):
        """Receives that state again, after every `on_train_begin` and before the first epoch."""


def _wants_trainer(hook):
    parameters = list(inspect.signature(hook).parameters) if callable(hook) else []
    return parameters[1:2] == ["trainer"]


def _with_trainer(hook, arguments, own):
    """A hook for Keras that calls the class's `own` hook of that name, then `hook` with trainer."""
    own = None if own is None or _wants_trainer(own) else own
    places = len(inspect.signature(arguments).parameters) - 1  # an epoch, a batch, or nothing

    @functools.wraps(hook)
    def call(self, *given, logs=None):
        if given and given[0] is self.trainer:  # called by a subclass's own hook
            return hook(self, *given)
        place, logs = given[:places], (given[places] if len(given) > places else logs)
        if own is not None:
            own(self, *place, logs)
        return hook(self, self.trainer, *arguments(*place, logs or {}))

    return call
