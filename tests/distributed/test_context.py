"""Rows whose tokens lie on several devices: the numbers are those of one device."""

import keras
import numpy as np
import pytest

import artifex_keras as ak
from artifex_keras.distributed import DeviceMesh, data_parallel, model_parallel
from artifex_keras.distributed.layouts import specs_for
from artifex_keras.networks import context
from artifex_keras.planning import plan
from artifex_keras.trainers import ModelParallelTrainer

SIZE, LENGTH, ROWS = 96, 33, 8
MESHES = {
    "1x8": {"context": 8},
    "2x4": {"data": 2, "context": 4},
    "2x2x2": {"data": 2, "context": 2, "model": 2},
}
draws = np.random.default_rng(0)
IDS = draws.integers(1, SIZE, (ROWS, LENGTH)).astype("int32")


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    """Queries in more than one chunk, which rows as short as these wouldn't have."""
    monkeypatch.setattr(context, "LARGE", 1)
    monkeypatch.setattr(context, "FEWEST", 3)


def network(seed=0, **options):
    keras.utils.set_random_seed(seed)
    options = {"num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "width": 32, **options}
    return ak.networks.CausalTransformer(SIZE, 64, **options)


def scanned():
    options = {"num_layers": 2, "scan_layers": True, "remat": "full", "positions": "learned"}
    return ak.Autoregressive(network(**options), chunk_size=64, seed=0)


def packed(length):
    rows = [list(range(1, n)) for n in (9, 20, 14, 30, 33, 6, 17, 25, 12, 31, 28, 16)]
    return ak.datasets.packed(rows, length)


def pairs():
    chosen, rejected = IDS[:, :25], IDS[:, 8:]
    mask = (np.arange(25) > draws.integers(3, 9, (ROWS, 1))).astype("float32")
    return {"chosen": chosen, "rejected": rejected, "chosen_mask": mask, "rejected_mask": mask}


MODELS = {
    "tokens": (lambda: ak.Autoregressive(network(), seed=0), lambda: IDS, "2x2x2"),
    "all": (scanned, lambda: IDS, "1x8"),
    "tied": (scanned, lambda: IDS, "2x4"),
    # 5 rows on 2 devices, and 29 inputs on 2: XLA pads both
    "ragged": (lambda: ak.Autoregressive(network(), seed=0), lambda: IDS[:5, :30], "2x2x2"),
    "packed": (lambda: ak.SFT(network(), packing="best_fit"), lambda: packed(41), "2x4"),
    "preferences": (lambda: ak.DPO(network()), pairs, "2x2x2"),
}


def trained(model, data, distribution, optimizer=None, **options):
    model.compile(optimizer or keras.optimizers.SGD(0.3), **options)
    with distribution.scope():
        history = model.fit(data, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    return history, [np.asarray(weight) for weight in model.weights]


def assert_equal(found, expected, tolerance=1e-5):
    for key, column in expected[0].items():
        np.testing.assert_allclose(
            found[0][key], column, rtol=tolerance, atol=tolerance / 10, err_msg=key
        )
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_trained_weights_are_those_of_one_device(name):
    make, data, mesh = MODELS[name]
    data = data()
    expected = trained(make(), data, data_parallel(1))
    assert_equal(trained(make(), data, model_parallel(MESHES[mesh], min_bytes=0)), expected)


def test_accumulated_steps_in_half_precision():
    def found(distribution):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = ak.Autoregressive(network(), seed=0)
        finally:
            keras.config.set_dtype_policy("float32")
        optimizer = keras.optimizers.Adam(1e-3, gradient_accumulation_steps=2)
        return trained(model, IDS, distribution, optimizer, steps_per_execution=2)

    assert_equal(found(model_parallel(MESHES["2x4"])), found(data_parallel(1)), 2e-3)


def test_use_of_a_model():
    """Generation with its cache, `evaluate`, `predict` and likelihoods."""

    def found(distribution):
        model = ak.Autoregressive(network(), seed=0)
        model.build((None, LENGTH))
        model.compile("adam")
        with distribution.scope():
            return (
                model.generate(IDS[:4, :16], 6, seed=0),
                model.evaluate(IDS, batch_size=4, verbose=0),
                model.predict(IDS[:, :32], batch_size=4, verbose=0),
                np.asarray(model.log_prob(IDS)),
            )

    one, many = found(data_parallel(1)), found(model_parallel(MESHES["2x2x2"], min_bytes=0))
    np.testing.assert_array_equal(one[0], many[0])
    for a, b in zip(one[1:], many[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_what_a_device_holds_falls_and_it_never_gathers_scores_or_vectors(monkeypatch):
    monkeypatch.undo()
    length, width = 1024, 64

    def planned(mesh):
        model = ak.Autoregressive(network(width=width, remat="full"), chunk_size=512)
        model.compile("adam")
        return plan(model, np.zeros((2, 2 * length + 1), "int32"), mesh)

    network_of = ak.networks.CausalTransformer
    monkeypatch.setattr(
        ak.networks, "CausalTransformer", lambda v, _, **k: network_of(v, 2 * length, **k)
    )
    made = [planned(mesh) for mesh in (1, "context=2", "context=8")]
    held = [each.memory["temporaries"] for each in made]
    assert held[0] > 4 * held[1] > 4 * held[2]
    assert made[2].mesh == {"data": 1, "context": 8} and made[2].num_shards == 1
    # Of a block keys and values of half the heads, four times with their gradients.
    vectors = 4 * 2 * 2 * length * width
    assert made[2].collectives["all-gather"]["payload"] < 4 * vectors


def test_meshes_by_name():
    mesh = model_parallel({"model": 2, "context": 2, "data": 2}).device_mesh
    assert tuple(mesh.axis_names) == ("data", "context", "model")
    groups = model_parallel({"replica": 2, "context": 4})
    assert tuple(groups.device_mesh.shape) == (2, 1, 4, 1) and groups.num_model_replicas == 2
    config = {"batch_size": 4, "num_epochs": 1, "verbose": 0}
    model = ak.Autoregressive(network(), seed=0)
    trainer = ModelParallelTrainer(model, config, IDS, mesh_shape={"context": 8})
    assert trainer.distribution.num_context_shards == 8
    axes = {"data": 2, "context": 4, "model": 1}
    specs = specs_for(model, axes, min_bytes=16)
    assert specs[model.network.embedding.embeddings.path] == (None, ("data", "context"))
    with pytest.raises(ValueError, match="'contxt'.*Did you mean 'context'"):
        model_parallel({"contxt": 2})
    with pytest.raises(ValueError, match='beside "context"'):
        DeviceMesh((8,), ("context",))
    # XLA gets a gradient of a sharded picture wrong that is cut over its patches too.
    images = ak.networks.dit((8, 8, 1), width=16, depth=1, heads=2, num_classes=3)
    with pytest.raises(ValueError, match="has no rows of tokens"):
        model_parallel({"context": 2}, images)
