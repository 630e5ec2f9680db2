"""What `create_optimizer` takes, refuses, and what becomes of it."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.gradient_accumulation import GradientAccumulation
from artifex_keras.optimizers import OPTIMIZERS, create_optimizer, optimizer_arguments
from artifex_keras.schedulers import create_scheduler


def number(value):
    return float(ops.convert_to_numpy(value))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_saved_and_loaded(name):
    schedule = create_scheduler("cosine", 1e-2, 3, 50)
    for learning_rate in (1e-2, schedule, keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.9)):
        made = create_optimizer(name, learning_rate, weight_decay=0.1, gradient_clip_norm=2.0)
        config = keras.optimizers.serialize(made)
        assert config["registered_name"].startswith("artifex_keras>")
        loaded = keras.optimizers.deserialize(config)
        assert type(loaded) is type(made)
        assert loaded.get_config() == made.get_config()
        assert loaded.global_clipnorm == 2.0
        assert number(loaded.learning_rate) == number(made.learning_rate)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_model_goes_on_where_it_was_saved(name, tmp_path):
    """Four steps, and two steps, saving, loading and two steps, are equal to the bit."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)).astype("float32"), rng.normal(size=(8, 2)).astype("float32")
    built = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(2)]
    )
    built.compile(create_optimizer(name, create_scheduler("linear", 1e-2, 2, 5)), "mse")
    for _ in range(2):
        built.train_on_batch(x, y)
    built.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for _ in range(2):
        built.train_on_batch(x, y)
        loaded.train_on_batch(x, y)
    for ours, theirs in zip(built.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_clipping_is_by_the_norm_of_all_gradients():
    a, b = keras.Variable([0.0, 0.0], name="a"), keras.Variable(0.0, name="b")
    optimizer = create_optimizer("sgd", 1.0, gradient_clip_norm=1.0)
    optimizer.apply([ops.convert_to_tensor([2.0, 6.0]), ops.convert_to_tensor(9.0)], [a, b])
    np.testing.assert_allclose(ops.convert_to_numpy(a), [-2 / 11, -6 / 11], rtol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(b), -9 / 11, rtol=1e-6)
    optimizer.apply([ops.convert_to_tensor([0.3, 0.0]), ops.convert_to_tensor(0.4)], [a, b])
    np.testing.assert_allclose(ops.convert_to_numpy(b), -9 / 11 - 0.4, rtol=1e-6)  # as it is


def test_defaults_are_the_optimizers_own():
    assert create_optimizer().weight_decay == 0.01
    assert create_optimizer("adamw").get_config()["beta_2"] == 0.999
    assert create_optimizer("lion").get_config()["beta_2"] == 0.99
    assert create_optimizer("adam").weight_decay is None
    assert create_optimizer("adamw", weight_decay=0).weight_decay == 0
    muon = create_optimizer("muon", beta1=0.8, weight_decay=0.2)
    assert (muon.adam_beta_1, muon.adam_weight_decay, muon.weight_decay) == (0.8, 0.2, 0.2)


def test_learning_rates_of_all_kinds():
    assert number(create_optimizer("adam", 1).learning_rate) == 1.0
    assert number(create_optimizer("adam", np.float32(0.5)).learning_rate) == 0.5
    assert number(create_optimizer("adam", lambda: 0.25).learning_rate) == 0.25
    optimizer = create_optimizer("adam", 0.1)
    optimizer.learning_rate = 0.05
    assert number(optimizer.learning_rate) == np.float32(0.05)


def test_accumulation_is_around_it():
    optimizer = create_optimizer("adam", gradient_accumulation_steps=3)
    assert isinstance(optimizer, GradientAccumulation) and optimizer.steps == 3
    assert type(create_optimizer("adam", gradient_accumulation_steps=1)) is OPTIMIZERS["adam"][0]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("adamm", {}, "Did you mean 'adam"),
        ("sgd", {"beta1": 0.9}, "`beta1` is of no use to the optimizer 'sgd', which takes"),
        ("sgd", {"beta2": 0.9}, "`beta2` is of no use"),
        ("adafactor", {"beta1": 0.9}, "`beta1` is of no use"),
        ("adamw", {"momentum": 0.9}, "`momentum` is of no use"),
        ("schedule_free_adamw", {"ema_decay": 0.9}, "`ema_decay` is of no use"),
        ("adamw", {"weight_decay": -1}, "`weight_decay` must be at least 0"),
        ("adamw", {"beta1": 1.0}, r"`beta1` must be in \[0, 1\)"),
        ("adamw", {"ema_decay": 1.5}, r"`ema_decay` must be in \[0, 1\)"),
        ("adamw", {"gradient_clip_norm": 0}, "`gradient_clip_norm` must be greater than 0"),
        (
            "adamw",
            {"gradient_accumulation_steps": 0},
            "`gradient_accumulation_steps` must be an integer of at least 1",
        ),
        ("adamw", {"weight_decay": 10**400}, "`weight_decay` must be a finite number"),
        ("adamw", {"epsilon": "adam"}, "`epsilon` must be a finite number"),
        ("sgd", {"clipnorm": float("nan")}, "`clipnorm` must be a finite number"),
        ("sgd", {"clipnorm": -1}, "`clipnorm` must be greater than 0"),
        ("adamw", {"learning_rate": "1e-3"}, "`learning_rate` must be a finite number"),
        ("adamw", {"learning_rate": -1.0}, "`learning_rate` must be at least 0"),
        ("adamw", {"learning_rate": None}, "`learning_rate` must be a finite number"),
    ],
)
def test_bad_input(name, arguments, said):
    with pytest.raises(ValueError, match=said):
        create_optimizer(name, **arguments)


def test_the_arguments_are_listed():
    assert optimizer_arguments("sgd")[:3] == ["ema_decay", "gradient_clip_norm", "weight_decay"]
    assert {"momentum", "nesterov"} <= set(optimizer_arguments("sgd"))
    assert {"beta1", "beta2", "momentum_decay"} <= set(optimizer_arguments("nadam"))
    assert "kwargs" not in {name for kind in OPTIMIZERS for name in optimizer_arguments(kind)}
