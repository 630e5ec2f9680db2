"""Several optimizers as one: state in one order, rates that keep their ratio, saved once."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.gradient_accumulation import GradientAccumulation, accumulated
from artifex_keras.optimizers import OptimizerGroup, create_optimizer
from artifex_keras.schedulers import create_scheduler


def number(value):
    return float(ops.convert_to_numpy(value))


def variables():
    return {
        "generator": [keras.Variable(np.ones((2, 3)), name="kernel")],
        "critic": [keras.Variable(np.ones(4), name="bias"), keras.Variable(1.0, name="scale")],
    }


def group(**changes):
    parts = {
        "generator": create_optimizer("adamw", 0.01),
        "critic": create_optimizer("sgd", 0.04, momentum=0.9),
    }
    return OptimizerGroup(parts | changes)


def built(**changes):
    made, owned = group(**changes), variables()
    made.build_parts(owned)
    return made, owned


def test_the_variables_are_those_of_the_parts_in_order():
    made, owned = built()
    generator, critic = made.parts.values()
    assert list(made.parts) == ["generator", "critic"]
    expected = [made._iterations, *generator.variables, *critic.variables]
    assert [id(v) for v in made.variables] == [id(v) for v in expected]
    assert len(set(map(id, expected))) == len(expected) == 1 + (2 + 2) + (2 + 2)
    assert made.built


def test_the_rate_is_the_first_and_setting_it_keeps_the_ratio():
    made, _ = built()
    assert number(made.learning_rate) == np.float32(0.01)
    made.learning_rate = 0.005
    rates = [number(part.learning_rate) for part in made.parts.values()]
    np.testing.assert_allclose(rates, [0.005, 0.02], rtol=1e-6)


def test_a_rate_that_is_a_schedule_can_be_read_and_not_set():
    made, _ = built(generator=create_optimizer("adam", create_scheduler("constant", 0.5)))
    assert number(made.learning_rate) == 0.5
    with pytest.raises(TypeError, match="LearningRateSchedule"):
        made.learning_rate = 0.1
    assert number(made.parts["critic"].learning_rate) == np.float32(0.04)


def test_a_rate_of_zero_has_no_ratio():
    made, _ = built(generator=create_optimizer("sgd", 0.0))
    with pytest.raises(ValueError, match="no factor"):
        made.learning_rate = 0.1


def test_iterations_are_those_of_the_first_part():
    made, owned = built()
    for _ in range(3):
        made.parts["generator"].apply([ops.ones((2, 3))], owned["generator"])
    assert number(made.iterations) == 3


def test_it_applies_nothing_itself():
    made, owned = built()
    with pytest.raises(NotImplementedError, match="parts"):
        made.apply([ops.ones((2, 3))], owned["generator"])
    with pytest.raises(NotImplementedError, match="parts"):
        made.stateless_apply([], [], [])


def test_saved_and_loaded():
    made, owned = built(critic=keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.3)))
    made.parts["generator"].apply([ops.ones((2, 3))], owned["generator"])
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert loaded.get_config() == made.get_config()
    assert list(loaded.parts) == ["generator", "critic"]
    loaded.build_parts(variables())
    store = {}
    made.save_own_variables(store)
    assert list(store) == [str(i) for i in range(len(made.variables))]
    loaded.load_own_variables(store)
    for ours, theirs in zip(made.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


def test_a_file_holds_each_variable_once(tmp_path):
    h5py = pytest.importorskip("h5py")
    layer = keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((2,)), layer])
    group_of_two = group(generator=GradientAccumulation(create_optimizer("adam"), 2))
    group_of_two.build_parts({"generator": [layer.kernel], "critic": [layer.bias]})
    for optimizer in (group_of_two, group_of_two.parts["generator"]):
        model.compile(optimizer)
        model.save_weights(tmp_path / "all.weights.h5")
        with h5py.File(tmp_path / "all.weights.h5") as file:
            names = []
            file["optimizer"].visit(names.append)
            datasets = [name for name in names if isinstance(file["optimizer"][name], h5py.Dataset)]
        assert len(datasets) == len(optimizer.variables)


def test_each_part_ends_with_its_own_average():
    made, owned = built(critic=create_optimizer("sgd", 0.1, ema_decay=0.5))
    for _ in range(2):
        made.parts["generator"].apply([ops.ones((2, 3))], owned["generator"])
        made.parts["critic"].apply([ops.ones(4), ops.ones(())], owned["critic"])
    generator = ops.convert_to_numpy(owned["generator"][0])
    made.finalize_variable_values([])
    np.testing.assert_allclose(ops.convert_to_numpy(owned["critic"][1]), 0.85, rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(owned["generator"][0]), generator)


def test_accumulating_is_for_each_part():
    made = accumulated(group(), 3)
    assert [part.steps for part in made.parts.values()] == [3, 3]
    plain = group()
    assert accumulated(plain) is plain
    with pytest.raises(ValueError, match="built group"):
        accumulated(built()[0], 2)


class TwoParts(keras.Model):
    """Two scalars, each with its optimizer; only the trainer's carrying of state is of interest."""

    def __init__(self):
        super().__init__()
        self.a = self.add_weight(name="a", shape=(), initializer="ones")
        self.b = self.add_weight(name="b", shape=(), initializer="ones")
        self.built = True

    def call(self, inputs):
        return inputs

    def train_step(self, state, data):
        trainable, non_trainable, optimizer, metrics = state
        pairs = [
            *zip(self.trainable_variables, trainable, strict=True),
            *zip(self.optimizer.variables, optimizer, strict=True),
        ]
        with keras.StatelessScope(pairs) as scope:
            self.optimizer.parts["a"].apply([ops.ones(())], [self.a])
            self.optimizer.parts["b"].apply([ops.ones(())], [self.b])
            trainable = [scope.get_current_value(v) for v in self.trainable_variables]
            optimizer = [scope.get_current_value(v) for v in self.optimizer.variables]
        return {"loss": ops.zeros(())}, (trainable, non_trainable, optimizer, metrics)


@pytest.mark.backends("jax")
def test_the_loop_of_keras_carries_it():
    model = TwoParts()
    parts = {"a": create_optimizer("sgd", 0.1), "b": keras.optimizers.SGD(0.01, use_ema=True)}
    optimizer = OptimizerGroup(parts)
    optimizer.build_parts({"a": [model.a], "b": [model.b]})
    model.compile(optimizer)
    for _ in range(2):
        model.fit(np.zeros((8, 1)), batch_size=4, verbose=0)
    np.testing.assert_allclose(number(model.a), 0.6, rtol=1e-6)
    assert number(optimizer.iterations) == number(parts["b"].iterations) == 4
    lower = keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_lr=0)
    model.fit(np.zeros((8, 1)), batch_size=4, epochs=3, verbose=0, callbacks=[lower])
    rates = [number(part.learning_rate) for part in parts.values()]
    np.testing.assert_allclose(rates, [0.025, 0.0025], rtol=1e-6)


@pytest.mark.parametrize(
    ("optimizers", "said"),
    [
        ({}, "must be a dict"),
        ([keras.optimizers.SGD()], "must be a dict"),
        ({"a": "sgd"}, "'a' must be a Keras optimizer"),
    ],
)
def test_bad_optimizers(optimizers, said):
    with pytest.raises(ValueError, match=said):
        OptimizerGroup(optimizers)


def test_bad_parts():
    one = create_optimizer("sgd")
    with pytest.raises(ValueError, match="given twice"):
        OptimizerGroup({"a": one, "b": one})
    with pytest.raises(ValueError, match="build_parts"):
        group().build(variables()["critic"])
    with pytest.raises(ValueError, match="must name the parts"):
        group().build_parts({"generator": []})
    owned = variables()
    owned["critic"] += owned["generator"]
    with pytest.raises(ValueError, match="must belong to one part"):
        group().build_parts(owned)


@pytest.mark.parametrize("kind", ["group", "accumulated", "scaled"])
def test_swap_ema_weights_finds_the_averages_inside(kind):
    """It swaps weights and averages for an evaluation, of whatever holds the optimizer."""

    def adam():
        return keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.75)

    w = keras.Variable(1.0, name="w")
    if kind == "group":
        optimizer = OptimizerGroup({"a": adam(), "b": keras.optimizers.SGD(0.5)})
        optimizer.build_parts({"a": [w], "b": [keras.Variable(1.0, name="v")]})
        applied = optimizer.parts["a"]
    else:
        optimizer = GradientAccumulation(adam(), 1)
        if kind == "scaled":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build([w])
        applied = optimizer.inner_optimizer
        applied = getattr(applied, "inner_optimizer", applied)
    for _ in range(2):
        applied.apply([ops.ones(())], [w])  # .5, then 0: the average is .75 * .5
    model = keras.Sequential([keras.layers.Dense(1)])
    model.optimizer = optimizer
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(model)
    swap.on_test_begin()
    assert number(w) == 0.375
    swap.on_test_end()
    assert number(w) == 0.0
