"""Runs that crash and are resumed: a plain model, its data, and how two runs are compared."""

import functools
from typing import NamedTuple

import keras
import numpy as np
import pytest
from fresh import again
from keras import ops

from artifex_keras.callbacks import CheckpointCallback

ROWS, BATCH, EPOCHS = 40, 8, 3
PER_EPOCH = ROWS // BATCH


class Crash(BaseException):
    """What no handler of a training catches."""


class Crashes(keras.callbacks.Callback):
    """Ends everything before that batch of that epoch, or after the epoch with `batch=None`."""

    def __init__(self, epoch, batch=None):
        super().__init__()
        self.at = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise Crash

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, None) == self.at:
            self.armed = True

    def on_train_end(self, logs=None):
        if getattr(self, "armed", False):
            raise Crash


def new(steps_per_execution=1):
    """A plain Keras model with all that holds state: dropout, statistics, schedule, averages."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=5),
            keras.layers.Dense(1),
        ]
    )
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 30)
    model.compile(
        keras.optimizers.Adam(schedule, global_clipnorm=1.0),
        loss="mse",
        metrics=["mae"],
        steps_per_execution=steps_per_execution,
    )
    return model


def numbers(rows=ROWS):
    generator = np.random.default_rng(1)
    x = generator.normal(size=(rows, 6)).astype("float32")
    return x, (x[:, :1] * 2 + 1).astype("float32")


class Counted(keras.utils.PyDataset):
    """Notes which batches it is asked for. `draws` gives what is added to a batch."""

    def __init__(self, draws=lambda: 0.0, endless=False, **options):
        super().__init__(**options)
        self.calls, self.draws, self.endless = [], draws, endless
        self.x, self.y = numbers()

    @property
    def num_batches(self):
        return None if self.endless else PER_EPOCH

    def __getitem__(self, index):
        self.calls.append(index)
        rows = slice(index % PER_EPOCH * BATCH, (index % PER_EPOCH + 1) * BATCH)
        return self.x[rows] + np.float32(self.draws()), self.y[rows]


# The model of `new`, the same one each time and as if newly made: it is compiled once.
plain = again(new, *numbers(BATCH))
fused = again(functools.partial(new, 2), *numbers(BATCH))


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


class Run(NamedTuple):
    """What came out of a training."""

    epochs: list
    history: dict
    state: list


def outcome(model):
    return Run(list(model.history.epoch), dict(model.history.history), state(model))


def assert_same_run(first, second):
    """The same variables and the same rows of history, to the bit."""
    assert first.epochs == second.epochs
    assert first.history == second.history
    for a, b in zip(first.state, second.state, strict=True):
        np.testing.assert_array_equal(a, b)


CRASH = (1, 3)  # epoch and batch; the checkpoint is of two batches of that epoch


def resumed(folder, fit, crash=CRASH, make=plain, **saves):
    """What came out of the straight run and of the resumed one, and what `fit` gave for both."""
    model = make()
    seen = fit(model, [])
    straight = outcome(model)
    options = {"save_every_n_steps": 7, "save_every_n_epochs": None, "asynchronous": False}
    options |= {"resume": "auto", "verbose": False} | saves
    with pytest.raises(Crash):
        fit(make(), [CheckpointCallback(folder, **options), Crashes(*crash)])
    model = make()
    again = fit(model, [CheckpointCallback(folder, **options)])
    assert_same_run(straight, outcome(model))
    return seen, again
