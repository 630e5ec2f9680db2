"""Optax inside Keras: the same numbers, saved, with a rate that callbacks can lower."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.gradient_accumulation import GradientAccumulation
from artifex_keras.optimizers import OptaxOptimizer
from artifex_keras.schedulers import create_scheduler

on_jax = pytest.mark.backends("jax")

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(32, 3)).astype("float32"), rng.normal(size=(32, 2)).astype("float32")


def compiled(optimizer):
    keras.utils.set_random_seed(5)
    layers = [
        keras.layers.Dense(4, activation="tanh", name="hidden"),
        keras.layers.Dense(2, name="out"),
    ]
    model = keras.Sequential([keras.Input((3,)), *layers], name="net")
    model.compile(optimizer, "mse")
    return model


def optax_weights(transformation, steps):
    """The same training with Optax and JAX alone."""
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    model = compiled("sgd")
    params = {v.path: v.value for v in model.trainable_variables}
    rest = [v.value for v in model.non_trainable_variables]

    def loss(params):
        values = [params[v.path] for v in model.trainable_variables]
        return ops.mean(ops.square(model.stateless_call(values, rest, X)[0] - Y))

    @jax.jit
    def step(params, state):
        updates, state = transformation.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = transformation.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return [params[v.path] for v in model.trainable_variables]


def ready(optax, rate):
    """Masks by path, a chain, a scheduled rate, factored moments, labels."""
    return {
        "adamw": optax.adamw(
            rate,
            weight_decay=0.1,
            mask=lambda params: {path: path.endswith("kernel") for path in params},
        ),
        "chain": optax.chain(
            optax.clip_by_global_norm(0.1), optax.lion(optax.cosine_decay_schedule(rate, 10))
        ),
        "factored": optax.adafactor(rate, min_dim_size_to_factor=2),
        "labels": optax.multi_transform(
            {"hidden": optax.adam(rate), "out": optax.sgd(rate, 0.9)},
            lambda params: {path: path.split("/")[-2] for path in params},
        ),
        "lookahead": optax.contrib.schedule_free_adamw(rate),
    }


@on_jax
@pytest.mark.parametrize("name", ["adamw", "chain", "factored", "labels", "lookahead"])
def test_as_with_optax_alone(name):
    transformation = ready(pytest.importorskip("optax"), 0.02)[name]
    model = compiled(OptaxOptimizer(transformation))
    for _ in range(2):
        model.fit(X, Y, batch_size=32, epochs=3, verbose=0)
    expected = optax_weights(transformation, 6)
    for ours, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@on_jax
@pytest.mark.parametrize("rate", [0.05, create_scheduler("cosine", 0.05, 2, 9)])
def test_by_name_as_by_hand(rate):
    optax = pytest.importorskip("optax")
    model = compiled(OptaxOptimizer("adamw", learning_rate=rate, weight_decay=0.1))
    model.fit(X, Y, batch_size=32, epochs=6, verbose=0)
    for ours, theirs in zip(
        model.get_weights(), optax_weights(optax.adamw(rate, weight_decay=0.1), 6), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@keras.saving.register_keras_serializable(package="artifex_keras_tests")
def clipped_adam(learning_rate, norm):
    import optax

    return optax.chain(optax.clip_by_global_norm(norm), optax.adam(learning_rate))


@on_jax
@pytest.mark.parametrize(
    "made",
    [
        lambda: OptaxOptimizer("adamw", learning_rate=0.05),
        lambda: OptaxOptimizer("contrib.prodigy"),
        lambda: OptaxOptimizer("lion", learning_rate=create_scheduler("linear", 0.05, 1, 9)),
        lambda: OptaxOptimizer(clipped_adam, learning_rate=0.05, norm=0.2),
    ],
)
def test_a_model_goes_on_where_it_was_saved(made, tmp_path):
    pytest.importorskip("optax")
    model = compiled(made())
    model.fit(X, Y, batch_size=16, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@on_jax
def test_the_order_of_what_is_saved_is_not_that_of_names():
    """ "dense_9" comes after "dense_10": a process that names its layers anew finds its state."""
    pytest.importorskip("optax")
    shapes = {}
    for names in (("dense_9", "dense_10"), ("dense", "dense_1")):
        variables = []
        for name, shape in zip(names, [(2, 3), (4, 5)], strict=True):
            with keras.name_scope(name):
                variables.append(keras.Variable(np.ones(shape), name="kernel"))
        optimizer = OptaxOptimizer("adam", learning_rate=0.1)
        optimizer.build(variables)
        shapes[names] = [tuple(v.shape) for v in optimizer.variables]
    assert len(set(map(tuple, shapes.values()))) == 1


@on_jax
def test_the_rate_can_be_read_and_lowered():
    optax = pytest.importorskip("optax")
    named = OptaxOptimizer("adam", learning_rate=0.05)
    injected = OptaxOptimizer(optax.inject_hyperparams(optax.sgd)(learning_rate=0.5))
    for optimizer, rate in ((named, 0.05), (injected, 0.5)):
        compiled(optimizer).fit(X, Y, verbose=0)
        assert float(ops.convert_to_numpy(optimizer.learning_rate)) == np.float32(rate)
        optimizer.learning_rate = rate / 2
        assert float(ops.convert_to_numpy(optimizer.learning_rate)) == np.float32(rate / 2)
    lower = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0)
    model = compiled(OptaxOptimizer("adam", learning_rate=0.05))
    before = model.get_weights()
    model.fit(X, Y, verbose=0, callbacks=[lower])
    np.testing.assert_array_equal(model.get_weights()[0], before[0])

    scheduled = OptaxOptimizer("adam", learning_rate=create_scheduler("linear", 0.4, 2, 9))
    assert float(ops.convert_to_numpy(scheduled.learning_rate)) == np.float32(0.2)
    with pytest.raises(TypeError, match="inject_hyperparams"):
        scheduled.learning_rate = 0.1
    assert not hasattr(OptaxOptimizer(optax.adam(0.1)), "learning_rate")


@on_jax
def test_accumulating_counts_updates():
    pytest.importorskip("optax")

    def made():
        return OptaxOptimizer("adamw", learning_rate=create_scheduler("linear", 0.05, 2, 5))

    one, four = compiled(made()), compiled(GradientAccumulation(made(), 4))
    one.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    four.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    for ours, theirs in zip(one.get_weights(), four.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@on_jax
def test_a_missing_gradient_is_zero():
    optax = pytest.importorskip("optax")
    variables = [keras.Variable(np.ones(2), name="a"), keras.Variable(np.ones(2), name="b")]
    optimizer = OptaxOptimizer(optax.sgd(0.5))
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([None, ops.ones(2)], variables)
    assert [ops.convert_to_numpy(v).tolist() for v in variables] == [[1, 1], [0.5, 0.5]]


@on_jax
def test_bad_transformations():
    optax = pytest.importorskip("optax")
    with pytest.raises(ValueError, match="Unknown optax optimizer 'adamm'"):
        OptaxOptimizer("adamm")
    with pytest.raises(ValueError, match="takes no arguments"):
        OptaxOptimizer(optax.adam(0.1), learning_rate=0.1)
    with pytest.raises(ValueError, match="`transformation` must be"):
        OptaxOptimizer(3)
    with pytest.raises(ValueError, match=r"`transformation` can't be called with \(rate\)"):
        OptaxOptimizer(object, rate=0.1)
    with pytest.raises(ValueError, match="`transformation` must make an optax transformation"):
        OptaxOptimizer(dict)
    with pytest.raises(ValueError, match="`transformation` must make an optax transformation"):
        OptaxOptimizer(lambda: optax.adam)
    with pytest.raises(ValueError, match="can't be saved"):
        OptaxOptimizer(optax.adam(0.1)).get_config()


def test_other_backends_are_told(backend):
    if backend == "jax":
        pytest.skip("the backend that it is for")
    with pytest.raises(ValueError, match=f"run on the JAX backend.*{backend}"):
        OptaxOptimizer("adam", learning_rate=0.1)
