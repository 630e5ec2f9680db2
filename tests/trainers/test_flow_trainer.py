"""The flows' trainer: exact likelihood for one family, regression for the other."""

import keras
import numpy as np
import pytest

from artifex_keras.models import FlowMatching, NormalizingFlow
from artifex_keras.networks import realnvp, timed_mlp
from artifex_keras.trainers import FlowTrainer

X = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
CONFIG = {"batch_size": 8, "num_epochs": 2, "verbose": 0, "seed": 1}


def flow(**options):
    keras.utils.set_random_seed(0)
    return NormalizingFlow(realnvp(2, 2, (8,)), **options)


def matching(**options):
    keras.utils.set_random_seed(0)
    return FlowMatching(timed_mlp((2,), (8,), time_scale=100), **options)


def test_a_normalizing_flow_is_trained_by_its_exact_likelihood():
    """With a rate of 0 the loss is the data's negative log-density under the flow."""
    config = {**CONFIG, "optimizer": {"type": "sgd", "learning_rate": 0.0}, "shuffle": False}
    trainer = FlowTrainer(model=flow(), config=config, train_dataset=X, val_dataset=X)
    history = trainer.train().history
    nll = -keras.ops.convert_to_numpy(trainer.model.log_prob(X)).mean()
    assert history["loss"][1] == pytest.approx(nll, rel=1e-5)
    assert history["val_nll"][1] == pytest.approx(nll, rel=1e-5)
    assert history["bits_per_dim"][1] == pytest.approx(nll / (2 * np.log(2)), rel=1e-5)


def test_it_is_compile_and_fit():
    trainer = FlowTrainer(matching(), {**CONFIG, "shuffle": False}, X)
    history = trainer.train().history
    model = matching()
    model.reseed(1)
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.01))
    other = model.fit(X, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    assert history["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_settings_override_the_model():
    given = {
        "path": "trigonometric",
        "time_sampling": "u_shaped",
        "sigma": 0.1,
        "coupling": "ot",
        "condition_dropout": 0.5,
        "ema_decay": 0.9,
    }
    model = matching()
    FlowTrainer(model, CONFIG, X, **given)
    assert {name: getattr(model, name) for name in given} == given
    assert model._average


def test_what_is_not_given_stays():
    model = matching(path="vp", sigma=0.2)
    FlowTrainer(model, CONFIG, X)
    assert (model.path, model.sigma) == ("vp", 0.2)


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (flow, {"path": "linear", "sigma": 0.1}, "`path` and `sigma` would be for FlowMatching"),
        (matching, {"path": "liner"}, "Did you mean 'linear'"),
        (matching, {"sigma": -0.1}, "at least 0"),
        (matching, {"condition_dropout": 1.5}, "must be in .0, 1."),
        (matching, {"beta": 1.0}, "argument of the trainer"),
        (lambda: keras.Sequential(), {}, "NormalizingFlow or a FlowMatching"),
    ],
)
def test_errors_say_what_is_wrong(make, options, text):
    with pytest.raises(ValueError, match=text):
        FlowTrainer(make(), CONFIG, X, **options)
