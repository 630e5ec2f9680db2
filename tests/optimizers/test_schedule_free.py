"""Its three sequences, and which of them a user sees."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.optimizers import ScheduleFreeAdamW, create_optimizer
from artifex_keras.schedulers import create_scheduler

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(64, 3)).astype("float32"), rng.normal(size=(64, 2)).astype("float32")


def compiled():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(2)]
    )
    model.compile(create_optimizer("schedule_free_adamw", 0.05, weight_decay=0.01), "mse")
    return model


def sequences(optimizer):
    """(z, x) of the first variable."""
    return [
        ops.convert_to_numpy(kept[0])
        for kept in (optimizer._iterates, optimizer._model_variables_moving_average)
    ]


def test_training_is_at_y_and_fit_ends_at_x():
    model = compiled()
    for _ in range(3):
        model.train_on_batch(X, Y)
    z, x = sequences(model.optimizer)
    np.testing.assert_allclose(model.get_weights()[0], 0.1 * z + 0.9 * x, rtol=1e-5, atol=1e-6)
    model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], sequences(model.optimizer)[1])
    model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], sequences(model.optimizer)[1])


def test_x_is_the_mean_of_the_iterates(random):
    """At a constant rate c = 1/t."""
    v = keras.Variable(np.zeros((2, 2)), name="kernel")
    optimizer = ScheduleFreeAdamW(0.1)
    iterates = []
    for _ in range(5):
        optimizer.apply([ops.convert_to_tensor(random.normal(size=(2, 2)), "float32")], [v])
        iterates.append(sequences(optimizer)[0])
    np.testing.assert_allclose(sequences(optimizer)[1], np.mean(iterates, 0), rtol=1e-5, atol=1e-6)


def test_validation_during_fit_is_at_x_with_keras_callback():
    model = compiled()
    swap = keras.callbacks.SwapEMAWeights()
    history = model.fit(X, Y, validation_data=(X, Y), epochs=3, verbose=0, callbacks=[swap])
    final = model.evaluate(X, Y, verbose=0)
    assert history.history["val_loss"][-1] == pytest.approx(final, rel=1e-6)
    plain = compiled().fit(X, Y, validation_data=(X, Y), epochs=3, verbose=0)
    assert abs(plain.history["val_loss"][-1] - final) > 1e-4  # at y
    model.fit(X, Y, validation_data=(X, Y), verbose=0, callbacks=[swap])


def test_it_starts_from_the_weights_at_the_first_update():
    """Not from those at the time of `build`."""
    v = keras.Variable(np.zeros((2, 2)), name="kernel")
    optimizer = ScheduleFreeAdamW(0.1)
    optimizer.build([v])
    v.assign(ops.ones((2, 2)) * 5)
    optimizer.apply([ops.ones((2, 2))], [v])
    np.testing.assert_allclose(ops.convert_to_numpy(v), 4.9, rtol=1e-5)


def test_a_warm_up_weighs_less():
    """c = γ²/Σγ² while the rate rises: update 2 of rates 0.05 and 0.1 has 0.8 of the average."""
    v = keras.Variable(np.zeros((1, 1)), name="kernel")
    optimizer = ScheduleFreeAdamW(create_scheduler("constant", 0.1, 2))
    for _ in range(2):
        optimizer.apply([ops.ones((1, 1))], [v])
    z, x = sequences(optimizer)
    np.testing.assert_allclose(z, -0.15, rtol=1e-5)
    np.testing.assert_allclose(x, 0.2 * -0.05 + 0.8 * -0.15, rtol=1e-5)


def test_a_rate_of_zero_changes_nothing():
    v = keras.Variable(np.ones((1, 1)), name="kernel")
    ScheduleFreeAdamW(0.0).apply([ops.ones((1, 1))], [v])
    assert ops.convert_to_numpy(v).tolist() == [[1.0]]


def test_constraints_are_refused():
    layer = keras.layers.Dense(2, kernel_constraint="non_neg")
    layer.build((None, 3))
    with pytest.raises(ValueError, match="constraints"):
        ScheduleFreeAdamW(0.1).build(layer.trainable_variables)
