"""The VAE's trainer: its own settings, and the documented examples."""

import keras
import numpy as np
import pytest

from artifex_keras import networks
from artifex_keras.config import TrainingConfig
from artifex_keras.models import VAE
from artifex_keras.trainers import VAETrainer

X = np.random.default_rng(0).uniform(size=(40, 6)).astype("float32")
CONFIG = {"batch_size": 8, "num_epochs": 2, "verbose": 0, "seed": 1}


def vae(dropout=0.0, **options):
    keras.utils.set_random_seed(0)
    encoder = networks.mlp_encoder((6,), 2, (8,))
    if dropout:
        x = keras.Input((6,))
        noisy = keras.layers.Dropout(dropout)(x)
        encoder = keras.Model(x, encoder(noisy), name="noisy_encoder")
    return VAE(encoder, networks.mlp_decoder(2, (6,), (8,)), **options)


def configured(model, data=X, config=CONFIG, **options):
    VAETrainer(model, config, data, **options)
    return model


def test_settings_override_the_model():
    model = configured(vae(), beta=2.0, free_bits=0.5, kl_annealing="sigmoid", kl_warmup_epochs=3)
    assert (model.beta, model.free_bits, model.kl_annealing) == (2.0, 0.5, "sigmoid")
    assert model.kl_warmup_steps == 15


def test_what_is_not_given_stays():
    options = {"beta": 3.0, "free_bits": 0.25, "kl_annealing": "linear", "kl_warmup_steps": 7}
    model = configured(vae(**options))
    assert {name: getattr(model, name) for name in options} == options


def test_annealing_can_be_taken_away():
    assert (
        configured(vae(kl_annealing="linear", kl_warmup_steps=7), kl_annealing=False).kl_annealing
        == "none"
    )


def test_annealing_true_is_linear_over_the_warmup():
    trainer = VAETrainer(vae(), CONFIG, X, kl_annealing=True, kl_warmup_epochs=2.0)
    assert trainer.train().history["kl_weight"] == pytest.approx([0.4, 0.9])


def test_warmup_counts_batches_under_accumulation():
    options = {"kl_annealing": True, "kl_warmup_epochs": 2}
    assert configured(vae(), gradient_accumulation_steps=5, **options).kl_warmup_steps == 10


def test_beta_is_the_weight_in_the_loss():
    trainer = VAETrainer(vae(), {**CONFIG, "num_epochs": 1}, X, val_dataset=X, beta=0.0)
    history = trainer.train().history
    assert history["loss"] == pytest.approx(history["reconstruction_loss"], rel=1e-6)
    assert history["val_loss"] == pytest.approx(history["val_reconstruction_loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "`beta` must be at least 0.0. Received: beta=-1.0"),
        ({"free_bits": "much"}, "`free_bits` must be a finite number"),
        ({"kl_annealing": "cosine"}, "Unknown KL annealing 'cosine'"),
        ({"kl_warmup_epochs": 2}, "`kl_warmup_epochs` needs `kl_annealing`"),
        ({"kl_anealing": True}, "'kl_anealing'. Did you mean 'kl_annealing'"),
    ],
)
def test_settings_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        configured(vae(), **options)


def test_two_treatments_of_the_divergence_are_refused():
    with pytest.raises(ValueError, match="Only one treatment of the divergence"):
        configured(vae(capacity=3.0), free_bits=0.5)


def test_warmup_needs_a_length():
    batches = ((X[:8],) for _ in range(3))
    with pytest.raises(ValueError, match="`kl_warmup_epochs` needs a dataset with a length"):
        configured(vae(), batches, kl_annealing=True, kl_warmup_epochs=1)
    given = {**CONFIG, "steps_per_epoch": 3}
    assert (
        configured(vae(), batches, given, kl_annealing=True, kl_warmup_epochs=1).kl_warmup_steps
        == 3
    )


def test_annealing_needs_a_warmup():
    with pytest.raises(ValueError, match="needs `kl_warmup_steps`"):
        VAETrainer(vae(), CONFIG, X, kl_annealing=True).train()


def test_labels_are_refused():
    with pytest.raises(ValueError, match="This VAE takes no labels"):
        VAETrainer(vae(), CONFIG, (X, np.zeros(40))).train()


# The examples of the documentation


def test_quick_start():
    training_config = TrainingConfig(
        batch_size=128,
        num_epochs=100,
        optimizer={"type": "adam", "learning_rate": 1e-3},
        scheduler={"type": "cosine", "warmup_steps": 1000},
    )
    train_data, val_data = np.repeat(X, 40, axis=0), X
    training_config.verbose = 0
    trainer = VAETrainer(
        model=vae(),
        config=training_config,
        train_dataset=train_data,
        val_dataset=val_data,
    )
    rate = trainer.model.optimizer.get_config()["learning_rate"]["config"]
    assert (rate["total_steps"], rate["warmup_steps"]) == (1300, 1000)
    history = trainer.train().history
    assert history["val_loss"][-1] < history["val_loss"][0]


def test_annealed_example():
    trainer = VAETrainer(
        model=vae(),
        config=TrainingConfig(batch_size=8, num_epochs=1, verbose=0),
        train_dataset=X,
        kl_annealing=True,
        kl_warmup_epochs=10,
    )
    assert (trainer.model.kl_annealing, trainer.model.kl_warmup_steps) == ("linear", 50)
    trainer.train()


def test_accumulation_and_precision_examples():
    trainer = VAETrainer(
        model=vae(),
        config=TrainingConfig(batch_size=8, num_epochs=1, verbose=0),
        train_dataset=X,
        gradient_accumulation_steps=4,
        mixed_precision=True,
    )
    trainer.train()
    assert int(trainer.model.optimizer.iterations) == 1
    assert trainer.model.encoder.get_layer("encoder_hidden_1").compute_dtype == "bfloat16"


# Repeatable and resumable


def run(folder, epochs, resume=False):
    config = {
        **CONFIG,
        "num_epochs": epochs,
        "checkpoint_dir": folder,
        "optimizer": {"type": "adamw", "learning_rate": 0.01},
        "scheduler": {"type": "cosine", "total_steps": 20, "warmup_steps": 3},
    }
    trainer = VAETrainer(
        vae(dropout=0.3, ema_decay=0.9), config, X, X, kl_annealing=True, kl_warmup_epochs=3
    )
    return trainer.train(resume), [keras.ops.convert_to_numpy(v) for v in trainer.model.weights]


def test_a_resumed_run_is_the_straight_run_to_the_bit(tmp_path):
    straight, weights = run(tmp_path / "straight", 4)
    run(tmp_path / "parts", 2)
    rest, resumed = run(tmp_path / "parts", 4, resume=True)
    assert rest.history == straight.history
    assert rest.epoch == [0, 1, 2, 3]
    for one, other in zip(weights, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_seed_gives_the_same_history_and_another_another():
    histories = []
    for seed in (1, 1, 2):
        trainer = VAETrainer(vae(dropout=0.3), {**CONFIG, "seed": seed}, X, X)
        histories.append(trainer.train().history)
    assert histories[0] == histories[1]
    assert histories[0]["loss"] != histories[2]["loss"]
    assert histories[0]["val_loss"] != histories[2]["val_loss"]
