"""The diffusion trainer: its own settings, and the documented example."""

import keras
import numpy as np
import pytest

from artifex_keras.config import TrainingConfig
from artifex_keras.models import Diffusion
from artifex_keras.networks import timed_mlp
from artifex_keras.trainers import DiffusionTrainer

X = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
Y = np.arange(40) % 3
CONFIG = {"batch_size": 8, "num_epochs": 2, "verbose": 0, "seed": 1}


def diffusion(num_classes=None, **options):
    keras.utils.set_random_seed(0)
    network = timed_mlp((2,), (8,), num_classes=num_classes)
    return Diffusion(network, **{"num_timesteps": 60, **options})


def trainer(model=None, data=X, **options):
    return DiffusionTrainer(model or diffusion(), CONFIG, data, **options)


def test_settings_override_the_model():
    options = {
        "prediction_type": "v_prediction",
        "timestep_sampling": "logit_normal",
        "loss_weighting": "min_snr",
        "snr_gamma": 3.0,
        "condition_dropout": 0.2,
        "ema_decay": 0.9,
    }
    model = trainer(**options).model
    assert {name: getattr(model, name) for name in options} == options


def test_what_is_not_given_stays():
    options = {"prediction_type": "x_start", "snr_gamma": 2.0, "ema_decay": 0.5}
    model = trainer(diffusion(**options)).model
    assert {name: getattr(model, name) for name in options} == options


def test_an_average_is_begun_where_there_was_none():
    run = trainer(diffusion(ema_decay=None), ema_decay=0.5)
    run.train()
    assert len(run.model._average) == len(run.model.network.weights)
    assert int(run.model.average_updates) == 10


def test_conditions_and_validation():
    run = trainer(diffusion(3), (X, Y), val_dataset=(X, Y), condition_dropout=0.5)
    history = run.train().history
    assert {"loss", "loss_unweighted", "val_loss", "val_loss_unweighted"} <= set(history)
    assert run.evaluate() == run.evaluate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction_type": "eps"}, "Unknown prediction type 'eps'"),
        ({"loss_weighting": "minsnr"}, "Unknown loss weighting 'minsnr'. Did you mean 'min_snr'"),
        ({"snr_gamma": 0}, "`snr_gamma` must be greater than 0"),
        ({"condition_dropout": -0.1}, "`condition_dropout` must be in .0, 1"),
        ({"ema_decay": 1.0}, "`ema_decay` must be in .0, 1. or None"),
        ({"ema_deca": 0.9}, "Unknown argument of the trainer 'ema_deca'. Did you mean 'ema_decay'"),
        ({"model": object()}, "`model` must be a Diffusion"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        trainer(**options)


def test_an_option_that_the_model_does_not_allow_is_refused():
    model = diffusion(zero_terminal_snr=True, prediction_type="v_prediction")
    with pytest.raises(ValueError, match="zero terminal SNR"):
        trainer(model, prediction_type="epsilon")


def test_documented_example():
    training_config = TrainingConfig(batch_size=8, num_epochs=1, verbose=0)
    run = DiffusionTrainer(
        model=diffusion(),
        config=training_config,
        train_dataset=X,
        ema_decay=0.9999,  # Exponential moving average
    )
    run.train()
    assert run.model.ema_decay == 0.9999
