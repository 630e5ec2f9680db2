"""Models whose weights are made shard by shard: the numbers and the places of models made whole."""

import collections

import jax
import keras
import numpy as np
import pytest
from algorithms import ALGORITHMS
from equality import assert_same
from families import FAMILIES

import artifex_keras as ak
from artifex_keras.backend import keras_internals
from artifex_keras.distributed import build_sharded, data_parallel, model_parallel
from artifex_keras.distributed.from_shapes import prepare

pytestmark = pytest.mark.backends("jax")
ROWS = {row.name: row for row in (*FAMILIES, *ALGORITHMS)}
TOKENS = np.zeros((8, 12), "int32")


def compiled(row, optimizer="adamw"):
    def make():
        model = row.make()
        model.compile(optimizer)
        return model

    return make


def variables(model):
    return [*model.variables, *model.metrics_variables, *model.optimizer.variables]


def assert_equal(model, expected):
    for ours, theirs in zip(variables(model), variables(expected), strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(ours.value, theirs.value, err_msg=ours.path)


def place(variable):
    """By device, the part of a variable that lies there."""
    return {s.device: s.index for s in variable.value.addressable_shards}


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("vae-everything", (8,)),
        ("gan-conditional", (4, 2)),
        ("autoregressive", (2, 2, 2)),
        ("grpo-everything", (4, 2)),
        ("dpo", (8,)),
    ],
)
def test_numbers_and_places_are_those_of_a_model_made_whole(name, mesh):
    row, options = ROWS[name], {"min_bytes": 0}
    with keras_internals.global_state_kept():
        keras.utils.set_random_seed(3)
        expected = compiled(row)()
        distribution = model_parallel(mesh, **options)
        with distribution.scope():
            prepare(expected, row.arrays(8))
            distribution.shard(expected)
    keras.utils.set_random_seed(3)
    model = build_sharded(compiled(row), row.arrays(8), model_parallel(mesh, **options))
    assert_equal(model, expected)
    assert [place(v) for v in variables(model)] == [place(v) for v in variables(expected)]
    assert any(len(set(map(str, place(v).values()))) > 1 for v in model.weights)


def held():
    """Bytes on the fullest device, each buffer once."""
    found = {}
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            found[shard.device, shard.data.unsafe_buffer_pointer()] = shard.data.nbytes
    sums = collections.Counter()
    for (device, _), size in found.items():
        sums[device] += size
    return max(sums.values(), default=0)


@pytest.fixture
def most(monkeypatch):
    """A list of what the fullest device held after each variable that was made."""
    kind = type(keras.Variable(0.0)).__mro__[1]
    found, make = [], kind._initialize_with_initializer

    def watched(self, initializer):
        make(self, initializer)
        found.append(held())

    monkeypatch.setattr(kind, "_initialize_with_initializer", watched)
    return found


def test_no_device_holds_more_than_its_shards(most):
    """A table of 33 MB, with an average and two moments: 16.5 MB a device of 131. Made whole, one
    device holds 33 MB more."""

    def make():
        network = ak.networks.CausalTransformer(32_000, 12, num_layers=1, num_heads=2, width=256)
        model = ak.Autoregressive(network, ema_decay=0.9)
        model.compile("adamw")
        return model

    before = held()
    model = build_sharded(make, TOKENS, model_parallel((8,)))
    sizes = [v.value.nbytes for v in variables(model)]
    share, largest = held() - before, max(sizes)
    assert share < sum(sizes) / 8 + 1e5
    assert max(most) - before < share + largest / 8 + 1e5  # one shard in the making
    assert largest > 32e6 and len(most) > 40


def test_it_trains_as_one_that_was_sharded_afterwards():
    row = ROWS["autoregressive"]
    histories = []
    for build in (build_sharded, made_whole):
        distribution = model_parallel((4, 2), min_bytes=0)
        keras.utils.set_random_seed(3)
        model = build(compiled(row), row.arrays(8), distribution)
        with distribution.scope():
            fit = model.fit(*row.arrays(32), batch_size=8, epochs=1, verbose=0, shuffle=False)
        histories.append(fit.history)
    assert histories[0] == histories[1]


def made_whole(make, batch, distribution):
    return make()


def test_scanned_blocks_and_a_reference():
    def make():
        network = ak.networks.CausalTransformer(
            40, 12, num_layers=3, num_heads=2, width=16, scan_layers=True
        )
        model = ak.DPO(network)
        model.compile("adamw")
        return model

    batch = ROWS["dpo"].arrays(8)
    with keras_internals.global_state_kept():
        keras.utils.set_random_seed(3)
        expected = make()
        prepare(expected, batch)
    keras.utils.set_random_seed(3)
    model = build_sharded(make, batch, model_parallel((8,), min_bytes=0))
    assert_equal(model, expected)
    stacked = [v for v in model.policy.weights if v.shape[0] == 3 and len(v.shape) == 3]
    assert stacked and all(len(set(map(str, place(v).values()))) == 8 for v in stacked)


def test_data_parallel_replicates():
    model = build_sharded(compiled(ROWS["vae"]), ROWS["vae"].arrays(8), data_parallel(8))
    assert all(v.value.is_fully_replicated for v in variables(model))


def test_nothing_stays_changed():
    distribution = model_parallel((8,))
    build_sharded(compiled(ROWS["vae"]), ROWS["vae"].arrays(8), distribution)
    assert "get_variable_layout" not in vars(distribution)
    assert keras.distribution.distribution() is None
    with pytest.raises(ValueError, match="has no optimizer"):
        build_sharded(ROWS["vae"].make, ROWS["vae"].arrays(8), distribution)
    assert "get_variable_layout" not in vars(distribution)


def trainer():
    return ak.VAETrainer(ROWS["vae"].make(), {"num_epochs": 1}, ROWS["vae"].arrays(8))


@pytest.mark.parametrize(
    ("make", "distribution", "message"),
    [
        (None, model_parallel, "`make` must be a function"),
        (compiled(ROWS["vae"]), lambda mesh: "fsdp", "`distribution` must be a distribution"),
        (lambda: None, model_parallel, "`make` must return a compiled model. It returned None"),
        (ROWS["vae"].make(), model_parallel, "`make` must be a function.*Received: a model, VAE"),
        (trainer, model_parallel, "`make` must return a compiled model. It returned <.*Trainer"),
    ],
)
def test_what_is_refused(make, distribution, message):
    with pytest.raises(ValueError, match=message):
        build_sharded(make, ROWS["vae"].arrays(8), distribution((8,)))


def test_weights_are_read_afterwards(tmp_path):
    """Each lies in its shards then, as before."""
    model, path = compiled(ROWS["vae"])(), tmp_path / "model.keras"
    prepare(model, ROWS["vae"].arrays(8))
    model.save(path)
    model.save_weights(tmp_path / "model.weights.h5")
    distribution = model_parallel((8,), min_bytes=0)
    made = build_sharded(compiled(ROWS["vae"]), ROWS["vae"].arrays(8), distribution)
    places = [place(v) for v in made.weights]
    made.load_weights(tmp_path / "model.weights.h5")
    assert [place(v) for v in made.weights] == places and len(set(map(str, places))) > 1
    assert_same(made.get_weights(), model.get_weights())
    with pytest.raises(ValueError, match="`make` must not read.*that `build_sharded` returns"):
        build_sharded(
            lambda: keras.saving.load_model(path), ROWS["vae"].arrays(8), model_parallel((8,))
        )
