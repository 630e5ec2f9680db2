"""Models that were made before, put back to where they began.

A new model's first epoch is seconds of tracing and compiling, the same model's again hundredths of
one. All that training changes are variables, so a model whose variables are put back is a new one:
`test_frame.test_a_reset_model_is_a_new_one` holds each row to that.
"""

import collections
import functools

import keras
import numpy as np
from keras import ops

from artifex_keras.backend.keras_internals import build_from_batch

KEPT = 6  # models of a process; what was compiled for one takes tens of megabytes
_models = collections.OrderedDict()
_decays = {}  # of the rows, by name


def fresh(row, *, rate=1e-2, adam=(), execution=1, **options):
    """A model of a row of `families` or `algorithms`, compiled with Adam, as if newly made.

    It is the one that an earlier call with the same arguments gave: a test that needs two at once
    makes them, and one that changes more than variables (compiles anew, say) makes its own.

    Args:
        row: a `Family` or an `Algorithm`.
        rate: Adam's learning rate.
        adam: a dict of Adam's other arguments.
        execution: steps per execution.
        options: what `row.make` takes.
    """
    adam = {"learning_rate": rate, **dict(adam)}
    if "ema_decay" in options and options["ema_decay"] == _decay(row):
        del options["ema_decay"]  # then it is the row's own model
    key = repr((row.name, sorted(adam.items()), execution, sorted(options.items())))
    if key in _models:
        model, start = _models[key]
        _models.move_to_end(key)
    else:
        model = made(row, adam, execution, **options)
        start = [np.array(ops.convert_to_numpy(v.value)) for v in variables(model)]
        while len(_models) >= KEPT:
            _models.popitem(last=False)
        _models[key] = model, start
    keras.utils.set_random_seed(options.get("seed", 0))
    reset(model, start)
    return model


def _decay(row):
    if row.name not in _decays:
        _decays[row.name] = row.make().ema_decay
    return _decays[row.name]


def made(row, adam, execution=1, **options):
    """A new model with all its variables, those of the optimizer too."""
    model = row.make(**options)
    model.compile(keras.optimizers.Adam(**adam), steps_per_execution=execution)
    data = row.arrays(16)
    model.build_from_batch(lambda: data)
    model.build_optimizer()
    return model


def variables(model):
    """All that training, evaluation and sampling change."""
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return list({id(v): v for v in found}.values())


def reset(model, start):
    """Gives all variables the values that they had."""
    if getattr(model, "_jax_state", None):  # of a run that broke off
        model._jax_state, model._jax_state_synced = None, True
    for variable, value in zip(variables(model), start, strict=True):
        variable.assign(np.array(value))  # JAX may take the memory itself, and give it away
    model.stop_training = False


def again(make, *batch, seed=0):
    """A function that gives the model of `make` each time, as if newly made.

    It is for any Keras model, compiled; `batch` are arrays to build it by, as `fit` does.
    """

    @functools.cache
    def first():
        model = make()
        build_from_batch(model, batch)
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        return model, [np.array(ops.convert_to_numpy(v.value)) for v in variables(model)]

    def give():
        model, start = first()
        keras.utils.set_random_seed(seed)
        reset(model, start)
        return model

    return give


def forget():
    """Lets go of all models."""
    _models.clear()
