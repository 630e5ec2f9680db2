"""A mistyped attribute is refused where it is near to an option; names of people's own are not."""

import numpy as np
import pytest
from algorithms import ALGORITHMS
from families import FAMILIES
from fresh import fresh

import artifex_keras as ak
from artifex_keras.attributes import UnknownAttribute

FREE = ("note", "run_id", "mu", "data", "history_of_mine", "tag", "best", "epoch", "owner", "_bta")


def row_of(name):
    return next(row for row in (*FAMILIES, *ALGORITHMS) if row.name == name)


@pytest.fixture(scope="module")
def models():
    names = ("vae", "gan", "diffusion", "flow", "energy-dsm", "autoregressive", "grpo", "dpo")
    return {name: row_of(name).make() for name in names}


@pytest.mark.seam
@pytest.mark.parametrize(
    ("family", "typed", "meant"),
    [
        ("vae", "bta", "beta"),
        ("vae", "kl_aneal", "kl_annealing"),
        ("vae", "warmup_steps", "kl_warmup_steps"),
        ("vae", "free_bit", "free_bits"),
        ("vae", "trainble", "trainable"),
        ("gan", "d_step", "d_steps"),
        ("gan", "loss_typ", "loss_type"),
        ("gan", "gp_weigth", "gp_weight"),
        ("diffusion", "loss_weightning", "loss_weighting"),
        ("diffusion", "ema_decya", "ema_decay"),
        ("energy-dsm", "sigma", "sigmas"),
        ("flow", "dequantise", "dequantize"),
        ("autoregressive", "label_smooting", "label_smoothing"),
        ("grpo", "temprature", "temperature"),
        ("grpo", "max_new_token", "max_new_tokens"),
        ("dpo", "labelsmoothing", "label_smoothing"),
    ],
)
def test_a_mistyped_option_of_a_model_is_refused(models, family, typed, meant):
    with pytest.raises(UnknownAttribute, match=f"no attribute `{typed}`.*Did you mean `{meant}`"):
        setattr(models[family], typed, 0.5)
    assert not hasattr(models[family], typed)


def test_names_of_people_are_theirs(models):
    for model in models.values():
        for name in FREE:
            setattr(model, name, 3)
            assert getattr(model, name) == 3
            delattr(model, name)
        model.beta_by_epoch, model.beta0 = [1.0, 2.0], 1.0
        model.describe = lambda: "mine"
        assert model.describe() == "mine"


def test_a_function_under_the_name_of_one_is_an_option(models):
    with pytest.raises(UnknownAttribute, match="Did you mean `reward_fn`"):
        models["grpo"].reward_fun = lambda completions: [0.0 for _ in completions]


def test_the_rate_is_the_optimizers():
    model = fresh(row_of("vae"))
    for name in ("learning_rate", "lr", "learning_rat"):
        with pytest.raises(UnknownAttribute, match="`optimizer.learning_rate`"):
            setattr(model, name, 0.1)


def test_subclasses_set_what_they_like():
    class Annealed(ak.VAE):
        def __init__(self, *networks, betas, **options):
            super().__init__(*networks, **options)
            self.betas, self.bta = betas, 0.0

        def warm(self, value):
            self.kl_warmup = value

    plain = row_of("vae").make()
    model = Annealed(plain.encoder, plain.decoder, betas=(1.0, 2.0))
    model.warm(3)
    model.bta = 4  # there by now
    assert (model.betas, model.bta, model.kl_warmup) == ((1.0, 2.0), 4, 3)

    class Counting(ak.callbacks.BaseCallback):
        def on_epoch_end(self, epoch, logs=None):
            self.count = getattr(self, "count", 0) + 1

    counting = Counting()
    counting.on_epoch_end(0)
    counting.names = ["mine"]
    assert counting.count == 1


@pytest.mark.parametrize(
    ("make", "typed", "said"),
    [
        (lambda: ak.callbacks.EarlyStoppingCallback(3), "patince", "Did you mean `patience`"),
        (lambda: ak.callbacks.EarlyStoppingCallback(3), "metric", "where the object is made"),
        (lambda: ak.callbacks.LoggingCallback(), "log_every_n_step", "log_every_n_steps`"),
        (lambda: ak.callbacks.CheckpointCallback("run"), "savebest", "Did you mean `save_best`"),
        (lambda: ak.callbacks.NaNGuard(), "patience", None),
        (lambda: ak.TrainingConfig(), "num_epoch", "Did you mean 'num_epochs'"),
        (lambda: ak.OptimizerConfig("adam"), "lerning_rate", "learning_rate"),
        (lambda: ak.SchedulerConfig("cosine"), "warmup_step", "warmup_steps"),
    ],
)
def test_callbacks_and_configs(make, typed, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make()
    if said is None:
        setattr(made, typed, 3)
        return
    with pytest.raises(ValueError, match=said):
        setattr(made, typed, 3)


def test_what_is_set_on_the_config_of_an_optimizer_or_a_schedule_holds():
    config = ak.TrainingConfig(optimizer="adam", scheduler="cosine", num_epochs=1)
    config.optimizer.learning_rate = 0.25
    config.scheduler.min_lr = 0.125
    assert config.to_dict()["optimizer"]["learning_rate"] == 0.25
    schedule = config.create_optimizer(num_batches=10).get_config()["learning_rate"]["config"]
    assert (schedule["learning_rate"], schedule["min_lr"]) == (0.25, 0.125)
    with pytest.raises(ValueError, match="learning_rate"):
        config.optimizer.learning_rate = -1
    assert config.optimizer.learning_rate == 0.25


def test_trainers():
    x = np.zeros((8, 6), "float32")
    trainer = ak.VAETrainer(row_of("vae").make(), {"num_epochs": 1}, x)
    for typed, said in {
        "num_epochs": "Set `config.num_epochs`",
        "num_epoch": "Did you mean `config.num_epochs`",
        "beta": "Set `model.beta`",
        "kl_anealing": "Did you mean `model.kl_annealing`",
        "val_datset": "Did you mean `val_dataset`",
        "mixed_precision": "where the object is made",
    }.items():
        with pytest.raises(UnknownAttribute, match=said):
            setattr(trainer, typed, True)
    trainer.note = "mine"
    trainer.val_dataset = x
