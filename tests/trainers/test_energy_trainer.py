"""What the trainer of energy-based models sets, and what it refuses."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.models import EnergyModel
from artifex_keras.trainers import EnergyTrainer

DATA = np.random.default_rng(0).standard_normal((64, 2)).astype("float32")
CONFIG = {"batch_size": 16, "num_epochs": 2, "seed": 3, "verbose": 0}


def model(**options):
    keras.utils.set_random_seed(0)
    entry = keras.Input((2,))
    hidden = keras.layers.Dense(4, activation="tanh")(entry)
    network = keras.Model(entry, keras.layers.Dense(1)(hidden))
    return EnergyModel(network, **{"mcmc_steps": 2, "replay_buffer_size": 32, **options})


def test_what_is_given_is_set_on_the_model():
    options = {
        "mcmc_steps": 3,
        "step_size": 0.2,
        "noise_scale": 0.1,
        "gradient_clipping": 1.0,
        "replay_buffer_init_prob": 0.5,
        "energy_regularization": 0.3,
        "gradient_penalty_weight": 0.4,
        "data_noise": 0.01,
        "ema_decay": 0.9,
    }
    trainer = EnergyTrainer(model(), CONFIG, DATA, **options)
    assert {name: getattr(trainer.model, name) for name in options} == options
    assert len(trainer.model._average) == 4
    untouched = EnergyTrainer(model(step_size=0.7), CONFIG, DATA).model
    assert untouched.step_size == 0.7 and untouched.mcmc_steps == 2


def test_a_seed_repeats_the_run_chains_included():
    runs = []
    for seed in (1, 2):  # the seeds of the models, which the config's replaces
        trainer = EnergyTrainer(model(training_method="pcd", seed=seed), CONFIG, DATA, DATA)
        runs.append((trainer.train().history, ops.convert_to_numpy(trainer.model.buffer.chains)))
    assert runs[0][0] == runs[1][0]
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert trainer.evaluate()["energy_gap"] == runs[0][0]["val_energy_gap"][-1]


def test_a_resumed_run_equals_the_straight_one(tmp_path):
    config = {**CONFIG, "checkpoint_dir": str(tmp_path / "a")}
    whole = EnergyTrainer(model(training_method="pcd"), CONFIG, DATA)
    whole.train()
    EnergyTrainer(model(training_method="pcd"), {**config, "num_epochs": 1}, DATA).train()
    rest = EnergyTrainer(model(training_method="pcd"), config, DATA)
    rest.train(resume=True)
    for one, other in zip(whole.model.weights, rest.model.weights, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (one, other)), one.path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mcmc_steps": 0}, "`mcmc_steps` must be an integer of at least 1"),
        ({"step_size": -1.0}, "`step_size` must be greater than 0"),
        ({"replay_buffer_init_prob": 2.0}, "`replay_buffer_init_prob` must be in .0"),
        (
            {"mcmc_step": 3},
            "Unknown argument of the trainer 'mcmc_step'. Did you mean 'mcmc_steps'",
        ),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EnergyTrainer(model(), CONFIG, DATA, **options)


def test_a_buffer_smaller_than_a_batch_is_refused_at_once():
    with pytest.raises(ValueError, match="`replay_buffer_size` must be at least the batch size"):
        EnergyTrainer(model(training_method="pcd"), {**CONFIG, "batch_size": 33}, DATA)
