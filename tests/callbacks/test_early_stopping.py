"""When a run stops, and what it leaves behind, on made-up metrics."""

import keras
import numpy as np
import pytest
from families import FAMILIES, points
from fresh import fresh
from keras import ops

from artifex_keras.callbacks import BaseCallback, CheckpointCallback, EarlyStoppingCallback

NAN = float("nan")


class Scripted(keras.callbacks.Callback):
    """Puts the values of a script into the logs of its epochs."""

    def __init__(self, values, name="val_loss"):
        super().__init__()
        self.values, self.name = values, name

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]


def run(values, stopping, name="val_loss", model=None, more=()):
    """How many epochs were made of those scripted."""
    if model is None:
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.1), "mse")
    x = np.ones((4, 1), "float32")
    callbacks = [Scripted(values, name), stopping, *more]
    history = model.fit(x, 5 * x, epochs=len(values), verbose=0, callbacks=callbacks)
    return len(history.epoch)


@pytest.mark.parametrize(
    ("values", "settings", "epochs"),
    [
        ([3, 2, 1, 1, 1, 1, 1], {"patience": 3}, 6),
        ([3, 2, 1, 1, 0.5, 1, 1, 1], {"patience": 3}, 8),  # an improvement starts it anew
        ([3, 4, 5], {"patience": 0}, 2),
        ([3, 2.95, 2.91, 2.89, 1], {"patience": 2, "min_delta": 0.1}, 3),
        ([1, 2, 3, 3, 3, 3], {"patience": 2, "mode": "max"}, 5),
        ([NAN, NAN, 1, NAN, NAN, 5], {"patience": 2}, 2),
        ([1, NAN, NAN, 0.5], {"patience": 3}, 4),  # and NaN never is the best
        ([1, NAN, 1, 1], {"patience": 3, "stop_at_nan": True}, 2),
        ([5, 4, 0.9, 0.8], {"patience": 9, "stopping_threshold": 1.0}, 3),
        ([5, 4, 11, 1], {"patience": 9, "divergence_threshold": 10.0}, 3),
        ([5, 4, NAN, 1], {"patience": 9, "divergence_threshold": 10.0}, 3),
        ([9, 9, 9, 9, 9, 9], {"patience": 1, "start_from_epoch": 3}, 5),
    ],
)
def test_when_it_stops(values, settings, epochs):
    stopping = EarlyStoppingCallback(**settings, verbose=False)
    assert run(values, stopping) == epochs
    assert (stopping.stopped_epoch == epochs - 1) == (stopping.reason is not None)


@pytest.mark.parametrize(
    ("metric", "name", "values"),
    [
        ("accuracy", "val_accuracy", [1, 2, 1, 0]),
        ("mae", "mae", [2, 1, 2, 0]),  # no part of its name says it
        (keras.metrics.MeanAbsoluteError("accurate_reward"), "accurate_reward", [2, 1, 2, 0]),
        (keras.metrics.CosineSimilarity(name="angle"), "val_angle", [1, 2, 1, 0]),
    ],
)
def test_a_metric_of_keras_says_which_way_is_better(metric, name, values):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=[metric])
    stopping = EarlyStoppingCallback(patience=1, metric=name, verbose=False)
    assert run(values, stopping, name, model) == 3 and stopping.best_epoch == 1


@pytest.mark.parametrize("optimizer", [False, True])
def test_the_best_epoch_comes_back(optimizer):
    weights = {}

    class Remember(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept = [*self.model.weights, *self.model.optimizer.variables]
            weights[epoch] = [np.array(ops.convert_to_numpy(v)) for v in kept]

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    stopping = EarlyStoppingCallback(
        patience=2, restore_best=True, restore_optimizer=optimizer, verbose=False
    )
    x = np.ones((4, 1), "float32")
    callbacks = [Scripted([3, 1, 2, 2, 2]), Remember(), stopping]
    model.fit(x, 5 * x, epochs=5, verbose=0, callbacks=callbacks)
    for made, best in zip(model.weights, weights[1], strict=False):
        np.testing.assert_array_equal(ops.convert_to_numpy(made), best)
    assert int(model.optimizer.iterations) == (2 if optimizer else 4)
    model.fit(x, 5 * x, verbose=0)  # and training goes on from there


def test_its_state_goes_along():
    first = EarlyStoppingCallback(patience=3, verbose=False)
    run([3, 1, 2], first)
    second = EarlyStoppingCallback(patience=3, verbose=False)
    resume = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: second.set_state(first.get_state())
    )
    assert run([2, 2, 2], second, more=[resume]) == 2  # one without improvement lay behind it
    assert run([3, 3, 3, 3, 3], second) == 4  # another run begins anew


def test_it_says_why(capsys):
    run([3, 1, 2, 2], EarlyStoppingCallback(patience=2))
    said = capsys.readouterr().out
    assert said == "Stopped after epoch 4: `val_loss` has not improved on 1 for 2 epochs.\n"


def test_bad_input():
    with pytest.raises(ValueError, match="`patience` must be .* Received: patience=-1"):
        EarlyStoppingCallback(patience=-1)
    with pytest.raises(ValueError, match="Unknown mode 'least'"):
        EarlyStoppingCallback(mode="least")
    with pytest.raises(ValueError, match="`restore_optimizer` needs"):
        EarlyStoppingCallback(restore_optimizer=True)
    stopping = EarlyStoppingCallback(patience=1, metric="val_los", mode="min")
    with pytest.raises(ValueError, match="metric 'val_los'.*Pass `validation_data` to `fit`"):
        run([1, 2], stopping, name="something")


# Without validation data


class Rate(keras.callbacks.Callback):
    """Makes the training loss of each epoch that of a script."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def on_epoch_end(self, epoch, logs=None):
        logs["loss"] = self.losses[epoch]


def test_the_training_metric_takes_the_place_of_the_missing_one(tmp_path):
    """The callbacks of the design's page, without validation data."""
    losses = [3.0, 1.0, 2.0, 2.0, 2.0]
    stopping = EarlyStoppingCallback(patience=2, metric="val_loss", mode="min", verbose=False)
    keep = CheckpointCallback(tmp_path, save_best=True, metric="val_loss", max_to_keep=1)
    with pytest.warns(UserWarning) as warned:
        epochs = run(losses, Rate(losses), "other", more=[stopping, keep])
    said = [str(each.message) for each in warned if "val_loss" in str(each.message)]
    assert said == [
        "'val_loss' needs `validation_data` in `fit`, and there is none: 'loss' of training is "
        "watched instead."
    ]
    assert stopping.watched.metric == "loss" and keep.watched.best == 1.0 and epochs <= 5


@pytest.mark.parametrize("metric", ["val_loss", "val_reconstruction_loss"])
def test_a_family_without_validation_data(metric):
    model = fresh(FAMILIES[0])
    stopping = EarlyStoppingCallback(patience=1, metric=metric, min_delta=1e9, verbose=False)
    with pytest.warns(UserWarning, match=f"'{metric}' needs `validation_data`"):
        model.fit(points(16), epochs=4, verbose=0, callbacks=[stopping])
    assert stopping.stopped_epoch == 1 and stopping.watched.metric == metric[4:]


def test_a_later_fit_with_validation_data_watches_it():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((4, 1), "float32")
    stopping = EarlyStoppingCallback(patience=9)
    with pytest.warns(UserWarning, match="'val_loss' needs"):
        model.fit(x, x, verbose=0, callbacks=[stopping])
    assert stopping.watched.metric == "loss"
    options = {"validation_data": (x, x), "validation_freq": 2}  # no value in epochs 1 and 3
    model.fit(x, x, epochs=4, verbose=0, callbacks=[stopping], **options)
    assert stopping.watched.metric == "val_loss" and stopping.best_epoch in (1, 3)


# A run that early stopping has ended, run again


def again(folder, *callbacks, epochs=9, model=None):
    """The line of a notebook's cell: how many epochs the history has, and the step."""
    model = model or linear()
    keep = CheckpointCallback(folder, resume="auto")
    x = np.ones((4, 1), "float32")
    history = model.fit(x, 5 * x, epochs=epochs, verbose=0, callbacks=[*callbacks, keep])
    weights = [np.array(ops.convert_to_numpy(w)) for w in model.weights]
    return len(history.epoch), int(ops.convert_to_numpy(model.optimizer.iterations)), weights


def linear():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def ours(patience=2, **options):
    return EarlyStoppingCallback(patience, metric="val_loss", verbose=False, **options)


def of_keras(patience=2, **options):
    return keras.callbacks.EarlyStopping("val_loss", patience=patience, **options)


VALUES = [3, 2, 2, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    "make",
    [
        ours,
        of_keras,
        lambda **o: ours(9, stopping_threshold=2.5, **o),
        lambda **o: ours(9, divergence_threshold=1.0, **o),
    ],
    ids=["ours", "keras", "threshold", "divergence"],
)
def test_a_run_that_it_ended_is_not_trained_further(make, tmp_path, capsys):
    first = again(tmp_path, Scripted(VALUES), make())
    assert first[0] < 9
    for _ in range(2):
        capsys.readouterr()
        epochs, steps, weights = again(tmp_path, Scripted(VALUES), make())
        assert (epochs, steps) == first[:2]
        for a, b in zip(weights, first[2], strict=True):
            np.testing.assert_array_equal(a, b)
        assert "Nothing more is trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "best"), [(ours, "restore_best"), (of_keras, "restore_best_weights")]
)
def test_it_leaves_the_best_weights_again(make, best, tmp_path):
    first = again(tmp_path, Scripted(VALUES), make(**{best: True}))
    second = again(tmp_path, Scripted(VALUES), make(**{best: True}))
    for a, b in zip(first[2], second[2], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", [ours, of_keras])
def test_more_patience_lets_it_go_on(make, tmp_path):
    assert again(tmp_path, Scripted(VALUES), make())[:2] == (4, 4)
    assert again(tmp_path, Scripted(VALUES), make(4))[:2] == (6, 6)
    assert again(tmp_path, Scripted(VALUES))[:2] == (9, 9)  # without any


def test_a_run_whose_epochs_are_done_says_so(tmp_path, capsys):
    for _ in range(2):
        capsys.readouterr()
        assert again(tmp_path, epochs=2)[:2] == (2, 2)
    assert "all 2 epochs are done" in capsys.readouterr().out


def test_a_callback_of_somebodys_own_says_that_the_run_is_over(tmp_path, capsys):
    class Enough(BaseCallback):
        enough = False

        def on_epoch_end(self, epoch, logs=None):
            self.enough = self.running_model.stop_training = epoch == 1

        @property
        def ended(self):
            return "that was enough" if self.enough else None

        def get_state(self):
            return {"enough": self.enough}

        def set_state(self, state):
            self.enough = state["enough"]

    assert [again(tmp_path, Enough())[0] for _ in range(2)] == [2, 2]
    assert "as that was enough" in capsys.readouterr().out
