"""What each setting of a trainer does, shown by its effect on a model of one number."""

import inspect
import itertools
import logging
import os

import keras
import numpy as np
import pytest
import standin  # noqa: F401 - its addresses
from trainers.line import Line, descent, ones, sgd

from artifex_keras.callbacks import export_checkpoint
from artifex_keras.config import TrainingConfig
from artifex_keras.models import VAE
from artifex_keras.trainers import (
    AutoregressiveTrainer,
    DiffusionTrainer,
    EnergyTrainer,
    FlowTrainer,
    Trainer,
    VAETrainer,
)
from artifex_keras.trainers.progress import verbosity

NOISY = np.random.default_rng(0).normal(size=(24, 1)).astype("float32")


def trainer(data=None, model=None, arguments=None, **config):
    """A trainer of `Line`; by default silent, one epoch of SGD."""
    config = {"num_epochs": 1, "batch_size": 4, "optimizer": sgd(), "verbose": 0, **config}
    model = Line(seed=1) if model is None else model
    return Trainer(model, config, ones(24) if data is None else data, **(arguments or {}))


def trained(*args, **kwargs):
    it = trainer(*args, **kwargs)
    it.train()
    return it.model


# The fields of the config


def test_batch_size_and_epochs_make_the_steps():
    assert trained(batch_size=4, num_epochs=3).steps() == 18
    assert trained(batch_size=5, num_epochs=1).steps() == 5


def test_optimizer():
    assert trained(optimizer=sgd(0.2)).position() == pytest.approx(descent([0.2] * 6), rel=1e-6)


def test_a_keras_optimizer():
    optimizer = keras.optimizers.SGD(0.2)
    model = trained(optimizer=optimizer)
    assert model.optimizer is optimizer
    assert model.position() == pytest.approx(descent([0.2] * 6), rel=1e-6)


def test_scheduler_over_the_length_of_the_run():
    model = trained(num_epochs=2, scheduler="linear")
    assert model.position() == pytest.approx(descent(np.linspace(0.1, 0, 12)), rel=1e-5)


def test_gradient_clip_norm():
    assert trained(gradient_clip_norm=0.5).position() == pytest.approx(6 * 0.1 * 0.5, rel=1e-5)


@pytest.mark.seam
@pytest.mark.backends("jax", "tensorflow")  # Keras has none on torch
def test_steps_per_execution_changes_no_number():
    data = np.linspace(0, 1, 28, dtype="float32")[:, None]
    models = [trained(data, steps_per_execution=k, seed=0) for k in (1, 4)]
    assert models[1].steps_per_execution == 4
    assert models[0].steps() == models[1].steps() == 7
    assert models[0].position() == pytest.approx(models[1].position(), rel=1e-6)


def test_steps_per_epoch_and_a_dataset_without_end():
    def endless():
        while True:
            yield (ones(4),)

    it = trainer(endless(), num_epochs=2, steps_per_epoch=3, scheduler="linear")
    it.train()
    assert it.model.steps() == 6
    assert it.model.position() == pytest.approx(descent(np.linspace(0.1, 0, 6)), rel=1e-5)


def test_a_scheduler_needs_a_length():
    with pytest.raises(ValueError, match="'linear' scheduler needs the length of the run"):
        trainer((batch for batch in [ones(4)]), scheduler="linear")


def test_seed_repeats_a_run():
    def history(seed):
        model = Line(noise=1.0)
        return trainer(NOISY, model, seed=seed, num_epochs=2).train().history["loss"]

    assert history(3) == history(3)
    assert history(3) != history(4)


def test_shuffle():
    data = np.linspace(0, 1, 24, dtype="float32")[:, None]
    plain = trained(data, shuffle=False, batch_size=1, seed=0).position()
    assert plain == pytest.approx(followed(data), rel=1e-5)
    assert trained(data, batch_size=1, seed=0).position() != pytest.approx(plain, rel=1e-3)


def followed(data):
    w = 0.0
    for x in data[:, 0]:
        w -= 0.1 * 2 * (w - x)
    return w


def test_log_frequency(caplog):
    with caplog.at_level(logging.INFO, "artifex_keras"):
        trained(num_epochs=2, log_frequency=2)
    lines = sorted(record.getMessage() for record in caplog.records)
    assert [line.split(" - ")[0] for line in lines] == [
        f"epoch {epoch}/2, step {step}/6" for epoch in (1, 2) for step in (2, 4, 6)
    ]
    mean = np.mean([(1 - descent([0.1] * k)) ** 2 for k in (0, 1)])
    assert f"loss: {mean:.4g}" in lines[0]


@pytest.mark.backends("jax", "tensorflow")  # Keras has none on torch
def test_log_frequency_with_steps_per_execution(caplog):
    with caplog.at_level(logging.INFO, "artifex_keras"):
        trained(log_frequency=3, steps_per_execution=4)
    assert len(caplog.records) == 2  # after the calls that hold steps 3 and 6


@pytest.mark.parametrize(("verbose", "lines"), [(0, 0), (1, 0), (2, 3)])
def test_lines_are_printed_where_there_is_no_bar(verbose, lines, capsys):
    trained(log_frequency=2, verbose=verbose)
    assert capsys.readouterr().out.count("epoch 1/1, step ") == lines


def test_verbosity_is_a_bar_where_somebody_looks(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert verbosity("auto") == 1
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    monkeypatch.delitem(__import__("sys").modules, "ipykernel", raising=False)
    assert verbosity("auto") == 2
    assert verbosity(0) == 0


# Checkpoints


def names(folder):
    return sorted(os.listdir(folder))


def test_save_frequency_and_the_last_epoch(tmp_path):
    steps = trained(checkpoint_dir=tmp_path, save_frequency=2, num_epochs=5).steps() // 5
    assert names(tmp_path) == [f"step-{steps * epoch:08d}" for epoch in (2, 4, 5)]


def test_max_checkpoints(tmp_path):
    steps = trained(checkpoint_dir=tmp_path, max_checkpoints=2, num_epochs=4).steps() // 4
    assert names(tmp_path) == [f"step-{steps * epoch:08d}" for epoch in (3, 4)]


def test_a_checkpoint_is_a_whole_model(tmp_path):
    model = trained(checkpoint_dir=tmp_path / "run")
    loaded = keras.saving.load_model(export_checkpoint(tmp_path / "run", tmp_path / "model.keras"))
    assert (loaded.position(), loaded.steps()) == (model.position(), model.steps())


def resumable(folder, epochs):
    adam = {"type": "adam", "learning_rate": 0.1}
    schedule = {"type": "linear", "total_steps": 24}
    return trainer(
        NOISY,
        Line(noise=1.0, seed=5),
        checkpoint_dir=folder,
        num_epochs=epochs,
        optimizer=adam,
        scheduler=schedule,
        seed=2,
    )


def test_a_resumed_run_is_the_straight_run(tmp_path):
    straight = resumable(tmp_path / "straight", 4)
    history = straight.train().history
    resumable(tmp_path / "parts", 2).train()
    rest = resumable(tmp_path / "parts", 4)
    assert rest.train(resume=True).history == history
    assert rest.model.position() == straight.model.position()
    assert rest.train(resume=True).history == history  # all epochs are done


def test_a_run_is_kept_at_an_address_and_its_other_files_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    straight = resumable(tmp_path / "straight", 4)
    history = straight.train().history
    address = f"standin://{tmp_path}/bucket/run"
    first = resumable(address, 2)
    first.tracking = {"jsonl": {}}
    assert first.config.to_dict()["checkpoint_dir"] == address and first.folder == "."
    first.train()
    rest = resumable(address, 4)
    assert rest.train(resume=True).history == history
    assert rest.model.position() == straight.model.position()
    assert names(tmp_path) == ["bucket", "metrics.jsonl", "straight"]
    with pytest.raises(ValueError, match="earlier run: continue it .*'standin://"):
        resumable(address, 2).train()


def test_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path):
    straight = resumable(tmp_path / "straight", 4)
    straight.train()

    class Crash(BaseException):
        pass

    def crash(batch, logs=None):
        if parts.model.optimizer.built and next(counter) == 7:
            raise Crash

    counter = itertools.count()
    parts = resumable(tmp_path / "parts", 4)
    parts.config.save_every_n_steps = 1
    parts.callbacks.append(keras.callbacks.LambdaCallback(on_train_batch_begin=crash))
    with pytest.raises(Crash):
        parts.train()
    parts._kept[0]._writing.wait()
    rest = resumable(tmp_path / "parts", 4)
    assert rest.train(resume=True).history == straight.model.history.history
    assert rest.model.position() == straight.model.position()


def test_other_settings_are_told(tmp_path):
    resumable(tmp_path, 2).train()
    other = resumable(tmp_path, 4)
    other.config.gradient_clip_norm = 1.0
    with pytest.warns(UserWarning, match="gradient_clip_norm was None and is 1.0"):
        other.train(resume=True)


def test_resume_without_checkpoints_begins_at_the_beginning(tmp_path):
    assert len(resumable(tmp_path, 2).train(resume=True).history["loss"]) == 2


def test_the_checkpoints_of_another_run_are_safe(tmp_path):
    trained(checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"earlier run: continue it with train\(resume=True"):
        trained(checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="`resume` needs a config with a `checkpoint_dir`"):
        trainer().train(resume=True)


# The arguments of the trainer


def test_accumulation_is_a_larger_batch():
    data = np.linspace(0, 1, 24, dtype="float32")[:, None]
    whole = trained(data, batch_size=12, shuffle=False, scheduler="linear", num_epochs=2)
    parts = trained(
        data,
        arguments={"gradient_accumulation_steps": 3},
        batch_size=4,
        shuffle=False,
        scheduler="linear",
        num_epochs=2,
    )
    assert parts.position() == pytest.approx(whole.position(), rel=1e-6)


def test_callbacks_are_called():
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    trained(arguments={"callbacks": [callback]}, num_epochs=2)
    assert seen == [0, 1]


def test_validation_after_each_epoch():
    it = trainer(arguments={"val_dataset": 3 * ones(6)}, num_epochs=2)
    values = it.train().history["val_loss"]
    assert values == pytest.approx([(3 - descent([0.1] * k)) ** 2 for k in (6, 12)], rel=1e-5)
    assert it.evaluate() == {"loss": pytest.approx(values[-1])}
    assert it.evaluate(ones(6))["loss"] < values[-1]


def test_nothing_to_evaluate():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        trainer().evaluate()


@pytest.mark.backends("jax")
def test_distribution_is_in_force_while_training_and_no_longer():
    distribution = keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:1])
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(keras.distribution.distribution())
    )
    trained(arguments={"distribution": distribution, "callbacks": [callback]})
    assert seen == [distribution]
    assert keras.distribution.distribution() is None


def test_a_config_object_and_a_dict():
    values = {"batch_size": 3, "num_epochs": 2}
    config = TrainingConfig.from_dict(values)
    assert Trainer(Line(), config, ones(6)).config is config
    assert Trainer(Line(), values, ones(6)).config == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tracking": {"wandbb": {}}}, "Unknown tracker 'wandbb'. Did you mean 'wandb'"),
        ({"mixed_precison": True}, "'mixed_precison'. Did you mean 'mixed_precision'"),
        ({"gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` must be an integer"),
        ({"mixed_precision": "int8"}, "Unknown precision 'int8'"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer(arguments=arguments)


def test_a_model_of_another_family():
    with pytest.raises(ValueError, match="`model` must be a VAE. Received: Line"):
        VAETrainer(Line(), {}, ones(4))
    with pytest.raises(ValueError, match="`model` must be a GenerativeModel. Received: Sequential"):
        Trainer(keras.Sequential(), {}, ones(4))
    assert issubclass(VAETrainer.family, VAE)


# Data in all its forms


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ones(0), "dataset is empty"),
        (np.array([[1.0], [np.nan]] * 4), "must be finite.*row 1"),
    ],
)
def test_data_that_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        trained(data)


@pytest.mark.seam
def test_sample_weights():
    x = np.array([[0.0], [1.0]] * 12, "float32")
    data = (x, None, np.array([0.0, 2.0] * 12, "float32"))
    it = trainer(data, arguments={"val_dataset": data}, shuffle=False)
    history = it.train().history
    position = descent([0.1] * 6)
    assert it.model.position() == pytest.approx(position, rel=1e-5)
    assert history["val_loss"] == [pytest.approx((1 - position) ** 2, rel=1e-5)]
    assert it.evaluate()["loss"] == pytest.approx((1 - position) ** 2, rel=1e-5)


def test_fit_itself_respects_weights_without_targets():
    # Keras alone would drop them.
    x, weight = np.array([[0.0], [1.0]] * 12, "float32"), np.array([0.0, 2.0] * 12, "float32")
    model = Line()
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(x, sample_weight=weight, batch_size=4, shuffle=False, verbose=0)
    assert model.position() == pytest.approx(descent([0.1] * 6), rel=1e-5)
    loss = model.evaluate(x, sample_weight=weight, verbose=0)
    assert loss == pytest.approx((1 - model.position()) ** 2, rel=1e-5)


@pytest.mark.seam
def test_tensors_of_the_backend():
    assert trained(keras.ops.ones((24, 1))).position() == pytest.approx(descent([0.1] * 6))


class Batches(keras.utils.PyDataset):
    num_batches = 6

    def __getitem__(self, index):
        return (ones(4),)


def test_a_py_dataset():
    assert trained(Batches()).position() == pytest.approx(descent([0.1] * 6), rel=1e-6)


@pytest.mark.seam
def test_a_torch_loader():
    data = pytest.importorskip("torch.utils.data")
    import torch

    loader = data.DataLoader(data.TensorDataset(torch.ones(24, 1)), batch_size=4)
    model = trained(loader, scheduler="linear")
    assert model.position() == pytest.approx(descent(np.linspace(0.1, 0, 6)), rel=1e-5)


def test_a_grain_dataset():
    grain = pytest.importorskip("grain")
    dataset = grain.MapDataset.source(ones(24)).map(lambda row: (row,)).batch(4)
    model = trained(dataset, scheduler="linear")
    assert model.position() == pytest.approx(descent(np.linspace(0.1, 0, 6)), rel=1e-5)


@pytest.mark.seam
def test_a_tensorflow_dataset():
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices((ones(24),)).batch(4)
    model = trained(dataset, scheduler="linear")
    assert model.position() == pytest.approx(descent(np.linspace(0.1, 0, 6)), rel=1e-5)


def test_declared_options_are_arguments_that_help_shows():
    for cls in (AutoregressiveTrainer, DiffusionTrainer, EnergyTrainer, FlowTrainer, VAETrainer):
        parameters = inspect.signature(cls).parameters
        declared = [*cls.model_options, *cls.own_options]
        assert list(parameters)[:4] == ["model", "config", "train_dataset", "val_dataset"]
        assert list(parameters)[4 : 4 + len(declared)] == declared
        assert "distribution" in parameters and "options" not in parameters
