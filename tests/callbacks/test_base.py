"""Hooks in two manners, inside `model.fit` and inside a trainer."""

import keras
import numpy as np

from artifex_keras import TrainingConfig, VAETrainer
from artifex_keras.callbacks import BaseCallback
from artifex_keras.models import VAE
from artifex_keras.networks import mlp_decoder, mlp_encoder

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")


def plain():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def vae():
    return VAE(mlp_encoder(4, 2, (4,)), mlp_decoder(2, 4, (4,)), seed=0)


class Page(BaseCallback):
    """As on the design page, but that it remembers instead of printing."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_start(self, trainer, epoch):
        self.seen.append(("start", trainer, epoch))

    def on_epoch_end(self, trainer, epoch, metrics):
        self.seen.append(("end", trainer, epoch, sorted(metrics)))

    def on_train_batch_end(self, trainer, batch_idx, loss):
        assert np.isfinite(float(loss)) and f"{loss:.4f}"
        self.seen.append(("batch", trainer, batch_idx))


def expected(trainer, metrics):
    epoch = [
        [("start", trainer, e), *(("batch", trainer, b) for b in range(3)),
         ("end", trainer, e, metrics)]
        for e in range(2)
    ]  # fmt: skip
    return sum(epoch, [])


def test_the_pages_hooks_inside_fit_of_any_model():
    callback, model = Page(), plain()
    model.fit(X, X[:, :1], batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    assert callback.seen == expected(model, ["loss"])


def test_the_pages_hooks_inside_a_trainer():
    callback, model = Page(), vae()
    config = TrainingConfig(batch_size=4, num_epochs=2, verbose=0)
    trainer = VAETrainer(model, config, X, callbacks=[callback])
    history = trainer.train()
    assert callback.seen == expected(trainer, sorted(history.history))


def test_hooks_as_keras_has_them_still_work():
    seen = []

    class Mine(BaseCallback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(("begin", epoch))

        def on_epoch_end(self, epoch, logs=None):
            seen.append(("end", epoch, "loss" in logs))

        def on_test_end(self, logs=None):
            seen.append("test")

    plain().fit(X, X[:, :1], verbose=0, validation_data=(X, X[:, :1]), callbacks=[Mine()])
    assert seen == [("begin", 0), "test", ("end", 0, True)]


def test_both_manners_in_one_class_and_every_other_hook():
    seen = []

    class Mine(BaseCallback):
        def on_train_start(self, trainer):
            seen.append("train start")

        def on_train_end(self, trainer):
            seen.append("train end")

        def on_epoch_begin(self, epoch, logs=None):
            seen.append(("keras", epoch))

        def on_epoch_start(self, trainer, epoch):
            seen.append(("page", epoch))

        def on_train_batch_start(self, trainer, batch_idx):
            seen.append(("batch", batch_idx))

        def on_validation_start(self, trainer):
            seen.append("validation start")

        def on_validation_end(self, trainer, metrics):
            seen.append(("validation end", "loss" in metrics))

    plain().fit(X, X[:, :1], verbose=0, validation_data=(X, X[:, :1]), callbacks=[Mine()])
    assert seen == [
        "train start",
        ("keras", 0),
        ("page", 0),
        ("batch", 0),
        "validation start",
        ("validation end", True),
        "train end",
    ]


def test_a_subclass_goes_on_from_its_parents_hook():
    class Child(Page):
        def on_epoch_end(self, trainer, epoch, metrics):
            super().on_epoch_end(trainer, epoch, metrics)
            self.seen.append("child")

    callback = Child()
    plain().fit(X, X[:, :1], batch_size=4, verbose=0, callbacks=[callback])
    assert [entry[0] if entry != "child" else entry for entry in callback.seen] == [
        "start", "batch", "batch", "batch", "end", "child"
    ]  # fmt: skip


def test_a_callback_without_hooks_of_batches_lets_steps_run_on():
    """Keras waits for each step of a callback whose hooks of batches are not its own defaults."""
    for hook in ("on_train_batch_begin", "on_train_batch_end", "on_test_batch_end"):
        assert hook not in vars(BaseCallback)
