"""The base of callbacks, with two manners of writing a hook."""

import functools
import inspect

import keras

from artifex_keras.backend import keras_internals

__all__ = ["BaseCallback"]

# A hook that is told of the trainer: the hook of Keras that calls it, and how its arguments come.
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


class BaseCallback(keras.callbacks.Callback):
    """A Keras callback whose hooks may also be written with the trainer in front.

    Either manner works inside `trainer.train()` and inside `model.fit()`:

        class Mine(BaseCallback):
            def on_epoch_start(self, trainer, epoch): ...
            def on_epoch_end(self, trainer, epoch, metrics): ...
            def on_train_batch_end(self, trainer, batch_idx, loss): ...

        class Mine(BaseCallback):
            def on_epoch_begin(self, epoch, logs=None): ...
            def on_epoch_end(self, epoch, logs=None): ...
            def on_train_batch_end(self, batch, logs=None): ...

    A hook whose first argument is called `trainer` is of the first kind. There are
    `on_train_start` and `on_train_end` (trainer); `on_epoch_start` (trainer, epoch);
    `on_epoch_end` (trainer, epoch, metrics); `on_train_batch_start` (trainer, batch_idx);
    `on_train_batch_end` (trainer, batch_idx, loss); `on_validation_start` (trainer);
    `on_validation_end` (trainer, metrics). Epochs and batches count from 0, losses are the running
    means of the epoch, as Keras shows them. Hooks of batches wait for each step to be done.

    What a subclass must keep across a resumed run it gives as a dict of numbers, strings, lists and
    arrays in `get_state`, and takes back in `set_state`.
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
        """The trainer of this run, or where there is none the model."""
        return self.running_model if self._trainer is None else self._trainer

    @trainer.setter
    def trainer(self, trainer):
        self._trainer = trainer

    def get_state(self):
        """What a checkpoint keeps of this callback: nothing, unless a subclass says so."""
        return {}

    def set_state(self, state):
        """Takes back what `get_state` gave: after all `on_train_begin`, before the first epoch."""


def _wants_trainer(hook):
    parameters = list(inspect.signature(hook).parameters) if callable(hook) else []
    return parameters[1:2] == ["trainer"]


def _with_trainer(hook, arguments, own):
    """Keras's hook that calls `hook` with the trainer, after the class's `own` of that name."""
    own = None if own is None or _wants_trainer(own) else own
    places = len(inspect.signature(arguments).parameters) - 1  # an epoch, a batch, or nothing

    @functools.wraps(hook)
    def called(self, *given, logs=None):
        if given and given[0] is self.trainer:  # by a subclass that goes on from its own hook
            return hook(self, *given)
        place, logs = given[:places], (given[places] if len(given) > places else logs)
        if own is not None:
            own(self, *place, logs)
        return hook(self, self.trainer, *arguments(*place, logs or {}))

    return called
