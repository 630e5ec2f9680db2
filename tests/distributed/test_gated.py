"""`"swiglu"` under tensor parallelism: each device has matching parts of gate and value."""

import keras
import numpy as np
import pytest
from keras import ops

import artifex_keras as ak
from artifex_keras import rl
from artifex_keras.distributed import data_parallel, model_parallel
from artifex_keras.distributed.layouts import placements
from artifex_keras.distributed.redistribute import layouts_of
from artifex_keras.planning.collectives import collectives
from artifex_keras.planning.plan import prepare

pytestmark = pytest.mark.backends("jax")

SIZE, WIDTH, HIDDEN, ROWS, LENGTH = 64, 32, 96, 8, 33
IDS = np.random.default_rng(0).integers(1, SIZE, (ROWS, LENGTH)).astype("int32")


def network(**options):
    keras.utils.set_random_seed(0)
    options = {"num_layers": 1, "num_heads": 8, "mlp_width": HIDDEN} | options
    return ak.networks.CausalTransformer(SIZE, 48, width=WIDTH, activation="swiglu", **options)


def sent(model, batch, distribution):
    """The collectives of a step, compiled and not run."""
    from artifex_keras.backend import lowering  # of JAX alone

    model.compile("adam")
    prepare(model, batch)
    layouts = layouts_of(model, distribution)
    (program,) = lowering.step_programs(model, batch, layouts, distribution)
    return collectives(lowering.compiled_here([program])[0].hlo, 8)


def test_what_reads_the_product_of_two_halves_is_a_row():
    """It was a column, and all of the product was gathered for it."""
    placed = placements(network(), {"data": 1, "model": 8})
    kernels = {path.split("/")[-2][-4:]: row for path, row in placed.items() if "kernel" in path}
    assert kernels["0_up"].spec == (None, "model")
    assert kernels["down"] == (("model", None), "row: reads a column")


def test_training_moves_weights_and_no_vectors_between_halves():
    """Of 256 tokens the product has 98,304 bytes; it was gathered after three exchanges of it."""
    found = sent(ak.Autoregressive(network()), IDS, model_parallel((1, 8), min_bytes=0))
    kernel = 4 * WIDTH * 2 * HIDDEN // 8
    exchanged = [each for each in found if each.kind in ("all-to-all", "collective-permute")]
    assert exchanged and max(each.payload for each in exchanged) <= kernel
    # Sums of vectors (8, 32, 32): one of a projection, three of what two or three read.
    vectors = 4 * ROWS * (LENGTH - 1) * WIDTH
    sums = sum(each.payload for each in found if each.payload >= vectors)
    assert sums == 8 * vectors


def test_a_token_exchanges_its_halves_once():
    """They were exchanged four times, and the product was gathered."""

    @rl.traceable
    def reward(completions, **_):
        return ops.sum(ops.cast(completions % 7 == 1, "float32"), axis=1)

    model = ak.GRPO(network(), reward, max_new_tokens=8, num_generations=2, seed=1)
    distribution = model_parallel((8,), rollout_mesh=(1, 8), min_bytes=0)
    found = [each for each in sent(model, IDS[:, :8], distribution) if each.part == "token"]
    exchanged = [each for each in found if each.kind in ("all-to-all", "collective-permute")]
    halves, logits = 4 * 2 * ROWS * 2 * HIDDEN // 8, 4 * 2 * ROWS * SIZE // 8
    assert sum(each.payload for each in exchanged) <= 2 * halves + logits
    gathered = [each.payload for each in found if each.kind == "all-gather"]
    assert max(gathered) < 4 * 2 * ROWS * HIDDEN


def trained(distribution, adapt=None, path=None, **options):
    model = ak.Autoregressive(network(**options), seed=0)
    if adapt is not None:
        adapt(model.network)
    model.compile(keras.optimizers.SGD(0.3))
    with distribution.scope():
        history = model.fit(IDS, batch_size=ROWS, epochs=2, shuffle=False, verbose=0)
        tokens = model.generate(IDS[:, :8], 4, temperature=0)
        if path is not None:
            model.network.save_weights(path)
    values = [np.asarray(weight) for weight in model.trainable_variables]
    return history.history["loss"], values, np.asarray(tokens)


def lora(network):
    for layer in (layer for block in network.blocks for layer in (block.up, block.down)):
        layer.enable_lora(2)


def in_int8(network):
    network.quantize("int8")
    lora(network)


CASES = {
    "1x8": ((1, 8), {}),
    "2x4": ((2, 4), {"num_layers": 2, "scan_layers": True, "remat": "full"}),
    "lora": ((1, 8), {"adapt": lora}),
    "int8": ((1, 8), {"adapt": in_int8}),
    "indivisible": ((1, 8), {"mlp_width": 100}),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_and_files_are_those_of_one_device(name, tmp_path):
    mesh, options = CASES[name]
    path = str(tmp_path / "sharded.weights.h5")
    found = trained(model_parallel(mesh, min_bytes=0), path=path, **options)
    expected = trained(data_parallel(1), **options)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_array_equal(found[2], expected[2])
    if "adapt" not in options:
        read = network(**options)
        read.load_weights(path)
        for one, other in zip(read.trainable_variables, expected[1], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
