"""The trainers of autoregressive models: what they set, and what they reach."""

import numpy as np
import pytest
from families import FAMILIES

from artifex_keras import AutoregressiveTrainer, PixelAutoregressiveTrainer, TrainingConfig

ROWS = {family.name: family for family in FAMILIES}


def config(**more):
    return TrainingConfig(batch_size=16, num_epochs=2, seed=0, verbose=0, **more)


def test_what_the_trainer_is_given_is_set_on_the_model():
    family = ROWS["autoregressive"]
    model = family.make()
    trainer = AutoregressiveTrainer(
        model=model,
        config=config(),
        train_dataset=family.arrays(48)[0],
        val_dataset=family.arrays(16)[0],
        label_smoothing=0.2,
        z_loss=1e-4,
        scheduled_sampling="exponential",
        scheduled_sampling_steps=7,
        ema_decay=0.5,
    )
    assert (model.label_smoothing, model.z_loss, model.ema_decay) == (0.2, 1e-4, 0.5)
    assert (model.scheduled_sampling, model.scheduled_sampling_steps) == ("exponential", 7)
    history = trainer.train().history
    assert {"loss", "perplexity", "accuracy", "val_perplexity"} <= set(history)
    assert int(model.average_updates) == 6


def test_a_response_mask_trains_and_evaluates():
    family = ROWS["autoregressive"]
    x = family.arrays(32)[0]
    mask = np.broadcast_to(np.arange(6) >= 3, x.shape)
    trainer = AutoregressiveTrainer(family.make(), config(), (x, mask), (x, mask))
    trainer.train()
    expected = trainer.model.perplexity(x, mask)
    assert trainer.evaluate()["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_pixels_train_too():
    family = ROWS["pixel"]
    trainer = PixelAutoregressiveTrainer(
        family.make(), config(), family.arrays(32)[0], ema_decay=0.9
    )
    assert "bits_per_dim" in trainer.train().history and trainer.model.ema_decay == 0.9


def test_a_wrong_setting_is_refused():
    family = ROWS["autoregressive"]
    for options, words in (
        ({"label_smoothing": 2.0}, "`label_smoothing` must be in .0, 1"),
        ({"scheduled_sampling": "cubic"}, "Unknown scheduled sampling"),
        ({"label_smothing": 0.1}, "Did you mean 'label_smoothing'"),
    ):
        with pytest.raises(ValueError, match=words):
            AutoregressiveTrainer(family.make(), config(), family.arrays()[0], **options)
