"""Evaluations in the middle of an epoch, which the run doesn't notice."""

import functools
import random

import keras
import numpy as np
import pytest
from equality import assert_same
from families import FAMILIES, FEW, FEW_NAMES, NAMES
from fresh import again, fresh
from keras import ops

from artifex_keras import TrainingConfig, VAETrainer, tracking
from artifex_keras.callbacks import EvaluationCallback

X = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
Y = X[:, :1]


class Noisy(keras.layers.Layer):
    """Counts its calls and draws noise in evaluation too."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(5)

    def build(self, shape):
        self.count = self.add_weight(shape=(), trainable=False, initializer="zeros")

    def call(self, x):
        self.count.assign_add(1.0)
        return x + 0.1 * keras.random.normal(ops.shape(x), seed=self.seeds)


def new(steps_per_execution):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(), Noisy()]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"], steps_per_execution=steps_per_execution)
    return model


@functools.cache
def pool(steps_per_execution):
    return again(functools.partial(new, steps_per_execution), X[:4], Y[:4])


def plain(steps_per_execution=1):
    """The same model each time, as if newly made: it is compiled once."""
    return pool(steps_per_execution)()


def fit(model, *callbacks, epochs=2, **options):
    """Twelve batches an epoch, shuffled by NumPy's generator."""
    options = {"batch_size": 4, "epochs": epochs, "verbose": 0, **options}
    return model.fit(X, Y, callbacks=list(callbacks), **options).history


def numbers(model):
    kept = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [np.array(ops.convert_to_numpy(v.value)) for v in kept]


@pytest.mark.seam
@pytest.mark.parametrize("family", FEW[:3], ids=FEW_NAMES[:3])
def test_a_run_with_evaluations_is_the_same_to_the_bit(family):
    runs = []
    for callbacks in ([], [EvaluationCallback(family.arrays(20), 2, batch_size=8)]):
        model = fresh(family)
        history = model.fit(
            *family.arrays(), batch_size=16, epochs=2, verbose=0, callbacks=callbacks
        ).history
        runs.append((history, numbers(model)))
    assert runs[0][0] == runs[1][0]
    assert_same(runs[0][1], runs[1][1])
    rows = callbacks[0].rows
    assert [row["step"] for row in rows] == [2, 4, 6]
    logged = set(rows[0]) - {"step", "epoch"}  # a penalty belongs to training alone
    assert "eval_loss" in logged <= {f"eval_{name}" for name in history}


@pytest.mark.parametrize("steps", [1, 5])
def test_so_is_that_of_any_model(steps, backend):
    if backend == "torch" and steps > 1:
        pytest.skip("torch runs single steps")
    runs = []
    for callbacks in ([], [EvaluationCallback((X, Y), 3)]):
        keras.utils.set_random_seed(1)
        model = plain(steps)
        history = fit(model, *callbacks, validation_data=(X[:9], Y[:9]))
        runs.append((history, numbers(model), np.random.random(), random.random()))
    assert runs[0][0] == runs[1][0] and runs[0][2:] == runs[1][2:]
    assert_same(runs[0][1], runs[1][1])


def test_rows_are_what_evaluate_says_there():
    evaluation = EvaluationCallback((X, Y), 5, batch_size=7)
    model = plain()
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, shuffle=False, callbacks=[evaluation])
    for row, epoch in zip(evaluation.rows, (1, 1, 2, 2), strict=True):
        straight = plain()
        order = np.concatenate([np.arange(48), np.arange(48)])[: 4 * row["step"]]
        straight.fit(X[order], Y[order], batch_size=4, verbose=0, shuffle=False)
        expected = straight.evaluate(X, Y, batch_size=7, return_dict=True, verbose=0)
        assert row["epoch"] == epoch
        for name, value in expected.items():
            np.testing.assert_allclose(row[f"eval_{name}"], value, rtol=1e-5)


@pytest.mark.parametrize(
    ("every", "execution", "expected"),
    [
        (5, 1, [5, 10, 15, 20]),
        (12, 1, [12, 24]),  # the end of an epoch
        (5, 4, [8, 12, 16, 20]),  # passed within an execution
        (1, 12, [12, 24]),
        (30, 1, []),
    ],
)
def test_when_it_evaluates(every, execution, expected, backend):
    if backend == "torch" and execution > 1:
        pytest.skip("torch runs single steps")
    evaluation = EvaluationCallback((X, Y), every, batch_size=48, prefix="test/")
    fit(plain(execution), evaluation)
    assert [row["step"] for row in evaluation.rows] == expected
    assert all("test/loss" in row for row in evaluation.rows)


def test_the_next_run_begins_anew():
    evaluation = EvaluationCallback((X, Y), 8, batch_size=48)
    model = plain()
    fit(model, evaluation)
    fit(model, evaluation, epochs=1)
    assert [row["step"] for row in evaluation.rows] == [8]
    fit(model, evaluation, initial_epoch=1)
    assert [row["step"] for row in evaluation.rows] == [16, 24]


def test_its_state_goes_along():
    """Stopped before batch 5 of the first epoch, when an evaluation has just been done."""
    states = []

    class Keep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 5 and not states:
                states.append(first.get_state())

    first, second = EvaluationCallback((X, Y), 5), EvaluationCallback((X, Y), 5)
    fit(plain(), first, Keep())
    assert [row["step"] for row in states[0]["rows"]] == [5]
    second.set_model(plain())
    second.set_params({"steps": 12})
    second.on_train_begin()
    second.set_state(states[0])
    second.on_epoch_begin(0)
    evaluated = []
    second._evaluate = evaluated.append
    for batch in range(5, 12):
        second.on_train_batch_begin(batch)
    second.on_epoch_end(0)
    second.on_epoch_begin(1)
    for batch in range(12):
        second.on_train_batch_begin(batch)
    assert evaluated == [10, 15, 20] and second.rows == states[0]["rows"]


@pytest.mark.parametrize("kind", ["array", "tuple", "dataset"])
def test_data_of_every_kind(kind):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return X[:8], Y[:8]

    if kind == "array":
        family = FAMILIES[NAMES.index("vae")]
        model, data = family.make(), family.arrays()[0]
        model.compile("adam")
        evaluation = EvaluationCallback(data, 2, steps=1)
        model.fit(data, batch_size=16, verbose=0, callbacks=[evaluation])
    else:
        evaluation = EvaluationCallback((X, Y) if kind == "tuple" else Batches(), 6, steps=1)
        fit(plain(), evaluation, epochs=1)
    assert evaluation.rows


def test_it_prints_and_tells_the_trackers(capsys, monkeypatch):
    logged = []

    class Tracker:
        def log(self, metrics, step):
            logged.append({"step": step, **metrics})

    monkeypatch.setattr(tracking, "active", lambda model: [Tracker()])
    evaluation = EvaluationCallback((X, Y), 10, verbose=True)
    fit(plain(), evaluation)
    assert logged == evaluation.rows
    assert capsys.readouterr().out.startswith("step 10 - eval_loss: ")


def test_inside_a_trainer():
    from artifex_keras.models import VAE
    from artifex_keras.networks import mlp_decoder, mlp_encoder

    vae = VAE(mlp_encoder(4, 2, (4,)), mlp_decoder(2, 4, (4,)), seed=0)
    evaluation = EvaluationCallback(X, 4)
    config = TrainingConfig(batch_size=16, num_epochs=3, verbose=0)
    VAETrainer(vae, config, X, callbacks=[evaluation]).train()
    assert [row["step"] for row in evaluation.rows] == [4, 8]
    assert evaluation._size() == 16


def test_bad_input():
    with pytest.raises(ValueError, match="`every_n_steps` must be an integer of at least 1"):
        EvaluationCallback(X, 0)
