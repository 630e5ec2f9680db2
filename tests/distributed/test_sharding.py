"""Models built before their distribution, trainers that make one, checkpoints on other devices."""

import gc

import keras
import numpy as np
import pytest
from families import FAMILIES

import artifex_keras as ak
from artifex_keras.distributed import (
    data_parallel,
    memory_report,
    model_parallel,
    place,
    prefetch,
    redistribute,
)
from artifex_keras.trainers import DataParallelTrainer, ModelParallelTrainer

AVERAGED = next(family for family in FAMILIES if family.name == "vae-everything")
CONFIG = {"batch_size": 24, "num_epochs": 2, "seed": 3, "verbose": 0}


def trained(trainer=ak.Trainer, config=CONFIG, train=True, resume=False, **arguments):
    trainer = trainer(AVERAGED.make(), config, AVERAGED.arrays(100), **arguments)
    if train:
        trainer.history = trainer.train(resume=resume).history
    return trainer


def values(model):
    return [np.asarray(variable.value) for variable in model.variables]


def assert_close(one, other):
    for a, b in zip(values(one), values(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.fixture(scope="module")
def alone():
    return trained()


@pytest.mark.parametrize(
    "trainer, options",
    [
        (DataParallelTrainer, {"num_devices": 4}),
        (ModelParallelTrainer, {"mesh_shape": (2, 4)}),
        (ModelParallelTrainer, {"mesh_shape": (1, 1)}),
    ],
)
def test_trainers_give_the_numbers_of_one_device(trainer, options, alone):
    before = keras.distribution.distribution()
    found = trained(trainer, **options)
    np.testing.assert_allclose(found.history["loss"], alone.history["loss"], atol=1e-5)
    assert_close(found.model, alone.model)
    assert keras.distribution.distribution() is before
    devices = 4 if trainer is DataParallelTrainer else np.prod(options["mesh_shape"])
    assert all(len(v.value.sharding.device_set) == devices for v in found.model.variables)


def test_a_trainer_of_a_distribution_takes_no_other():
    with pytest.raises(ValueError, match="makes its own `distribution`"):
        trained(DataParallelTrainer, distribution=data_parallel(2), train=False)
    with pytest.raises(ValueError, match="There are 8 devices here"):
        trained(ModelParallelTrainer, mesh_shape=(4, 4), train=False)


def test_two_trainers_of_different_distributions():
    """A model goes from one to the other, and its optimizer is where the model is."""
    first = trained(DataParallelTrainer, num_devices=8)
    on_one = trained()
    second = ModelParallelTrainer(first.model, CONFIG, AVERAGED.arrays(100), mesh_shape=(2, 4))
    third = ak.Trainer(on_one.model, CONFIG, AVERAGED.arrays(100))
    np.testing.assert_allclose(
        second.train().history["loss"], third.train().history["loss"], atol=1e-5
    )
    held_out = AVERAGED.arrays(20)  # the first trainer takes the model back
    assert abs(first.evaluate(held_out)["loss"] - third.evaluate(held_out)["loss"]) < 1e-5


def test_a_trained_model_is_laid_out_anew_and_comes_back():
    model, plain = AVERAGED.make(), AVERAGED.make()
    for each in (model, plain):
        each.compile(keras.optimizers.Adam(1e-3))
        each.fit(*AVERAGED.arrays(), batch_size=16, shuffle=False, verbose=0)
    before = values(model)
    distribution = model_parallel((2, 4), model, min_bytes=0)
    for a, b in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [w for w in model.trainable_weights if len(w.shape) == 2]
    assert all(len(w.value.sharding.device_set) == 8 for w in model.variables)
    assert any(not w.value.sharding.is_fully_replicated for w in kernels)
    with distribution.scope():
        model.fit(*AVERAGED.arrays(), batch_size=16, shuffle=False, verbose=0)
    redistribute(model, None)
    assert all(
        len(v.value.sharding.device_set) == 1
        for v in [*model.variables, *model.optimizer.variables]
    )
    plain.fit(*AVERAGED.arrays(), batch_size=16, shuffle=False, verbose=0)
    model.fit(*AVERAGED.arrays(), batch_size=16, shuffle=False, verbose=0)
    plain.fit(*AVERAGED.arrays(), batch_size=16, shuffle=False, verbose=0)
    assert_close(model, plain)


def test_a_model_is_laid_out_once_and_again_after_another_distribution(monkeypatch):
    model, asked = AVERAGED.make(), []
    first, second = model_parallel((2, 4), min_bytes=0), data_parallel(8)
    layouts = first.layouts
    monkeypatch.setattr(first, "layouts", lambda model: asked.append(1) or layouts(model))
    model.compile(keras.optimizers.Adam(1e-3))
    for distribution, times in ((first, 1), (first, 1), (second, 1), (first, 2)):
        with distribution.scope():
            model.train_on_batch(*AVERAGED.arrays(16))
            model.train_on_batch(*AVERAGED.arrays(16))
        assert len(asked) == times
    model.compile(keras.optimizers.Adam(1e-3))  # whose variables lie on one device
    with first.scope():
        model.train_on_batch(*AVERAGED.arrays(16))
    assert len(asked) == 3


def test_what_is_not_built_cannot_be_laid_out():
    with pytest.raises(ValueError, match="must be built"):
        redistribute(keras.Sequential([keras.layers.Dense(2)]), data_parallel(2))


@pytest.mark.parametrize("steps", [1, 3])
def test_fused_and_accumulated_steps(steps):
    def history(distribution):
        config = {**CONFIG, "batch_size": 16, "steps_per_execution": steps}
        return trained(
            config=config, gradient_accumulation_steps=2, distribution=distribution
        ).history["loss"]

    np.testing.assert_allclose(
        history(model_parallel((2, 4), min_bytes=0)), history(None), atol=1e-5
    )


def test_a_checkpoint_goes_on_on_other_devices(tmp_path):
    """From 8 devices to a mesh, to 2, to one: the run is the straight one."""

    def part(epochs, resume, **arguments):
        config = {**CONFIG, "num_epochs": epochs, "checkpoint_dir": tmp_path / "run"}
        return trained(config=config, resume=resume, **arguments)

    straight = trained(config={**CONFIG, "num_epochs": 4})
    part(1, False, distribution=data_parallel(8))
    part(2, True, distribution=model_parallel((2, 4), min_bytes=0))
    part(3, True, distribution=data_parallel(2))
    last = part(4, True)
    np.testing.assert_allclose(last.history["loss"], straight.history["loss"], atol=1e-5)
    assert_close(last.model, straight.model)


def test_placing_arrays():
    x = np.arange(32, dtype="float32").reshape(16, 2)
    assert place(x, "cpu:3").devices().pop().id == 3
    cut = place({"x": x, "none": None}, data_parallel(8))
    assert cut["none"] is None and cut["x"].addressable_shards[0].data.shape == (2, 2)
    with pytest.raises(ValueError, match="`device` must be one of cpu:0"):
        place(x, "cpu:12")


def test_prefetch_is_ahead_and_keeps_the_order():
    read = []

    def batches():
        for i in range(5):
            read.append(i)
            yield np.full((8, 1), i, "float32")

    ahead = prefetch(batches(), data_parallel(8), size=2)
    assert next(ahead)[0, 0] == 0 and read == [0, 1]
    assert [int(batch[0, 0]) for batch in ahead] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="`size` must be an integer of at least 1"):
        prefetch([], "cpu:0", size=0)


def test_memory_counts_shares():
    gc.collect()
    before = memory_report()
    cut = place(np.zeros((8, 1_000_000), "float32"), data_parallel(8))
    after = memory_report()
    assert len(after) == 8 and cut.shape == (8, 1_000_000)
    for name in after:
        assert abs(after[name]["arrays"] - before[name]["arrays"] - 4_000_000) < 100_000


def test_the_state_of_an_optax_optimizer_is_laid_out_like_the_parameters():
    pytest.importorskip("optax")
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*hidden/kernel"] = (None, "model")
    shared = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    with shared.scope():
        layers = keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2, name="out")
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(ak.OptaxOptimizer("adamw", learning_rate=0.1), "mse")
        model.fit(np.ones((16, 3)), np.ones((16, 2)), batch_size=8, verbose=0)
    moments = [v for v in model.optimizer.variables if tuple(v.shape) == (3, 4)]
    assert len(moments) == 2  # both of hidden/kernel
    assert all("model" in moment.value.sharding.spec for moment in moments)
