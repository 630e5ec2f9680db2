"""All callbacks at once, ours and Keras's: each does its work, and the run doesn't notice."""

import importlib.util

import keras
import numpy as np
import pytest
import quick
from families import FAMILIES, FEW, NAMES
from fresh import again, fresh
from keras import ops

import artifex_keras as ak
from artifex_keras.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EarlyStoppingCallback,
    EvaluationCallback,
    LoggingCallback,
    NaNGuard,
    ProfilingCallback,
    VisualizationCallback,
)

EPOCHS, STEPS = 2, 3


class Recorder(BaseCallback):
    """Notes each hook that Keras calls."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs=None):
        self.seen.append("train begin")

    def on_train_end(self, logs=None):
        self.seen.append("train end")

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(("epoch begin", epoch))

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(("epoch end", epoch))

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(("batch begin", batch))

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(("batch end", batch))

    def on_test_begin(self, logs=None):
        self.seen.append("test begin")

    def on_test_end(self, logs=None):
        self.seen.append("test end")


class Page(BaseCallback):
    """The same in the manner of the design page."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_start(self, trainer, epoch):
        self.seen.append(("start", epoch))

    def on_epoch_end(self, trainer, epoch, metrics):
        self.seen.append(("end", epoch, "val_loss" in metrics))

    def on_train_batch_end(self, trainer, batch_idx, loss):
        self.seen.append(("batch", batch_idx, bool(np.isfinite(loss))))


def expected_hooks():
    yield "train begin"
    for epoch in range(EPOCHS):
        yield "epoch begin", epoch
        for batch in range(STEPS):
            yield "batch begin", batch
            yield "batch end", batch
        yield "test begin"
        yield "test end"
        yield "epoch end", epoch
    yield "train end"


def expected_page():
    for epoch in range(EPOCHS):
        yield "start", epoch
        yield from (("batch", batch, True) for batch in range(STEPS))
        yield "end", epoch, True


def of_keras(folder):
    """Keras's own. They only watch: none of their patience ends in two epochs."""
    seen = []
    return seen, [
        keras.callbacks.ReduceLROnPlateau(patience=5),
        keras.callbacks.CSVLogger(folder / "keras.csv"),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch)),
        keras.callbacks.EarlyStopping(patience=5),
        keras.callbacks.TerminateOnNaN(),
    ]


def ours(folder, held_out):
    return {
        "checkpoint": CheckpointCallback(
            folder / "checkpoints", save_every_n_steps=2, save_best=True, verbose=False
        ),
        "stopping": EarlyStoppingCallback(patience=5),
        "logging": LoggingCallback(2, file=folder / "log.csv", console=False),
        "profiling": ProfilingCallback(folder / "profile", 2, 2, verbose=False),
        "pictures": VisualizationCallback(
            folder / "pictures", every_n_epochs=2, num_samples=2, animate=False
        ),
        "guard": NaNGuard(),
        "evaluation": EvaluationCallback(held_out, 2, batch_size=16),
    }


def fit(model, arrays, held_out, callbacks):
    keras.utils.set_random_seed(3)  # by which Keras shuffles
    return model.fit(
        *arrays,
        batch_size=16,
        epochs=EPOCHS,
        verbose=0,
        validation_data=held_out,
        callbacks=callbacks,
    ).history


def numbers(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


def assert_all_work_and_nothing_changes(make, arrays, held_out, folder):
    model = make()
    history = fit(model, arrays, held_out, [])
    alone = numbers(model)
    watched, callbacks = make(), ours(folder, held_out)
    recorder, page, (seen, others) = Recorder(), Page(), of_keras(folder)
    logged = fit(watched, arrays, held_out, [recorder, *callbacks.values(), *others, page])
    assert {name: logged[name] for name in history} == history
    for a, b in zip(alone, numbers(watched), strict=True):
        np.testing.assert_array_equal(a, b)
    assert recorder.seen == list(expected_hooks()) and page.seen == list(expected_page())
    assert seen == list(range(EPOCHS))
    assert len((folder / "keras.csv").read_text().splitlines()) == 1 + EPOCHS
    assert [row["step"] for row in callbacks["evaluation"].rows] == [2, 4, 6]
    assert callbacks["profiling"].report["steps"] == 2
    assert callbacks["guard"].found is None
    assert callbacks["stopping"].watched.best == min(history["val_loss"])
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {"step-00000006"}
    assert (folder / "log.csv").read_text().count("epoch,") >= 1
    return callbacks


# Callbacks know nothing of families but what they draw, and `test_visualization` draws them all.
QUICK = ("vae-everything", "gan-conditional", "autoregressive")


@pytest.mark.backends("jax")  # a program that is compiled for each; elsewhere one model must do
@pytest.mark.parametrize("family", quick.rows(FEW, QUICK))
def test_all_together_on_each_family(family, tmp_path):
    def make():
        return fresh(family, rate=1e-3, seed=1)

    assert_all_work_and_nothing_changes(make, family.arrays(48), family.arrays(16), tmp_path)
    assert list((tmp_path / "pictures").rglob("*.*"))


def test_all_together_on_any_model(tmp_path):
    def make():
        keras.utils.set_random_seed(0)
        inner = [keras.layers.Dense(8, "tanh"), keras.layers.BatchNormalization()]
        model = keras.Sequential([keras.Input((6,)), *inner, keras.layers.Dropout(0.2, seed=1)])
        model.add(keras.layers.Dense(1))
        model.compile(keras.optimizers.Adam(1e-3), "mse", metrics=["mae"])
        return model

    x = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
    held_out = (x[:16], x[:16, :1])

    make = again(make, *held_out)
    assert_all_work_and_nothing_changes(make, (x, x[:, :1]), held_out, tmp_path)


def test_the_same_objects_serve_another_run(tmp_path):
    family = FAMILIES[NAMES.index("vae")]
    callbacks = list(ours(tmp_path, family.arrays(16)).values())
    histories = []
    for given in ([], callbacks, callbacks):
        model = fresh(family, rate=1e-3, seed=1)
        histories.append(fit(model, family.arrays(48), family.arrays(16), given))
    assert histories[0] == histories[1] == histories[2]


@pytest.mark.backends("jax")
def test_idle_callbacks_fetch_nothing(tmp_path, monkeypatch):
    """Within an epoch no callback that has nothing to do asks for the state of the device."""
    never, family = 10**6, FAMILIES[NAMES.index("vae")]
    idle = [
        CheckpointCallback(tmp_path / "a", save_every_n_steps=never, verbose=False),
        EarlyStoppingCallback(),
        LoggingCallback(never, file=tmp_path / "log.csv", console=False),
        ProfilingCallback(tmp_path / "p", never, verbose=False),
        VisualizationCallback(tmp_path / "v", every_n_epochs=never, every_n_steps=never),
        NaNGuard(),
        EvaluationCallback(family.arrays(16), never),
    ]
    fetches = []
    for callbacks in ([], idle):
        model = family.make()
        model.compile("adam")
        sync, count = model.jax_state_sync, []

        def counted(model=model, sync=sync, count=count):
            count.append(bool(model._jax_state) and not model._jax_state_synced)
            sync()

        monkeypatch.setattr(model, "jax_state_sync", counted)
        fit(model, family.arrays(48), family.arrays(16), callbacks)
        fetches.append(sum(count))
    assert fetches[0] == fetches[1]
    log = (tmp_path / "log.csv").read_text().splitlines()
    assert len(log) == 1 + EPOCHS  # the rows of the epochs alone


# The design page, but for its imports

USING = """
from artifex.generative_models.training.callbacks import (
    CheckpointCallback,
    EarlyStoppingCallback,
    LoggingCallback,
)

callbacks = [
    CheckpointCallback(
        save_dir="checkpoints/",
        save_every_n_epochs=10,
        save_best=True,
        metric="val_loss",
    ),
    EarlyStoppingCallback(
        patience=20,
        metric="val_loss",
        mode="min",
    ),
    LoggingCallback(
        log_every_n_steps=100,
        use_wandb=True,
    ),
]
"""

CUSTOM = """
from artifex.generative_models.training.callbacks import BaseCallback

class CustomCallback(BaseCallback):
    def on_epoch_start(self, trainer, epoch):
        print(f"Starting epoch {epoch}")

    def on_epoch_end(self, trainer, epoch, metrics):
        print(f"Epoch {epoch} completed: {metrics}")

    def on_train_batch_end(self, trainer, batch_idx, loss):
        if batch_idx % 100 == 0:
            print(f"Batch {batch_idx}: loss={loss:.4f}")
"""


def of_the_page(source):
    names = {"__name__": "page"}
    exec(source.replace("artifex.generative_models.training", "artifex_keras"), names)
    return names


def run(where, callbacks, epochs=11):
    """A training by a trainer, or by Keras's `fit`, with that data."""
    family = FAMILIES[NAMES.index("vae")]
    (x,), (held_out,) = family.arrays(32), family.arrays(16)
    model = family.make()
    if where == "trainer":
        config = {"batch_size": 16, "num_epochs": epochs, "verbose": 0}
        trainer = ak.VAETrainer(
            model=model,
            config=ak.TrainingConfig.from_dict(config),
            train_dataset=x,
            val_dataset=held_out,
            callbacks=callbacks,
        )
        return trainer.train()
    model.compile("adam")
    return model.fit(
        x,
        batch_size=16,
        epochs=epochs,
        verbose=0,
        validation_data=(held_out,),
        callbacks=callbacks,
    )


@pytest.mark.parametrize("where", ["trainer", "fit"])
def test_using_callbacks(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    installed = importlib.util.find_spec("wandb") is not None
    source = USING if installed else USING.replace("use_wandb=True", "use_wandb=False")
    history = run(where, of_the_page(source)["callbacks"])
    assert len(history.epoch) == 11
    saved = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert {"step-00000020", "step-00000022"} <= saved
    assert not installed or list((tmp_path / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize("where", ["trainer", "fit"])
def test_custom_callbacks(where, capsys):
    history = run(where, [of_the_page(CUSTOM)["CustomCallback"]()], epochs=2).history
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == [
        "Starting epoch 0",
        "Batch 0",
        "Epoch 0 completed",
        "Starting epoch 1",
        "Batch 0",
        "Epoch 1 completed",
    ]
    assert f"'val_loss': {history['val_loss'][0]}" in said[2]
    assert said[1].startswith("Batch 0: loss=")
