"""What may fail on the host in the middle of a `fit`: sources, callbacks and rewards that raise."""

import keras
import numpy as np
from fresh import variables
from keras import ops

SIZE, BATCHES, FAILS = 16, 4, 2  # rows of a batch, batches of an epoch, the batch that fails


class Fault(Exception):
    """The error of a user's own code."""


class Crash(BaseException):
    """What no handler of a training catches."""


class Batches(keras.utils.PyDataset):
    """The batches of a row's arrays from number `first` on; number `fails` raises."""

    def __init__(self, arrays, first=0, fails=None, error=Fault, rows=SIZE):
        super().__init__()
        self.arrays, self.first, self.fails, self.error = arrays, first, fails, error
        self.size = rows

    def __len__(self):
        return BATCHES - self.first

    def __getitem__(self, index):
        index += self.first
        if index == self.fails:
            raise self.error("the source")
        part = slice(index * self.size, (index + 1) * self.size)
        return keras.tree.map_structure(lambda array: array[part], self.arrays)


class At(keras.callbacks.Callback):
    """Does something at one call of a hook, or at each; nothing is synced for it."""

    def __init__(self, hook, call, action):
        super().__init__()
        self.calls = 0

        def at(*arguments, **options):
            self.calls += 1
            if call is None or self.calls == call + 1:
                action()

        setattr(self, hook, at)

    def get_state(self):
        return {}  # for checkpoints: a resumed run counts anew

    def set_state(self, state):
        pass


def crash_after(batches):
    """A callback that ends everything after so many batches, before the next one."""
    return At("on_train_batch_begin", batches, raising(Crash))


def raising(error=Fault):
    def action():
        raise error("the callback")

    return action


def numbers(model):
    """All that training changes, as NumPy."""
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables(model)]


def fit(model, arrays, *callbacks, first=0, **options):
    return model.fit(
        options.pop("source", None) or Batches(arrays, first),
        callbacks=list(callbacks),
        shuffle=False,
        verbose=0,
        **options,
    )


def stopped_after(model, arrays, batches, **options):
    """The numbers of a run that was told to stop after so many batches."""

    def stop():
        model.stop_training = True

    fit(model, arrays, At("on_train_batch_end", batches - 1, stop), **options)
    return numbers(model)
