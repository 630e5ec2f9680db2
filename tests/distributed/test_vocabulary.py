"""Losses over a vocabulary that is sharded: equal to one device, and nobody gathers the logits."""

import keras
import numpy as np
import pytest

import artifex_keras as ak
from artifex_keras.distributed import model_parallel
from artifex_keras.distributed.redistribute import layouts_of
from artifex_keras.planning.collectives import collectives
from artifex_keras.planning.plan import prepare

SIZE, WIDTH, ROWS, LENGTH = 4096, 16, 8, 24
TABLE = 4 * SIZE * WIDTH  # bytes, less than those of the logits on a device
draws = np.random.default_rng(0)


def ids(length=LENGTH):
    return draws.integers(1, SIZE, (ROWS, length)).astype("int32")


def network(seed=0, tied=True):
    keras.utils.set_random_seed(seed)
    return ak.networks.CausalTransformer(
        SIZE, 32, num_layers=1, num_heads=8, width=WIDTH, tied_embeddings=tied
    )


def mask(length=LENGTH):
    return np.ones((ROWS, length), "float32")


def reward(prompt, completion):
    return 1.0 * completion[:, 0]


MODELS = {
    "likelihood": lambda: (
        ak.Autoregressive(network(tied=False), label_smoothing=0.1, z_loss=1e-4),
        ids(),
    ),
    "chunks": lambda: (ak.Autoregressive(network(), chunk_size=64), ids()),
    "preferences": lambda: (
        ak.DPO(network()),
        {"chosen": ids(), "rejected": ids(), "chosen_mask": mask(), "rejected_mask": mask()},
    ),
    "rewards": lambda: (
        ak.REINFORCE(network(), reward, max_new_tokens=8, entropy_coeff=0.1, kl_coeff=0.1),
        {"prompt": ids(16)},
    ),
    "distillation": lambda: distillation(),
    "likeliest": lambda: distillation(top_k=8),
}


def distillation(**options):
    model = ak.Distillation(network(), network(1), on_policy=0, max_new_tokens=8, **options)
    return model, {"prompt": ids(8), "completion": ids(16), "completion_mask": mask(16)}


@pytest.mark.parametrize("name", MODELS)
def test_no_step_gathers_logits_or_their_table(name):
    """It gathered the table of a tied or untied head, and made all logits on each device."""
    from artifex_keras.backend import lowering

    model, batch = MODELS[name]()
    model.compile("adam")
    distribution = model_parallel((1, 8))
    prepare(model, batch)
    programs = lowering.step_programs(model, batch, layouts_of(model, distribution), distribution)
    for compiled in lowering.compiled_here(programs):
        assert max(each.payload for each in collectives(compiled.hlo, 8)) < TABLE / 2


@pytest.mark.parametrize("shape, rows", [((2, 4), 8), ((1, 8), 8), ((2, 2), 7), ((2, 2, 2), 5)])
def test_trained_weights_are_those_of_one_device(shape, rows):
    """Also of rows that the devices don't divide: the gradients of their padding were added to the
    first row of a table that is sharded by its vocabulary."""

    def trained(distribution):
        keras.utils.set_random_seed(0)
        model = ak.Autoregressive(network(), label_smoothing=0.1, z_loss=1e-4, seed=0)
        model.compile(keras.optimizers.SGD(0.3))
        with distribution.scope():
            history = model.fit(tokens, batch_size=ROWS, epochs=3, shuffle=False, verbose=0)
        return history.history, [np.asarray(weight) for weight in model.weights]

    tokens = ids()[:rows]
    logs, weights = trained(model_parallel(shape, min_bytes=0))
    expected, values = trained(ak.distributed.data_parallel(1))
    for key, column in expected.items():
        np.testing.assert_allclose(logs[key], column, rtol=1e-5, err_msg=key)
    for a, b in zip(weights, values, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("rows", [8, 5])
def test_sampled_tokens_are_those_of_one_device(rows):
    """Also where the devices don't divide the rows that each samples some of."""

    def sampled(distribution):
        model = ak.Autoregressive(network(), seed=0)
        settings = {"temperature": 1.5, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.3}
        with distribution.scope():
            made = model.generate(prompt, 6, seed=0, return_log_probs=True, **settings)
        return list(map(np.asarray, made))

    prompt = ids(8)[:rows]
    tokens, log_probs = sampled(model_parallel((2, 4), min_bytes=0))
    expected = sampled(ak.distributed.data_parallel(1))
    np.testing.assert_array_equal(tokens, expected[0])
    np.testing.assert_allclose(log_probs, expected[1], rtol=1e-5)


def test_a_distillation_of_the_likeliest_tokens_learns_what_one_device_learns():
    def trained(distribution):
        model, _ = distillation(top_k=8, chunk_size=32)
        model.compile(keras.optimizers.SGD(0.3))
        with distribution.scope():
            logs = model.fit(batch, batch_size=ROWS, epochs=2, shuffle=False, verbose=0).history
        return logs, [np.asarray(weight) for weight in model.trainable_variables]

    _, batch = distillation()
    logs, weights = trained(model_parallel((2, 4), min_bytes=0))
    expected, values = trained(ak.distributed.data_parallel(1))
    np.testing.assert_allclose(logs["loss"], expected["loss"], rtol=1e-5)
    for a, b in zip(weights, values, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
