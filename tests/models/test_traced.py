"""What is set on an optimizer or a layer after `compile` holds: between two fits, and from the next
epoch on where a callback sets it."""

import keras
import numpy as np
import pytest
import quick
from algorithms import ALGORITHMS
from families import FAMILIES
from keras import ops

import artifex_keras as ak
from artifex_keras.backend import name as backend_name
from artifex_keras.backend.keras_internals import all_layers
from artifex_keras.optimizers import create_optimizer

pytestmark = pytest.mark.seam
Rate = keras.optimizers.schedules.PolynomialDecay


def constant(rate):
    return Rate(rate, 10, rate)


class Pair(ak.GenerativeModel):
    """½(a - x)² + ½(b - x)², whose slopes on data of ones are a - 1 and b - 1."""

    def build(self, input_shape, condition=None):
        self.a, self.b = keras.layers.Dense(1), keras.layers.Dense(1)
        for layer in (self.a, self.b):
            layer.use_bias, layer.kernel_initializer = False, keras.initializers.Zeros()
            layer.build((None, 1))
        self.finish_build(input_shape)

    def objective(self, batch, training):
        far = [layer(ops.ones_like(batch.x)) - batch.x for layer in (self.a, self.b)]
        return {"loss": 0.5 * sum(ops.sum(ops.square(each), axis=-1) for each in far)}

    def call(self, inputs, training=False):
        return inputs - self.a(inputs)

    @property
    def place(self):
        return [
            round(float(ops.convert_to_numpy(w)[0, 0]), 5) for w in (self.a.kernel, self.b.kernel)
        ]


def pair(optimizer):
    model = Pair()
    model.compile(optimizer)
    return model


def fit(model, epochs=1, *callbacks):
    """A batch an epoch."""
    model.fit(np.ones((4, 1), "float32"), epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model.place


SGD = keras.optimizers.SGD
# How an optimizer is made, what is set on it, and where the weights are after a step before that
# (at .5) and one after.
SET = {
    "a number, then a schedule": (SGD, 0.5, {"learning_rate": constant(0.25)}, 0.625),
    "a schedule, then another": (SGD, constant(0.5), {"learning_rate": constant(0.25)}, 0.625),
    "a number, then another": (SGD, 0.5, {"learning_rate": 0.25}, 0.625),
    "clipping": (SGD, 0.5, {"clipvalue": 0.1}, 0.55),
    "decay": (SGD, 0.5, {"weight_decay": 0.4}, 0.5 * (1 - 0.4 * 0.5) + 0.5 * (1 - 0.4)),
    "a schedule within a loss scale": (
        lambda rate: keras.optimizers.LossScaleOptimizer(SGD(rate), initial_scale=2.0),
        constant(0.5),
        {"learning_rate": constant(0.25)},
        0.625,
    ),
}


@pytest.mark.parametrize("kind", SET)
def test_what_is_set_on_the_optimizer_between_two_fits_holds(kind):
    make, rate, changes, place = SET[kind]
    model = pair(make(rate))
    assert fit(model) == [0.5, 0.5]
    for option, value in changes.items():
        setattr(model.optimizer, option, value)
    if kind == "decay":  # it comes before the gradient, of the weight as it was
        place = 0.5 - 0.5 * 0.4 * 0.5 + 0.25
    assert fit(model) == [place, place]


def test_a_schedule_holds_for_single_steps_and_accumulated_ones():
    model = pair(create_optimizer("sgd", constant(0.5), gradient_accumulation_steps=2))
    batch = np.ones((4, 1), "float32")
    for _ in range(2):
        model.train_on_batch(batch)
    assert model.place == [0.5, 0.5]
    model.optimizer.learning_rate = constant(0.25)
    for _ in range(2):
        model.train_on_batch(batch)
    assert model.place == [0.625, 0.625]


class Setting(keras.callbacks.Callback):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.change(self.model)


def test_a_callback_sets_a_schedule():
    def change(model):
        model.optimizer.learning_rate = constant(0.25)

    for rate in (0.5, constant(0.5)):
        assert fit(pair(SGD(rate)), 2, Setting(change)) == [0.625, 0.625]


def test_nothing_is_compiled_anew_where_nothing_was_set(monkeypatch):
    model = pair(keras.optimizers.Adam(constant(0.5)))
    traces = []
    original = Pair.train_on
    monkeypatch.setattr(Pair, "train_on", lambda *a: traces.append(1) or original(*a))
    fit(model, 3)
    count = len(traces)
    fit(model, 2)
    assert len(traces) == count or backend_name() == "torch"


# Layers


def test_a_layer_is_frozen_and_thawed_between_fits_and_within_one():
    model = pair(SGD(0.5))
    assert fit(model) == [0.5, 0.5]
    model.a.trainable = False
    assert fit(model) == [0.5, 0.75]
    assert fit(model, 2, Setting(lambda m: setattr(m.a, "trainable", True))) == [0.75, 0.9375]
    assert fit(model, 2, Setting(lambda m: setattr(m.b, "trainable", False))) == [0.9375, 0.96875]


def test_optimizers_leave_a_frozen_layer_alone_whatever_they_remember():
    """Momentum, decay and accumulation would move it further."""
    optimizers = [
        create_optimizer("adamw", 0.1, weight_decay=0.1),
        create_optimizer("sgd", 0.1, momentum=0.9, gradient_accumulation_steps=2),
    ]
    if backend_name() == "jax":
        optimizers.append(ak.OptaxOptimizer("adamw", learning_rate=0.1))
    for optimizer in optimizers:
        model = pair(optimizer)
        fit(model, 2)
        model.a.trainable = False
        a, b = model.place
        after = fit(model, 2)
        assert after[0] == a and after[1] != b


QUICK = ("vae", "dpo")


@pytest.mark.parametrize("row", quick.rows((*FAMILIES, *ALGORITHMS), QUICK))
def test_a_callback_freezes_a_layer_in_each_family(row):
    """In the middle of `fit`: the layer stays as it is from there on, the others learn."""
    model, batch, kept = row.make(), row.arrays(8), []
    model.compile(keras.optimizers.Adam(0.05))

    def freeze(model):
        layers = all_layers(getattr(model, model.submodels[0]))
        layer = [each for each in layers if each.trainable_weights][-1]
        layer.trainable = False
        kept.extend([layer, layer.get_weights(), numbers(model.trainable_weights)])

    model.fit(*batch, batch_size=8, epochs=2, verbose=0, callbacks=[Setting(freeze)])
    layer, frozen, others = kept
    assert all(map(np.array_equal, frozen, layer.get_weights()))
    assert not all(map(np.array_equal, others, numbers(model.trainable_weights)))


def numbers(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]
