"""The seam's vocabulary, by laws that hold on each backend, outside and inside a training step."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras import backend, distributed
from artifex_keras.backend import (
    ReadThroughScope,
    apply_gradients,
    input_gradient,
    repeat,
    value_and_grad,
    when,
)


def variable(value, trainable=True):
    return keras.Variable(np.asarray(value, "float32"), trainable=trainable, dtype="float32")


def number(x):
    return ops.convert_to_numpy(x)


def test_value_and_grad_gives_loss_aux_and_gradients():
    a, b = variable([1.0, 2.0]), variable(3.0)
    loss, aux, gradients = value_and_grad(
        lambda: (ops.sum(a * a) * b.value, {"b": b.value * 2}), [a, b]
    )
    assert float(loss) == 15.0 and float(aux["b"]) == 6.0
    np.testing.assert_allclose(number(gradients[0]), [6.0, 12.0])
    assert float(gradients[1]) == 5.0


def test_a_variable_without_influence_has_a_gradient_of_zeros():
    a, b = variable([1.0, 2.0]), variable([[1.0]])
    _, _, gradients = value_and_grad(lambda: (ops.sum(a * a), None), [a, b])
    np.testing.assert_array_equal(number(gradients[1]), [[0.0]])


def test_assignments_inside_the_function_are_kept():
    a, count = variable(2.0), variable(0.0, trainable=False)

    def objective():
        count.assign_add(1.0)
        return a * a * count, None

    loss, _, (gradient,) = value_and_grad(objective, [a])
    assert float(number(count)) == 1.0 and float(loss) == 4.0 and float(gradient) == 4.0


def test_the_gradient_of_a_repeated_row_is_the_sum():
    """An embedding's repeated row counts as often as it is used, whichever optimizer follows."""
    table = variable([[1.0], [2.0]])
    _, _, (gradient,) = value_and_grad(
        lambda: (ops.sum(ops.take(table, ops.array([0, 0, 1]), axis=0)), None), [table]
    )
    np.testing.assert_allclose(number(gradient), [[2.0], [1.0]])
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build([table])
    apply_gradients(optimizer, [gradient], [table])
    np.testing.assert_allclose(number(table), [[0.0], [1.5]])


def test_the_input_gradient_of_a_cubic():
    x = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    np.testing.assert_allclose(number(input_gradient(lambda x: ops.sum(x**3, -1), x)), 3 * x**2)


def test_the_input_gradient_is_differentiable_once_more():
    """d/da of Σ (d/dx Σ a x³)² = Σ 2 (3 a x²)(3 x²)."""
    a, x = variable(2.0), np.array([[1.0, 2.0]], "float32")

    def objective():
        slope = input_gradient(lambda x: ops.sum(a * x**3, -1), x)
        return ops.sum(slope**2), None

    _, _, (gradient,) = value_and_grad(objective, [a])
    assert float(gradient) == pytest.approx(2 * 2.0 * 9 * (1 + 16), rel=1e-6)


def test_the_input_gradient_counts_the_argument_alone():
    x = ops.convert_to_tensor(np.array([2.0], "float32"))
    np.testing.assert_allclose(number(input_gradient(lambda y: y * ops.stop_gradient(x), x)), [2.0])
    np.testing.assert_allclose(number(input_gradient(lambda y: y + 0 * y * x, x)), [1.0])


def test_repeat_runs_the_rows_in_order_and_carries_assignments():
    total = variable(0.0, trainable=False)

    def body(row):
        total.assign(2 * total + row["x"])
        return {"now": total + 0.0}

    results = repeat(body, {"x": np.array([1.0, 2.0, 3.0], "float32")})
    np.testing.assert_allclose(number(results["now"]), [1.0, 4.0, 11.0])
    assert float(number(total)) == 11.0


def test_updates_of_an_optimizer_are_carried_through_repeat():
    one, other = variable([1.0, -1.0]), variable([1.0, -1.0])
    optimizers = [keras.optimizers.Adam(0.1), keras.optimizers.Adam(0.1)]
    for optimizer, weight in zip(optimizers, (one, other), strict=True):
        optimizer.build([weight])
    targets = np.array([[1.0, 2.0], [0.0, 1.0], [2.0, 2.0]], "float32")

    def descend(optimizer, weight, target):
        loss, _, gradients = value_and_grad(
            lambda: (ops.sum((weight - target) ** 2), None), [weight]
        )
        apply_gradients(optimizer, gradients, [weight])
        return loss

    losses = repeat(lambda target: descend(optimizers[0], one, target), targets)
    by_hand = [float(descend(optimizers[1], other, ops.convert_to_tensor(t))) for t in targets]
    np.testing.assert_allclose(number(losses), by_hand, rtol=1e-6)
    np.testing.assert_allclose(number(one), number(other), rtol=1e-6)


@pytest.mark.parametrize("condition, expected", [(True, 5.0), (False, 1.0)])
def test_when_runs_one_side_and_keeps_its_assignments(condition, expected):
    a = variable(1.0, trainable=False)

    def body():
        a.assign(5.0)
        return {"a": a + 0.0}

    result = when(ops.convert_to_tensor(condition), body, lambda: {"a": ops.zeros(())})
    assert float(number(a)) == expected
    assert float(number(result["a"])) == (5.0 if condition else 0.0)


def test_an_inner_scope_sees_the_values_of_the_outer_one():
    a, b = variable(1.0), variable(2.0)
    with ReadThroughScope([(a, ops.convert_to_tensor(10.0))]) as outer:
        b.assign(20.0)
        with ReadThroughScope([(a, ops.convert_to_tensor(100.0))]) as inner:
            assert float(a + b) == 120.0
            b.assign(30.0)
            assigned, values = inner.updates(excluding=[a])
        assert float(b.value) == 20.0
        assert assigned == [b] and float(values[0]) == 30.0
        assert [float(v) for v in outer.updates()[1]] == [20.0]
    assert float(b.value) == 2.0 and float(a.value) == 1.0


@pytest.mark.backends("jax")
@pytest.mark.parametrize("convolves", [False, True])
def test_steps_with_convolutions_are_not_fused_on_a_cpu(convolves):
    """XLA's CPU compiler is ten times slower at a convolution's gradient inside a loop."""
    import jax

    from artifex_keras.backend.jax.step import _convolves

    layer = keras.layers.Conv1D(2, 3) if convolves else keras.layers.Dense(2)
    layer.build((None, 8, 2))
    value = [v.value for v in layer.trainable_variables]

    def loss(value, x):
        return jax.numpy.sum(jax.jit(layer.stateless_call)(value, [], x)[0] ** 2)

    def step(value, x):
        return jax.lax.scan(lambda v, _: (jax.grad(loss)(v, x), None), value, None, length=2)[0]

    traced = jax.jit(step).trace(value, jax.numpy.ones((1, 8, 2)))
    assert _convolves(traced.jaxpr) == convolves


@pytest.mark.backends("tensorflow", "torch")
def test_many_devices_need_jax():
    calls = [
        lambda: distributed.model_parallel((1,)),
        lambda: distributed.DeviceMesh((1, 1)),
        lambda: distributed.place({"x": np.zeros(2)}, "cpu:0"),
    ]
    if backend.name() == "torch":  # of which Keras lists no devices
        calls += [distributed.data_parallel, lambda: distributed.actor_learner(actors=1)]
    for call in calls:
        with pytest.raises(NotImplementedError, match="Many devices need the JAX backend: set"):
            call()
