"""k small batches are one large one, and everything that counts counts updates."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import apply_gradients
from artifex_keras.gradient_accumulation import GradientAccumulation, accumulated
from artifex_keras.optimizers import create_optimizer
from artifex_keras.schedulers import create_scheduler

UPDATES, BATCH, STEPS = 6, 8, 4

rng = np.random.default_rng(0)
X = rng.normal(size=(UPDATES * STEPS * BATCH, 5)).astype("float32")
Y = rng.normal(size=(UPDATES * STEPS * BATCH, 2)).astype("float32")


def compiled(optimizer, **arguments):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(7, activation="tanh"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    model.compile(optimizer, "mse", **arguments)
    return model


def fitted(optimizer, batch_size, **arguments):
    model = compiled(optimizer, **arguments)
    model.fit(X, Y, batch_size=batch_size, shuffle=False, verbose=0)
    return model


def numbers(variables):
    return [ops.convert_to_numpy(v) for v in variables]


def same(ours, theirs, atol=1e-6):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


OPTIMIZERS = {
    "adam": lambda: create_optimizer("adam", 0.02),
    "adamw, schedule, clipping and average": lambda: create_optimizer(
        "adamw",
        create_scheduler("cosine", 0.02, 2, UPDATES),
        weight_decay=0.1,
        gradient_clip_norm=0.5,
        ema_decay=0.7,
    ),
    "lion": lambda: create_optimizer("lion", 0.002, weight_decay=0.1),
    "sgd with momentum": lambda: create_optimizer(
        "sgd", create_scheduler("linear", 0.1, 2, UPDATES), momentum=0.9
    ),
    "schedule-free": lambda: create_optimizer("schedule_free_adamw", 0.02, weight_decay=0.1),
    "Keras's own": lambda: keras.optimizers.Nadam(0.02, clipnorm=0.3, use_ema=True),
}


@pytest.mark.seam
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_small_batches_are_one_large_one(name):
    large = fitted(OPTIMIZERS[name](), STEPS * BATCH)
    small = fitted(accumulated(OPTIMIZERS[name](), STEPS), BATCH)
    assert int(numbers([small.optimizer.iterations])[0]) == UPDATES
    assert np.abs(small.get_weights()[0] - compiled("sgd").get_weights()[0]).max() > 5e-3
    same(small.get_weights(), large.get_weights())
    inner = small.optimizer.inner_optimizer
    same(numbers(inner.variables), numbers(large.optimizer.variables))


@pytest.mark.seam
def test_the_schedule_sees_the_updates_0_1_2():
    """Gradient descent on the loss w moves by the rate itself, at every third call."""
    schedule = create_scheduler("linear", 0.3, 3, 6)
    w = keras.Variable(0.0, name="w")
    optimizer = GradientAccumulation(keras.optimizers.SGD(schedule), 3)
    optimizer.build([w])
    values = []
    for _ in range(12):
        optimizer.apply([ops.ones(())], [w])
        values.append(float(ops.convert_to_numpy(w)))
    rates = [float(ops.convert_to_numpy(schedule(k))) for k in range(4)]
    np.testing.assert_allclose(values, -np.repeat(np.cumsum([0, *rates]), 3)[1:13], atol=1e-6)
    assert float(ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(
        float(ops.convert_to_numpy(schedule(4)))
    )


def test_keras_own_accumulation_is_taken_over():
    """Keras gives its schedule the numbers of calls, 1 and 3, for updates 0 and 1."""
    own = keras.optimizers.Adam(
        create_scheduler("cosine", 0.02, 2, UPDATES), gradient_accumulation_steps=STEPS
    )
    optimizer = accumulated(own)
    assert isinstance(optimizer, GradientAccumulation) and optimizer.steps == STEPS
    assert optimizer.inner_optimizer is own and own.gradient_accumulation_steps is None
    assert accumulated(own).steps == STEPS  # and again, when a model is compiled once more
    large = fitted(
        keras.optimizers.Adam(create_scheduler("cosine", 0.02, 2, UPDATES)), STEPS * BATCH
    )
    same(fitted(optimizer, BATCH).get_weights(), large.get_weights())


@pytest.mark.backends("torch")
def test_the_optimizer_runs_once_per_update():
    calls = []

    class Counted(keras.optimizers.SGD):
        def apply(self, grads, trainable_variables=None):
            calls.append(len(grads))
            super().apply(grads, trainable_variables)

    fitted(GradientAccumulation(Counted(0.1), STEPS), BATCH)
    assert calls == [4] * UPDATES


@pytest.mark.seam
@pytest.mark.backends("jax")
def test_the_update_is_inside_a_conditional():
    """No root of Adam's is taken outside of it."""
    jax = pytest.importorskip("jax")
    w = keras.Variable(np.ones((3, 3)), name="kernel")
    optimizer = GradientAccumulation(create_optimizer("adam"), 2)
    optimizer.build([w])
    values = [v.value for v in optimizer.variables]
    traced = jax.make_jaxpr(optimizer.stateless_apply)(values, [w.value], [w.value])
    outside = [equation.primitive.name for equation in traced.eqns]
    assert outside.count("cond") == 1
    assert not {"sqrt", "pow"} & set(outside)
    quotients = [equation for equation in traced.eqns if equation.primitive.name == "div"]
    assert all(result.aval.shape == () for equation in quotients for result in equation.outvars)
    assert str(traced).count("sqrt") > 0


@pytest.mark.seam
def test_a_loss_scale_around_it():
    """float16: a call that overflows is not counted and leaves the sum alone."""
    scaled = accumulated(
        keras.optimizers.LossScaleOptimizer(create_optimizer("adam", 0.02), initial_scale=4.0),
        STEPS,
    )
    assert isinstance(scaled, keras.optimizers.LossScaleOptimizer)
    assert isinstance(scaled.inner_optimizer, GradientAccumulation)
    model = fitted(scaled, BATCH)
    same(model.get_weights(), fitted(create_optimizer("adam", 0.02), STEPS * BATCH).get_weights())

    w = keras.Variable(0.0, name="w")
    optimizer = keras.optimizers.LossScaleOptimizer(
        GradientAccumulation(keras.optimizers.SGD(0.5), 2), initial_scale=4.0
    )
    optimizer.build([w])
    for gradient in (4.0, np.inf, 6.0):  # 4 at the scale 4, 6 at the scale 2
        apply_gradients(optimizer, [ops.convert_to_tensor(gradient, "float32")], [w])
    assert float(ops.convert_to_numpy(w)) == -0.5 * (1 + 3) / 2


def test_a_built_loss_scale_gets_a_built_accumulation():
    w = keras.Variable(0.0, name="w")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=1.0)
    optimizer.build([w])
    optimizer = accumulated(optimizer, 2)
    for gradient in (1.0, 3.0):
        apply_gradients(optimizer, [ops.convert_to_tensor(gradient)], [w])
    assert float(ops.convert_to_numpy(w)) == -2.0


@pytest.mark.seam
def test_a_model_saved_between_two_updates_goes_on(tmp_path):
    model = compiled(accumulated(create_optimizer("adamw", 0.02), STEPS))
    batches = [(X[i * BATCH : (i + 1) * BATCH], Y[i * BATCH : (i + 1) * BATCH]) for i in range(12)]
    for batch in batches[:6]:
        model.train_on_batch(*batch)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.steps == STEPS
    for batch in batches[6:]:
        model.train_on_batch(*batch)
        loaded.train_on_batch(*batch)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_fit_twice_with_an_average_of_keras():
    optimizer = GradientAccumulation(keras.optimizers.Adam(0.02, use_ema=True), 2)
    model = compiled(optimizer)
    swap = keras.callbacks.SwapEMAWeights()
    for _ in range(3):
        model.fit(X, Y, validation_data=(X, Y), verbose=0, callbacks=[swap])
    assert optimizer.use_ema


@pytest.mark.seam
def test_repeated_tokens():
    """An embedding's gradient holds a token once per occurrence on TensorFlow: they are summed."""

    def trained(optimizer, batch_size):
        keras.utils.set_random_seed(2)
        layer = keras.layers.Embedding(4, 3)
        model = keras.Sequential([keras.Input((6,), dtype="int32"), layer])
        model.compile(optimizer, "mse")
        tokens = np.random.default_rng(3).integers(0, 4, size=(8, 6))
        model.fit(tokens, np.ones((8, 6, 3)), batch_size=batch_size, shuffle=False, verbose=0)
        return model.get_weights()

    clipped = {"learning_rate": 0.1, "gradient_clip_norm": 100.0}  # which sums them in Keras too
    large = trained(create_optimizer("adam", **clipped), 8)
    same(trained(create_optimizer("adam", gradient_accumulation_steps=4, **clipped), 2), large)


def test_a_variable_without_gradient_keeps_its_sum():
    a, b = keras.Variable(0.0, name="a"), keras.Variable(0.0, name="b")
    optimizer = GradientAccumulation(keras.optimizers.SGD(1.0), 2)
    optimizer.build([a, b])
    one = ops.ones(())
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        for _ in range(2):
            optimizer.apply([one, None], [b, a])  # in another order than built
    assert [float(v) for v in numbers([a, b])] == [0.0, -1.0]


def test_the_rate_passes_through():
    optimizer = GradientAccumulation(keras.optimizers.Adam(0.5), 2)
    optimizer.learning_rate = 0.25
    assert float(ops.convert_to_numpy(optimizer.inner_optimizer.learning_rate)) == 0.25
    assert float(ops.convert_to_numpy(optimizer.learning_rate)) == 0.25
    lower = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0)
    model = compiled(optimizer)
    before = model.get_weights()
    model.fit(X, Y, verbose=0, callbacks=[lower])
    same(model.get_weights(), before, atol=0)


def test_a_static_loss_scale_is_the_inner_optimizers():
    optimizer = GradientAccumulation(keras.optimizers.SGD(1.0, loss_scale_factor=8.0), 2)
    assert float(optimizer.scale_loss(2.0)) == 16.0
    w = keras.Variable(0.0, name="w")
    for _ in range(2):
        optimizer.apply([ops.convert_to_tensor(8.0)], [w])
    assert float(ops.convert_to_numpy(w)) == -1.0


def test_saved_and_loaded():
    optimizer = GradientAccumulation(create_optimizer("lion", 1e-4), 5, name="five")
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert loaded.get_config() == optimizer.get_config()
    assert (loaded.steps, loaded.name) == (5, "five")


def test_nothing_to_accumulate():
    optimizer = keras.optimizers.Adam()
    assert accumulated(optimizer) is optimizer
    assert accumulated(optimizer, 1) is optimizer
    wrapper = GradientAccumulation(optimizer, 3)
    assert accumulated(wrapper) is wrapper and accumulated(wrapper, 3) is wrapper


@pytest.mark.parametrize("steps", [0, -1, 1.5, "2", True])
def test_bad_steps(steps):
    for make in (GradientAccumulation, accumulated):
        with pytest.raises(ValueError, match="`steps` must be an integer of at least 1"):
            make(keras.optimizers.Adam(), steps)


def test_bad_optimizers():
    with pytest.raises(ValueError, match="must be a Keras optimizer"):
        GradientAccumulation("adam", 2)
    with pytest.raises(ValueError, match="around the accumulation"):
        GradientAccumulation(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), 2)
    own = keras.optimizers.Adam(gradient_accumulation_steps=3)
    with pytest.raises(ValueError, match="must not accumulate itself"):
        GradientAccumulation(own, 2)
    with pytest.raises(ValueError, match="`steps` must agree"):
        accumulated(own, 2)
    with pytest.raises(ValueError, match="`steps` must agree"):
        accumulated(GradientAccumulation(keras.optimizers.Adam(), 3), 2)
    built = keras.optimizers.Adam(gradient_accumulation_steps=3)
    built.build([keras.Variable(0.0)])
    with pytest.raises(ValueError, match="can't be taken over"):
        accumulated(built)
    with pytest.raises(ValueError, match="needs a built optimizer"):
        GradientAccumulation(keras.optimizers.Adam(), 2).stateless_apply([], [], [])
    unequal = GradientAccumulation(keras.optimizers.SGD(), 2)
    unequal.build([keras.Variable(0.0)])
    with pytest.raises(ValueError, match="a gradient for each variable"):
        unequal.apply([])
