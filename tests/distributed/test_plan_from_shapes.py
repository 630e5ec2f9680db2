"""Plans of models that a callable makes from shapes: the figures of the models themselves."""

import importlib
import random

import jax
import keras
import numpy as np
import pytest
from algorithms import ALGORITHMS
from families import FAMILIES, dense

import artifex_keras as ak
from artifex_keras import cli
from artifex_keras.backend import keras_internals
from artifex_keras.distributed import data_parallel
from artifex_keras.distributed.from_shapes import PLANNED, made_from_shapes, prepare
from artifex_keras.planning import plan

pytestmark = pytest.mark.backends("jax")
STEPS = [*FAMILIES, *ALGORITHMS]
ROWS = {row.name: row for row in STEPS}
X = np.zeros((16, 6), "float32")
LOWERED = {"target": "tpu:v5e-8", "compile": False}


def vae(width=8):
    model = ak.VAE(
        dense(6, width, outputs=4, name="encoder"), dense(2, width, outputs=6, name="decoder")
    )
    model.compile("adam")
    return model


def compiled(row):
    def make():
        model = row.make()
        model.compile("adamw")
        return model

    return make


def table(model):
    """What a plan reads of a model's variables."""
    groups = (model.variables, model.metrics_variables, model.optimizer.variables)
    return [(v.name, tuple(v.shape), v.dtype, v.trainable) for group in groups for v in group]


# The same figures


@pytest.mark.parametrize("row", STEPS, ids=list(ROWS))
def test_each_has_the_variables_that_it_has_when_it_is_made(row):
    with keras_internals.global_state_kept():
        shaped, _, _ = made_from_shapes(compiled(row), row.arrays(8), PLANNED)
        assert all(
            isinstance(v._value, jax.ShapeDtypeStruct) or v._value.size <= 2 for v in shaped.weights
        )
    with keras_internals.global_state_kept():
        model = compiled(row)()
        prepare(model, row.arrays(8))
    assert table(shaped) == table(model)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vae", {"mesh": "4x2"}),  # compiled, on devices that are here
        ("vae", {"mesh": "4x2", "target": "gpu:h100-8", "compile": False}),
        ("dpo", {"mesh": "2x4", "target": "tpu:v5e", "compile": False}),
        ("grpo", {"mesh": 8, "target": "tpu:v5e", "compile": False}),
    ],
)
def test_the_figures_are_those_of_the_model_itself(name, options):
    row = ROWS[name]
    options = {"batch": row.arrays(8), **options}
    shaped, real = plan(compiled(row), **options), plan(compiled(row)(), **options)
    assert shaped.to_dict() == real.to_dict()
    assert shaped.flops > 0 and (shaped.compiled is None) == ("compile" in options)


def test_nothing_is_allocated():
    """7 million weights; what lives is a learning rate, and what lived before."""
    before = sum(array.nbytes for array in jax.live_arrays())
    held = []

    def make():
        network = ak.networks.CausalTransformer(512, 16, num_layers=2, num_heads=8, width=512)
        model = ak.DPO(network)
        model.compile("adamw")
        model.build((None, 8))
        model.build_optimizer()
        held.append(sum(array.nbytes for array in jax.live_arrays()) - before)
        return model

    ids, mask = np.ones((8, 8), "int32"), np.ones((8, 8), "float32")
    pairs = {"chosen": ids, "rejected": ids, "chosen_mask": mask, "rejected_mask": mask}
    made = plan(make, pairs, mesh="8x1", **LOWERED)
    assert made.parameters > 13e6 and held[0] < 1e4


def test_numbers_can_be_read_where_weights_cannot():
    def make():
        model = vae()
        assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
        model.optimizer.learning_rate = 0.5
        assert model.optimizer.get_config()["learning_rate"] == 0.5
        assert int(model.optimizer.iterations) == 0
        return model

    assert plan(make, X, **LOWERED).parameters > 0


# A trainer


def trainer():
    config = {"batch_size": 8, "num_epochs": 1, "seed": 0, "verbose": 0}
    return ak.Trainer(vae(), config, X)


def test_a_trainer_brings_its_batch():
    made = plan(trainer, **LOWERED)
    assert (made.rows, made.mesh) == (8, {"data": 8})
    assert made.to_dict() == trainer().plan(**LOWERED).to_dict()


def test_a_trainer_brings_its_distribution():
    def make():
        return ak.DataParallelTrainer(vae(), {"num_epochs": 1, "seed": 0}, X, num_devices=8)

    made = plan(make, **LOWERED)
    assert made.mesh == {"data": 8} and made.to_dict() == make().plan(**LOWERED).to_dict()


def test_a_trainer_starts_the_noise_of_its_model():
    """A replay buffer is filled anew before the first step, which the step counter says."""

    def make():
        model = ak.EnergyModel(dense(6, 8, name="energy"), training_method="pcd", input_shape=(6,))
        return ak.Trainer(model, {"batch_size": 8, "num_epochs": 1, "seed": 0}, X)

    assert plan(make, **LOWERED).to_dict() == make().plan(**LOWERED).to_dict()


def test_the_shell_makes_no_weight(tmp_path, capsys, monkeypatch):
    from artifex_keras.backend import lowering

    made = []
    shapes = lowering.hold_shapes
    monkeypatch.setattr(lowering, "hold_shapes", lambda v: made.append(shapes(v)) or made[-1])
    (tmp_path / "text.txt").write_text("It was a dark and stormy night. " * 40)
    options = ["--data", str(tmp_path / "text.txt"), "--mesh", "8x1", "--target", "tpu:v5e-8"]
    sizes = ["--set", "width=2048", "--set", "num_layers=2", "--batch-size", "8"]
    sizes += ["--set", "scan_layers=true"]
    assert cli.main(["plan", "autoregressive", *options, *sizes, "--no-compile"]) == 0
    said = capsys.readouterr().out
    assert made == [[]] and "Autoregressive: a step of 8 rows on tpu:v5e-8" in said
    assert "not compiled" in said and "all                      unknown" in said


# Deep models


def test_a_deep_step_is_lowered_and_says_what_it_doesnt_know(monkeypatch):
    module = importlib.import_module("artifex_keras.planning.plan")
    monkeypatch.setattr(module, "MOST", 100)
    made = plan(vae, X, mesh="8x1", target="tpu:v5e-8")
    assert (made.compiled, made.collectives, made.wire, made.bound) == (None, None, None, None)
    assert made.memory["temporaries"] is None and made.flops_per_device is None
    assert made.seconds == {"compute": made.flops / 8 / 1.97e14}
    assert "equations, which take minutes; compile=True" in made.unknown[0]
    assert "of its compute alone" in str(made) and "at least" in str(made)


def test_a_scan_over_layers_is_as_small_at_any_depth():
    """And its figures are those of the model itself: with stacked weights, and a copy of them."""
    ids, mask = np.ones((8, 8), "int32"), np.ones((8, 8), "float32")
    mask[:, 0] = 0
    pairs = {"chosen": ids, "rejected": ids, "chosen_mask": mask, "rejected_mask": mask}

    def of(depth):
        def make():
            sizes = {"num_layers": depth, "num_heads": 2, "width": 16, "scan_layers": True}
            model = ak.DPO(ak.networks.CausalTransformer(13, 8, **sizes))
            model.compile("adamw")
            return model

        return make

    two, many = (plan(of(depth), pairs, mesh="8x1", **LOWERED) for depth in (2, 40))
    assert two.to_dict() == plan(of(2)(), pairs, mesh="8x1", **LOWERED).to_dict()
    block = 12 * 16**2 + 2 * 16  # attention, MLP, two norms
    assert many.trainable - two.trainable == 38 * block


def test_very_many_virtual_devices_are_lowered_for_too():
    made = plan(vae, X, mesh=512)
    assert (made.compiled, made.devices, made.wire) == (None, 512, None)
    assert made.unknown[0].startswith("The step was lowered for cpu, and not compiled: 512 virtual")


# What stays as it was


def test_nothing_global_is_changed():
    keras.utils.set_random_seed(3)
    names = keras.layers.Dense(1).name, keras.layers.Dense(1).name
    before = random.getstate(), np.random.get_state()[1].tolist()

    def make():
        keras.utils.set_random_seed(0)  # which makes Keras's generator of noise anew
        for _ in range(5):
            keras.layers.Dense(1)
        return vae()

    with data_parallel(8).scope():
        plan(make, X, **LOWERED)
        with pytest.raises(ValueError, match="must be compiled"):
            plan(lambda: ak.VAE(make().encoder, make().decoder), X)
        assert keras.distribution.distribution() is not None
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert keras_internals.random_seed() == 3
    count = int(names[1].rsplit("_", 1)[1])
    assert keras.layers.Dense(1).name == f"dense_{count + 1}"
    assert np.isfinite(np.asarray(keras.random.normal((2,)))).all()  # by the global generator
    assert not {"_convert_to_tensor", "_initialize_with_initializer"} & {*vars(keras.Variable)}
    model = vae()
    model.fit(X, epochs=1, verbose=0)
    assert float(model.optimizer.iterations) == 1


# What can't be made of shapes


def uncompiled():
    return ak.VAE(dense(6, outputs=4, name="e"), dense(2, outputs=6, name="d"))


def of_keras():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6)])
    model.compile("adam", "mse")
    return model


def reading():
    model = vae()
    if float(keras.ops.sum(model.encoder.weights[0].value)) > 0:
        model.compile("sgd")
    return model


@keras.saving.register_keras_serializable(package="tests")
class Shifted(keras.layers.Layer):
    """Keeps an array that is no weight."""

    def build(self, shape):
        self.shift = keras.ops.ones(shape[1:])

    def call(self, x):
        return x + self.shift


def keeping():
    entry = keras.Input((6,))
    encoder = keras.Model(entry, keras.layers.Dense(4)(Shifted()(entry)))
    model = ak.VAE(encoder, dense(2, outputs=6, name="decoder"))
    model.compile("adam")
    return model


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: None, "a callable, must return a compiled model, or a trainer. It returned None"),
        (uncompiled, "must be compiled"),
        (of_keras, "`GenerativeModel`. Received: Sequential"),
        (reading, "something needed values while it was made"),
        (keeping, "keeps arrays of its own that are no weights"),
    ],
)
def test_what_it_says(make, said):
    with pytest.raises(ValueError, match=said):
        plan(make, X, **LOWERED)


def test_a_model_that_was_made_before_is_refused_and_stays_whole():
    model = vae()
    model.build((None, 6))
    with pytest.raises(ValueError, match="must make all weights itself.*kernel' among them"):
        plan(lambda: model, X)
    model.compile("adam")
    model.fit(X, verbose=0)


@pytest.mark.parametrize("whole", [True, False])
def test_weights_are_not_read(tmp_path, whole):
    model, path = vae(), tmp_path / ("model.keras" if whole else "model.weights.h5")
    model.build((None, 6))
    model.save(path) if whole else model.save_weights(path)

    def make():
        if whole:
            return keras.saving.load_model(path)
        made = vae()
        made.build((None, 6))
        made.load_weights(path)
        return made

    with pytest.raises(ValueError, match="must not read weights"):
        plan(make, X)
    make()  # outside, as ever


@pytest.mark.parametrize("batch", [None, "abc", ["ab", "cd"], ([[1.0, 2.0]], None)])
def test_a_batch_is_of_arrays(batch):
    with pytest.raises(ValueError, match="`batch` must be arrays.*Received: batch="):
        plan(vae(), batch)


def test_whether_to_compile_is_yes_or_no():
    with pytest.raises(ValueError, match="`compile` must be True or False or None"):
        plan(vae, X, compile="maybe")


def test_a_batch_is_needed_for_a_model():
    with pytest.raises(ValueError, match="`batch` may be left out only"):
        plan(vae)
