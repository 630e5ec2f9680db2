"""A loss that is no number ends `fit`: where it is noticed, and what is done then.

That each family and algorithm does so is in `test_frame` and `rl/test_on_policy`.
"""

import keras
import numpy as np
import pytest
from families import dense
from keras import ops

import artifex_keras as ak
from artifex_keras.callbacks import NaNGuard
from artifex_keras.models import health

X = np.random.default_rng(0).uniform(size=(32, 6)).astype("float32")  # four steps


class Faulty(ak.VAE):
    """Its loss is `value` in the steps from `begin` to `end`."""

    begin = end = 6
    value = np.nan

    def objective(self, batch, training):
        terms = super().objective(batch, training)
        bad = ops.logical_and(self.step >= self.begin, self.step <= self.end)
        return {**terms, "loss": terms["loss"] * ops.where(bad, self.value, 1.0)}


def faulty(on_nan="raise", optimizer="sgd", execution=1, kind=Faulty, **attributes):
    keras.utils.set_random_seed(0)
    networks = dense(6, outputs=4, name="encoder"), dense(2, outputs=6, name="decoder")
    model = kind(*networks, seed=0)
    for name, value in attributes.items():
        setattr(model, name, value)
    model.compile(optimizer, on_nan=on_nan, steps_per_execution=execution)
    return model


def fit(model, epochs=5, **options):
    return model.fit(X, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)


def test_the_epoch_and_the_step_are_those_of_the_first_one():
    with pytest.raises(FloatingPointError, match="in epoch 2, step 3 `loss` was nan. Of"):
        fit(faulty())


@pytest.mark.backends("jax", "tensorflow")  # torch runs one
def test_of_several_steps_an_execution_the_last_is_named():
    with pytest.raises(FloatingPointError, match="in epoch 2, by step 4 `loss` was nan"):
        fit(faulty(execution=2))


def weights(model):
    return [ops.convert_to_numpy(w.value) for w in model.trainable_variables]


def test_restore_goes_back_to_the_last_finite_epoch():
    good, model = faulty(), faulty("restore")
    fit(good, epochs=1)
    with pytest.warns(UserWarning, match="in epoch 2, step 3 .* on_nan='restore'"):
        history = fit(model)
    assert len(history.epoch) == 2
    for a, b in zip(weights(good), weights(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(model.optimizer.iterations) == 4 == int(model.step)


def test_a_warning_once_and_on():
    with pytest.warns(UserWarning, match="Training goes on") as caught:
        assert len(fit(faulty("warn")).epoch) == 5
    assert sum("Training diverged" in str(warning.message) for warning in caught) == 1


def test_metrics_may_be_no_number():
    class Odd(ak.VAE):
        def objective(self, batch, training):
            return {**super().objective(batch, training), "kl_weight": ops.sum(batch.x) * np.nan}

    history = fit(faulty(kind=Odd), epochs=1).history
    assert np.isnan(history["kl_weight"][0]) and np.isfinite(history["loss"][0])


def test_the_scale_of_the_data_is_named():
    model = faulty(begin=0)
    for x, cure in ((X * 255, "divide them by 255"), (X * 1e5, "take off each column's mean")):
        with pytest.raises(FloatingPointError, match=f"these have values from .*; {cure}"):
            model.fit(x, verbose=0)


def test_a_guard_of_the_user_acts_in_its_place(capsys):
    guard = NaNGuard()
    assert len(fit(faulty(), callbacks=[guard]).epoch) == 2
    assert guard.found in capsys.readouterr().out


def test_a_list_of_keras_may_be_used_again():
    model = faulty()
    callbacks = keras.callbacks.CallbackList([], model=model, add_history=True, epochs=1)
    before = list(callbacks.callbacks)
    fit(model, epochs=1, callbacks=callbacks)
    assert callbacks.callbacks == before


def test_an_overflow_of_a_scaled_loss_counts_if_it_lasts():
    def scaled(end):
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-3))
        return faulty(optimizer=optimizer, begin=0, end=end, value=np.inf)

    model = scaled(end=2)
    assert len(fit(model).epoch) == 5
    assert all(np.isfinite(w).all() for w in weights(model))
    model = scaled(end=99)
    with pytest.raises(FloatingPointError, match="in epoch 1, step 1 `loss` was inf"):
        fit(model, epochs=9)
    assert len(model.history.epoch) == 3  # sixteen steps are four epochs


def test_it_is_saved_and_a_trainer_has_it(tmp_path):
    faulty("warn", kind=ak.VAE).save(tmp_path / "a.keras")
    assert keras.saving.load_model(tmp_path / "a.keras").on_nan == "warn"
    trainer = ak.VAETrainer(faulty(), {"on_nan": "restore"}, X)
    assert trainer.model.on_nan == "restore"
    with pytest.raises(ValueError, match="Did you mean 'restore'"):
        faulty("restor")


def test_a_checkpoint_never_holds_a_run_that_diverged(tmp_path):
    model = faulty()
    kept = ak.callbacks.CheckpointCallback(tmp_path, verbose=False)
    with pytest.raises(FloatingPointError):
        fit(model, callbacks=[kept])
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000004"]


def test_hooks_of_later_steps_may_come_first():
    model = faulty("warn")
    guard = health.LossGuard(model, None, [])
    guard.on_epoch_begin(0)
    for batch in (7, 5, 6):
        guard.on_train_batch_end(batch, {"loss": np.nan})
    assert guard.fault[:2] == (0, 5)
