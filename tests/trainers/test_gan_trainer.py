"""The GAN's trainer: its own settings, and the documented example."""

import keras
import numpy as np
import pytest

from artifex_keras import networks
from artifex_keras.config import TrainingConfig
from artifex_keras.models import GAN
from artifex_keras.trainers import GANTrainer

X = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
CONFIG = {
    "batch_size": 4,
    "num_epochs": 1,
    "verbose": 0,
    "seed": 1,
    "optimizer": {"type": "sgd", "learning_rate": 0.01},
}


def gan(**options):
    keras.utils.set_random_seed(0)
    generator = networks.mlp_generator(3, (2,), (8,))
    return GAN(generator, networks.mlp_critic((2,), (8,)), 3, **options)


def trainer(model=None, data=X, config=None, **options):
    return GANTrainer(model or gan(), {**CONFIG, **(config or {})}, data, **options)


def rates(optimizer, updates):
    schedule = keras.saving.deserialize_keras_object(optimizer.get_config()["learning_rate"])
    return [float(schedule(k)) for k in updates]


def test_settings_override_the_model():
    options = {"d_steps": 3, "gp_weight": 10.0, "loss_type": "wasserstein", "r1_weight": 0.5}
    model = trainer(**options).model
    assert {name: getattr(model, name) for name in options} == options
    assert trainer(label_smoothing=0.1).model.label_smoothing == 0.1


def test_what_is_not_given_stays():
    options = {"d_steps": 2, "gp_weight": 1.0, "loss_type": "hinge", "ema_decay": 0.5}
    model = trainer(gan(**options)).model
    assert {name: getattr(model, name) for name in options} == options


def test_a_penalty_changes_no_loss():
    assert trainer(gp_weight=10.0).model.loss_type == "vanilla"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_steps": 0}, "`d_steps` must be an integer of at least 1"),
        ({"gp_weight": -1}, "`gp_weight` must be at least 0.0"),
        ({"loss_type": "hing"}, "Unknown GAN loss 'hing'. Did you mean 'hinge'"),
        ({"label_smoothing": 0.9}, "`label_smoothing` must be in .0.0, 0.5"),
        ({"label_smoothing": 0.1, "loss_type": "hinge"}, "`label_smoothing` belongs to"),
        ({"ema_decay": 1.0}, r"`ema_decay` must be in \[0, 1\) or None"),
        ({"discriminator_optimizer": "adamm"}, "Unknown optimizer 'adamm'"),
        ({"gp_wieght": 1.0}, "'gp_wieght'. Did you mean 'gp_weight'"),
    ],
)
def test_settings_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        trainer(**options)


def test_batch_size_is_that_of_one_step():
    it = trainer(d_steps=5)
    it.train()
    assert it.batch_size == 20
    assert int(it.model.step) == 2
    assert int(it.model.discriminator_optimizer.iterations) == 10
    assert int(it.model.generator_optimizer.iterations) == 2


def test_fewer_rows_than_the_steps_need_are_one_batch():
    it = trainer(d_steps=11)
    it.train()
    assert it.batch_size == 44 and int(it.model.step) == 1
    assert int(it.model.discriminator_optimizer.iterations) == 11


def test_discriminator_optimizer():
    model = trainer(discriminator_optimizer={"type": "adam", "learning_rate": 0.5}).model
    assert float(model.discriminator_optimizer.learning_rate) == 0.5
    assert float(model.generator_optimizer.learning_rate) == pytest.approx(0.01)
    alike = trainer().model
    assert alike.discriminator_optimizer is not alike.generator_optimizer
    assert float(alike.discriminator_optimizer.learning_rate) == pytest.approx(0.01)


def test_clipping_is_for_both():
    model = trainer(config={"gradient_clip_norm": 0.5}, discriminator_optimizer="adam").model
    for optimizer in (model.discriminator_optimizer, model.generator_optimizer):
        assert optimizer.global_clipnorm == 0.5


def test_both_rates_go_down_together():
    model = trainer(config={"scheduler": "linear", "num_epochs": 3}, d_steps=2).model
    generator = rates(model.generator_optimizer, range(15))
    assert generator == pytest.approx(np.linspace(0.01, 0, 15), abs=1e-8)
    assert rates(model.discriminator_optimizer, range(30)) == np.repeat(generator, 2).tolist()


def test_a_keras_optimizer_has_a_sibling():
    model = trainer(config={"optimizer": keras.optimizers.Adam(0.2, beta_1=0.5)}).model
    assert model.discriminator_optimizer is not model.generator_optimizer
    assert model.discriminator_optimizer.beta_1 == 0.5


def test_accumulation_is_for_both():
    it = trainer(d_steps=2, gradient_accumulation_steps=5)
    it.train()
    assert int(it.model.generator_optimizer.iterations) == 1
    assert int(it.model.discriminator_optimizer.iterations) == 2


def test_an_average_for_a_model_that_is_built():
    it = trainer(ema_decay=0.5, config={"num_epochs": 2})
    assert it.model.built
    it.train()
    with it.model.ema_weights():
        averaged = [keras.ops.convert_to_numpy(w) + 0.0 for w in it.model.generator.weights]
    plain = [keras.ops.convert_to_numpy(w) for w in it.model.generator.weights]
    assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(averaged, plain, strict=True))


def test_documented_example(tmp_path):
    training_config = TrainingConfig(batch_size=4, num_epochs=2, checkpoint_dir=tmp_path, verbose=0)
    trainer = GANTrainer(
        model=gan(),
        config=training_config,
        train_dataset=X,
        d_steps=5,  # Discriminator steps per generator step
        gp_weight=10.0,  # Gradient penalty weight
    )
    history = trainer.train().history
    assert {"d_loss", "g_loss", "gp_loss"} <= set(history)
    assert len(list(tmp_path.iterdir())) == 2


def run(folder, epochs, resume=False):
    config = {
        "num_epochs": epochs,
        "checkpoint_dir": folder,
        "optimizer": "adam",
        "scheduler": {"type": "linear", "total_steps": 20},
    }
    options = {"d_steps": 2, "loss_type": "wasserstein", "gp_weight": 1.0, "ema_decay": 0.9}
    it = trainer(config=config, **options)
    return it.train(resume), [keras.ops.convert_to_numpy(v) for v in it.model.weights]


def test_a_resumed_run_is_the_straight_run_to_the_bit(tmp_path):
    straight, weights = run(tmp_path / "straight", 3)
    run(tmp_path / "parts", 1)
    rest, resumed = run(tmp_path / "parts", 3, resume=True)
    assert rest.history == straight.history
    for one, other in zip(weights, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
