"""Configs: what they accept, what they refuse, and that they survive being written down."""

import keras
import numpy as np
import pytest

from artifex_keras import schedulers
from artifex_keras.config import OptimizerConfig, SchedulerConfig, TrainingConfig, parse_yaml
from artifex_keras.gradient_accumulation import GradientAccumulation


def everything():
    return TrainingConfig(
        batch_size=8,
        num_epochs=3,
        optimizer={"type": "lion", "learning_rate": 2e-4, "beta1": 0.8},
        scheduler={"type": "cosine", "warmup_steps": 5, "min_lr": 1e-6},
        gradient_clip_norm=0.5,
        checkpoint_dir="somewhere",
        save_frequency=2,
        max_checkpoints=None,
        log_frequency=7,
        verbose=0,
        steps_per_execution=4,
        steps_per_epoch=11,
        shuffle=False,
        remat="full",
        chunk_size=64,
        seed=3,
    )


def test_defaults_are_the_documented_ones():
    config = TrainingConfig()
    assert (config.batch_size, config.num_epochs, config.max_checkpoints) == (32, 100, 5)
    assert config.optimizer == OptimizerConfig("adamw", learning_rate=1e-3)
    assert config.scheduler is config.checkpoint_dir is config.seed is None


def test_a_dict_a_name_and_an_object_are_the_same():
    given = TrainingConfig(optimizer={"type": "adam", "learning_rate": 0.1}, scheduler="linear")
    assert given == TrainingConfig(
        optimizer=OptimizerConfig(type="adam", learning_rate=0.1),
        scheduler=SchedulerConfig("linear"),
    )
    assert given.optimizer.learning_rate == 0.1


def test_dict_round_trip():
    config = everything()
    assert TrainingConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["optimizer"] == {"type": "lion", "learning_rate": 2e-4, "beta1": 0.8}


def test_yaml_round_trip(tmp_path):
    config = everything()
    config.to_yaml(tmp_path / "run.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "run.yaml") == config
    assert "learning_rate: 0.0002" in (tmp_path / "run.yaml").read_text()


def test_keras_objects_survive_yaml(tmp_path):
    rate = schedulers.create_scheduler("linear", 0.1, total_steps=10, warmup_steps=2)
    config = TrainingConfig(optimizer=keras.optimizers.SGD(0.3, momentum=0.7), scheduler=rate)
    config.to_yaml(tmp_path / "run.yaml")
    loaded = TrainingConfig.from_yaml(tmp_path / "run.yaml")
    assert isinstance(loaded.optimizer, keras.optimizers.SGD)  # torch has a subclass of its own
    assert loaded.optimizer.get_config() == config.optimizer.get_config()
    assert loaded.scheduler.get_config() == rate.get_config()


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+1e-3", ".1e-2", "0.001"])
def test_yaml_numbers_in_any_notation(text):
    assert parse_yaml(f"rate: {text}") == {"rate": 0.001}


@pytest.mark.parametrize("text", ["e3", "1e", "v1e-3", "1e-3x"])
def test_yaml_words_stay_words(text):
    assert parse_yaml(f"name: {text}") == {"name": text}


def test_numpy_numbers_are_written_plainly(tmp_path):
    config = TrainingConfig(optimizer={"type": "adam", "learning_rate": np.float32(0.5)})
    config.to_yaml(tmp_path / "run.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "run.yaml").optimizer.learning_rate == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bach_size": 3}, "Unknown config key 'bach_size'. Did you mean 'batch_size'"),
        ({"epochs": 3}, "num_epochs"),
        ({"batch_size": "64"}, "`batch_size` must be an integer of at least 1. Received: .*'64'"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1"),
        ({"batch_size": 3.5}, "`batch_size` must be an integer"),
        ({"num_epochs": True}, "`num_epochs` must be an integer"),
        ({"gradient_clip_norm": 0}, "`gradient_clip_norm` must be greater than 0"),
        ({"gradient_clip_norm": "much"}, "`gradient_clip_norm` must be a finite number"),
        ({"checkpoint_dir": 5}, "`checkpoint_dir` must be a path or None. Received: .*5"),
        ({"max_checkpoints": 0}, "`max_checkpoints` must be an integer of at least 1"),
        ({"shuffle": 1}, "`shuffle` must be True or False"),
        ({"verbose": True}, "`verbose` must be 'auto', 0, 1 or 2"),
        ({"verbose": "loud"}, "`verbose` must be"),
        ({"seed": -1}, "`seed` must be in"),
        ({"seed": "x"}, "`seed` must be an integer or None"),
        ({"optimizer": 5}, "`optimizer` must be a name, a dict"),
        ({"optimizer": None}, "`optimizer` must be a name, a dict"),
        ({"optimizer": "adamm"}, "Unknown optimizer 'adamm'. Did you mean 'adam"),
        ({"optimizer": {"type": "adam", "lr": 1}}, "Unknown argument of the 'adam' optimizer 'lr'"),
        ({"optimizer": {"type": "adam", "beta_1": 1}}, "Did you mean .*'beta1'"),
        ({"scheduler": "cosin"}, "Unknown scheduler 'cosin'. Did you mean 'cosine'"),
        ({"scheduler": {"type": "cosine", "warmup": 1}}, "Did you mean 'warmup_steps'"),
        ({"scheduler": {"type": "cosine", "learning_rate": 1}}, "peak is the optimizer's"),
        ({"scheduler": ["cosine"]}, "`scheduler` must be a name, a dict"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig.from_dict(values)


def test_fields_are_checked_when_set_later():
    config = TrainingConfig()
    config.optimizer = "lion"
    assert config.optimizer == OptimizerConfig("lion")
    with pytest.raises(ValueError, match="`num_epochs` must be"):
        config.num_epochs = 0
    with pytest.raises(ValueError, match="Did you mean 'batch_size'"):
        config.batchsize = 3


def test_a_config_that_is_no_dict():
    with pytest.raises(ValueError, match="must be a dict. Received: 'cosine'"):
        TrainingConfig.from_dict("cosine")


def test_bad_yaml_names_the_place(tmp_path):
    (tmp_path / "run.yaml").write_text("batch_size: [1,\nnum_epochs")
    with pytest.raises(ValueError, match="not YAML.*line"):
        TrainingConfig.from_yaml(tmp_path / "run.yaml")


# What becomes of it


def rates(optimizer, updates):
    schedule = optimizer.get_config()["learning_rate"]
    schedule = keras.saving.deserialize_keras_object(schedule)
    return [float(schedule(k)) for k in updates]


def test_optimizer_has_the_arguments():
    made = TrainingConfig(
        optimizer={"type": "adam", "learning_rate": 0.25, "beta1": 0.5}, gradient_clip_norm=3.0
    ).create_optimizer()
    assert float(made.learning_rate) == 0.25
    assert (made.beta_1, made.global_clipnorm) == (0.5, 3.0)


def test_schedule_gets_the_length_of_the_run_in_updates():
    config = TrainingConfig(
        optimizer={"type": "sgd", "learning_rate": 1.0}, scheduler={"type": "linear", "min_lr": 0.5}
    )
    made = config.create_optimizer(num_batches=21)
    np.testing.assert_allclose(rates(made, [0, 10, 20]), [1.0, 0.75, 0.5], rtol=1e-6)


def test_schedule_counts_updates_under_accumulation():
    config = TrainingConfig(optimizer={"type": "sgd", "learning_rate": 1.0}, scheduler="linear")
    made = config.create_optimizer(num_batches=45, gradient_accumulation_steps=4)
    assert isinstance(made, GradientAccumulation) and made.steps == 4
    np.testing.assert_allclose(rates(made.inner_optimizer, [0, 5, 10]), [1, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"type": "sgd", "learning_rate": 1.0, "gradient_accumulation_steps": 4},
        keras.optimizers.SGD(1.0, gradient_accumulation_steps=4),
    ],
    ids=["dict", "keras"],
)
def test_accumulation_of_the_optimizer_itself_is_found(optimizer):
    made = TrainingConfig(optimizer=optimizer, scheduler="linear").create_optimizer(num_batches=45)
    assert made.steps == 4
    np.testing.assert_allclose(rates(made.inner_optimizer, [0, 5, 10]), [1, 0.5, 0], atol=1e-6)


def test_own_length_of_a_schedule_is_kept():
    config = TrainingConfig(scheduler={"type": "linear", "total_steps": 11})
    assert rates(config.create_optimizer(num_batches=500), [10]) == [0.0]
    assert rates(config.create_optimizer(), [10]) == [0.0]


def test_schedule_of_unknown_length():
    with pytest.raises(ValueError, match="'cosine' scheduler needs the length of the run"):
        TrainingConfig(scheduler="cosine").create_optimizer()
    TrainingConfig(scheduler="inverse_sqrt").create_optimizer()


def test_warmup_longer_than_the_run():
    config = TrainingConfig(scheduler={"type": "cosine", "warmup_steps": 100})
    with pytest.warns(UserWarning, match="longer than the run of 50 updates.*warmup_steps=100"):
        optimizer = config.create_optimizer(num_batches=50)
    np.testing.assert_allclose(rates(optimizer, range(50)), np.arange(1, 51) * 1e-5, rtol=1e-5)


def test_the_schedule_counts_batches_when_a_batch_has_several_updates():
    config = TrainingConfig(optimizer={"type": "sgd", "learning_rate": 1.0}, scheduler="linear")
    once, thrice = (config.create_optimizer(num_batches=11, updates_per_batch=n) for n in (1, 3))
    assert rates(thrice, range(12)) == np.repeat(rates(once, range(4)), 3).tolist()


def test_a_keras_optimizer_is_used_as_it_is():
    optimizer = keras.optimizers.SGD(0.3)
    assert TrainingConfig(optimizer=optimizer).create_optimizer() is optimizer


def test_a_keras_optimizer_with_schedule_and_clipping():
    optimizer = keras.optimizers.SGD(1.0, momentum=0.7)
    config = TrainingConfig(optimizer=optimizer, scheduler="linear", gradient_clip_norm=2.0)
    made = config.create_optimizer(num_batches=11)
    assert (made.momentum, made.global_clipnorm) == (0.7, 2.0)
    np.testing.assert_allclose(rates(made, [0, 5]), [1.0, 0.5])
    assert optimizer.global_clipnorm is None and float(optimizer.learning_rate) == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"optimizer": {"type": "sgd", "gradient_clip_norm": 1.0}, "gradient_clip_norm": 2.0},
            "`gradient_clip_norm` is given twice",
        ),
        (
            {"optimizer": keras.optimizers.SGD(clipvalue=1.0), "gradient_clip_norm": 2.0},
            "an optimizer that clips exclude each other",
        ),
        (
            {
                "optimizer": keras.optimizers.SGD(schedulers.create_scheduler("constant")),
                "scheduler": "constant",
            },
            "`scheduler` and an optimizer whose `learning_rate` is a schedule",
        ),
    ],
)
def test_contradictions(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**values).create_optimizer(num_batches=10)


def test_two_kinds_of_accumulation():
    config = TrainingConfig(optimizer={"type": "sgd", "gradient_accumulation_steps": 4})
    with pytest.raises(ValueError, match="`gradient_accumulation_steps` is given twice"):
        config.create_optimizer(gradient_accumulation_steps=2)
