"""Which way a metric is better: the model says it, and nothing is guessed from letters."""

import algorithms
import families
import keras
import numpy as np
import pytest

from artifex_keras import GenerativeModel
from artifex_keras.callbacks import CheckpointCallback, EarlyStoppingCallback
from artifex_keras.callbacks.metric import Watched, metric_modes

ROWS = {row.name: row for row in (*families.FAMILIES, *algorithms.ALGORITHMS)}


@pytest.mark.parametrize("name", ROWS)
def test_every_metric_of_every_model_is_declared(name):
    model = ROWS[name].make()
    logged = {metric.name for metric in model.metrics}
    assert logged - {"loss"} == set(model.metric_names) and logged <= set(model.metric_modes)
    assert set(model.metric_modes.values()) <= {"min", "max", None}


def sign(row, metric, **options):
    watched = Watched(metric)
    watched.ask(ROWS[row].make(**options))
    return watched.sign


@pytest.mark.parametrize(
    ("row", "metric", "rises"),
    [
        ("dpo", "val_rejected_reward", False),
        ("dpo", "val_chosen_reward", True),
        ("dpo", "reward_margin", True),
        ("kto", "reward_accuracy", True),
        ("ppo", "val_reward", True),
        ("ppo", "value_loss", False),
        ("ppo", "explained_variance", True),
        ("vae", "val_elbo", True),
        ("vae", "val_loss", False),
        ("flow", "nll", False),
        ("pixel", "val_bits_per_dim", False),
        ("autoregressive", "val_accuracy", True),
        ("autoregressive", "perplexity", False),
        ("energy-jem", "classification_loss", False),
        ("diffusion", "loss_unweighted", False),
    ],
)
def test_what_a_model_says_of_its_metrics(row, metric, rises):
    assert sign(row, metric) == (1.0 if rises else -1.0)


@pytest.mark.parametrize(
    ("row", "metric"),
    [
        ("grpo", "val_reward_std"),
        ("energy-pcd", "acceptance"),
        ("vae", "kl_weight"),
        ("ppo", "kl_coeff"),
        ("gan", "val_d_loss"),
        ("vae", "gradient_norm"),
    ],
)
def test_a_metric_without_a_better_direction_asks_for_one(row, metric):
    with pytest.raises(ValueError, match=rf"'{metric}' has no better direction: pass `mode='min'`"):
        sign(row, metric)


def test_each_reward_of_several_rises():
    rewards = [algorithms.sevens, algorithms.traced_sevens]
    assert sign("grpo", "val_reward_sevens", reward_fn=rewards) == 1.0
    model = ROWS["grpo"].make()
    model.reward_fn = rewards  # and of those that are set later
    assert model.metric_modes["reward_traced_sevens"] == "max"


def test_losses_and_metrics_of_several_outputs():
    entry = keras.Input((1,))
    model = keras.Model(entry, [keras.layers.Dense(1, name=name)(entry) for name in ("a", "b")])
    model.compile("sgd", ["mse", "mse"], metrics=[["mae"], [keras.metrics.R2Score()]])
    x = np.ones((4, 1), "float32")
    logs = model.fit(x, [x, x], verbose=0).history
    modes = metric_modes(model)
    assert set(logs) <= set(modes)
    assert [modes[each] for each in ("loss", "a_loss", "a_mae", "b_r2_score")] == [
        *("min", "min", "min", "max")
    ]


class Undeclared(GenerativeModel):
    """A family of a user that only names its metrics."""

    metric_names = ("score",)

    def build(self, input_shape, condition=None):
        self.mean = self.add_weight(name="mean", shape=input_shape[1:])
        self.finish_build(input_shape)

    def objective(self, batch, training):
        error = keras.ops.sum(keras.ops.square(batch.x - self.mean), axis=-1)
        return {"loss": error, "score": -error}


def plain():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse", metrics=[keras.metrics.MeanMetricWrapper(scored, name="score")])
    return model


def scored(y, prediction):
    return -keras.ops.mean(keras.ops.square(y - prediction), axis=-1)


def undeclared():
    model = Undeclared(seed=0)
    model.compile("sgd")
    return model


@pytest.mark.parametrize("make", [plain, undeclared])
def test_where_nothing_says_it_the_run_asks_before_it_trains(make, tmp_path):
    model, x = make(), np.ones((4, 2), "float32")
    data = (x,) if make is undeclared else (x, x)
    asked = r"'{}' has no direction that the model states.*`mode='max'` if it should rise.*{}"
    for metric, hint in (("score", ""), ("val_scor", "Did you mean 'val_score'"), ("accuracy", "")):
        stopping = EarlyStoppingCallback(metric=metric, verbose=False)
        with pytest.raises(ValueError, match=asked.format(metric, hint)):
            model.fit(*data, validation_data=data, epochs=2, verbose=0, callbacks=[stopping])
    keep = CheckpointCallback(tmp_path, save_best=True, metric="score")
    with pytest.raises(ValueError, match=asked.format("score", "")):
        model.fit(*data, epochs=2, verbose=0, callbacks=[keep])
    stopping = EarlyStoppingCallback(patience=1, metric="score", mode="max", verbose=False)
    model.fit(*data, epochs=3, verbose=0, callbacks=[stopping])
    assert stopping.stopped_epoch is None  # it rises in each epoch


def test_the_best_rejected_reward_is_the_lowest(tmp_path):
    row = ROWS["dpo"]
    model = row.make()
    model.compile(keras.optimizers.Adam(0.05))
    keep = CheckpointCallback(
        tmp_path, None, save_best=True, metric="rejected_reward", max_to_keep=None
    )
    history = model.fit(*row.arrays(), batch_size=48, epochs=3, verbose=0, callbacks=[keep])
    falling = history.history["rejected_reward"]
    assert keep.watched.best == min(falling) and keep.store.best()[0] == 1 + np.argmin(falling)
