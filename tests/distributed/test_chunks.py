"""Logits in chunks on several devices: the head is gathered once, and its gradient summed once."""

import keras
import numpy as np
import pytest

import artifex_keras as ak
from artifex_keras.distributed import data_parallel, model_parallel
from artifex_keras.distributed.redistribute import layouts_of
from artifex_keras.planning.collectives import collectives
from artifex_keras.planning.plan import prepare

pytestmark = pytest.mark.backends("jax")

SIZE, WIDTH, ROWS, LENGTH = 2048, 16, 8, 33
TABLE = 4 * SIZE * WIDTH  # bytes
IDS = np.random.default_rng(0).integers(1, SIZE, (ROWS, LENGTH)).astype("int32")
DISTRIBUTIONS = {
    "data": lambda: data_parallel(8),
    "fsdp": lambda: model_parallel((8,), min_bytes=0),
    "tensor": lambda: model_parallel((2, 4), min_bytes=0),
    "groups": lambda: model_parallel((2, 2, 2), min_bytes=0),
    "context": lambda: model_parallel({"data": 2, "context": 4}, min_bytes=0),
}


def model(**options):
    keras.utils.set_random_seed(0)
    network = ak.networks.CausalTransformer(
        SIZE, 32, num_layers=1, num_heads=8, width=WIDTH, **options
    )
    return ak.Autoregressive(network, chunk_size=64, label_smoothing=0.1, seed=0)


def sent(distribution):
    """The collectives of a step, compiled and not run."""
    from artifex_keras.backend import lowering  # of JAX alone

    trained = model()
    trained.compile("adam")
    prepare(trained, IDS)
    layouts = layouts_of(trained, distribution)
    (program,) = lowering.step_programs(trained, IDS, layouts, distribution)
    weights = 4 * sum(int(np.prod(weight.shape)) for weight in trained.trainable_variables)
    return collectives(lowering.compiled_here([program])[0].hlo, 8), weights


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_no_chunk_sends_the_head_or_its_gradient(name):
    """Each of four chunks gathered the head twice, and added its gradient over all devices."""
    in_loops = [each for each in sent(DISTRIBUTIONS[name]())[0] if each.times > 1]
    # Under tensor parallelism a chunk sends a number or two of each token, and its vectors.
    assert max((each.payload for each in in_loops), default=0) <= 4 * 64 * WIDTH


def test_fsdp_costs_what_the_textbook_says():
    """Weights gathered, and their gradient added by an all-reduce, which CPUs have alone: 3(N-1)/N
    of the weights' bytes. With a gather for each chunk it was eight times as much."""
    found, weights = sent(DISTRIBUTIONS["fsdp"]())
    assert sum(each.wire for each in found) < 1.1 * 3 * 7 / 8 * weights


def trained(distribution, rows=ROWS, adapt=None, **options):
    learning = model(**options)
    if adapt is not None:
        adapt(learning.network)
    learning.compile(keras.optimizers.SGD(0.3))
    with distribution.scope():
        history = learning.fit(IDS[:rows], batch_size=rows, epochs=2, shuffle=False, verbose=0)
    return history.history, [np.asarray(weight) for weight in learning.trainable_variables]


def assert_same(found, expected):
    for key, column in expected[0].items():
        np.testing.assert_allclose(found[0][key], column, rtol=1e-5, err_msg=key)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.fixture(scope="module")
def alone():
    return trained(data_parallel(1))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_trained_weights_are_those_of_one_device(name, alone):
    assert_same(trained(DISTRIBUTIONS[name]()), alone)


def test_rows_that_the_devices_do_not_divide():
    assert_same(trained(DISTRIBUTIONS["fsdp"](), 5), trained(data_parallel(1), 5))


def test_a_head_in_int8_beside_lora():
    def adapt(network):
        for block in network.blocks:
            block.up.enable_lora(2)
        network.embedding.quantize("int8")

    options = {"adapt": adapt, "tied_embeddings": False}
    assert_same(trained(DISTRIBUTIONS["fsdp"](), **options), trained(data_parallel(1), **options))
