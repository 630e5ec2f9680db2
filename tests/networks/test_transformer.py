"""A causal transformer: nothing from the future, the cache, padding, its parts against formulas."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import value_and_grad
from artifex_keras.networks.transformer import CausalTransformer, rotary
from artifex_keras.samplers.tokens import CachedDecoder

KINDS = {
    "rotary-rms-gelu": {},
    "learned-layer-swiglu": {"positions": "learned", "norm": "layer", "activation": "swiglu"},
    "grouped": {"num_kv_heads": 2},
    "one-key-head": {"num_kv_heads": 1, "tied_embeddings": False},
}
EACH = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
IDS = np.random.default_rng(0).integers(0, 11, (3, 12)).astype("int32")


def transformer(**options):
    keras.utils.set_random_seed(0)
    options = {"num_layers": 2, "num_heads": 4, "width": 16, **options}
    network = CausalTransformer(11, 20, **options)
    random = np.random.default_rng(1)
    for weight in network.trainable_weights:  # weights large enough to tell right from wrong
        weight.assign(random.normal(0, 0.3, weight.shape) + (weight.path.endswith("scale")))
    return network


def numpy(x):
    return ops.convert_to_numpy(x)


@EACH
def test_no_future_token_leaks(kind):
    """To the bit: logits up to t, when everything after t is another."""
    network = transformer(**kind)
    before = numpy(network(IDS))
    for t in (0, 5, 10):
        changed = IDS.copy()
        changed[:, t + 1 :] = (changed[:, t + 1 :] + 1 + np.arange(11 - t)) % 11
        after = numpy(network(changed))
        np.testing.assert_array_equal(after[:, : t + 1], before[:, : t + 1])
        assert np.all(np.any(after[:, t + 1] != before[:, t + 1], axis=-1))


@EACH
def test_cached_decoding_is_the_full_pass(kind):
    """Prompts of 3, 5, 4 tokens in columns of 6, then the rest of each row one by one."""
    network = transformer(**kind)
    full = numpy(network(IDS))
    lengths = np.array([3, 5, 4], "int32")
    prompt = np.where(np.arange(6) < lengths[:, None], IDS[:, :6], 9)  # junk behind them
    decoder = CachedDecoder(network, 6, 8)
    logits, cache = decoder.start(ops.convert_to_tensor(prompt), ops.convert_to_tensor(lengths))
    rows = np.arange(3)
    for index in range(7):
        np.testing.assert_allclose(numpy(logits), full[rows, lengths + index - 1], atol=1e-5)
        tokens = ops.convert_to_tensor(IDS[rows, lengths + index])
        logits, cache = decoder(tokens, index, cache)


def test_a_cache_of_one_token_warns_of_nothing():
    """Keras warns of a softmax over one key."""
    network = transformer()
    prompt = ops.convert_to_tensor(IDS[:, :1]), ops.ones((3,), "int32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits, _ = CachedDecoder(network, 1, 1).start(*prompt)
        full = network(IDS[:, :1])
    np.testing.assert_allclose(numpy(logits), numpy(full)[:, 0], atol=1e-5)


@EACH
def test_padding_on_either_side_changes_nothing_real(kind):
    network = transformer(**kind)
    alone = numpy(network(IDS[:, :5]))
    padded = np.full((3, 12), 10, "int32")
    for place in (0, 3, 7):
        padded[:], mask = 10, np.zeros((3, 12), "int32")
        padded[:, place : place + 5], mask[:, place : place + 5] = IDS[:, :5], 1
        logits = numpy(network(padded, padding_mask=mask))
        assert np.all(np.isfinite(logits))
        np.testing.assert_allclose(logits[:, place : place + 5], alone, atol=1e-5)


def test_a_row_of_nothing_but_padding_is_no_nan():
    network = transformer()
    mask = np.ones((3, 12), "int32")
    mask[1] = 0
    assert np.all(np.isfinite(numpy(network(IDS, padding_mask=mask))))


# Packed rows

PACKED = {
    "ids": np.concatenate([IDS[:1, :5], IDS[1:2, :4], [[9, 9, 9]]], axis=1),
    "segments": np.array([[1] * 5 + [2] * 4 + [0] * 3], "int32"),
}


@pytest.mark.quick(2)
@pytest.mark.seam
@EACH
def test_packed_rows_are_each_document_alone(kind):
    network = transformer(**kind)
    logits = numpy(network(list(PACKED.values())))
    assert np.all(np.isfinite(logits))
    close = 1e-6 * np.abs(logits).max()
    np.testing.assert_allclose(logits[0, :5], numpy(network(IDS[:1, :5]))[0], atol=close)
    np.testing.assert_allclose(logits[0, 5:9], numpy(network(IDS[1:2, :4]))[0], atol=close)


@pytest.mark.seam
@EACH
def test_a_document_moves_no_other_by_anything(kind):
    network = transformer(**kind)
    before = numpy(network(list(PACKED.values())))
    changed = PACKED["ids"].copy()
    changed[:, [0, 2, 4, 10]] = (changed[:, [0, 2, 4, 10]] + 3) % 11
    after = numpy(network([changed, PACKED["segments"]]))
    np.testing.assert_array_equal(after[0, 5:9], before[0, 5:9])
    assert np.all(np.any(after[0, :5] != before[0, :5], axis=-1))


@pytest.mark.seam
def test_gradients_of_packed_rows_are_those_of_their_documents():
    network = transformer(num_layers=1)
    rows = [PACKED["ids"][:, :5], PACKED["ids"][:, 5:9]]

    def gradients(*batches):
        def loss():
            logits = [network(inputs)[:, places] for inputs, places in batches]
            return sum(ops.sum(ops.logsumexp(part, axis=-1)) for part in logits), None

        return value_and_grad(loss, network.trainable_variables)[2]

    packed = gradients((list(PACKED.values()), slice(0, 9)))
    alone = gradients(*((row, slice(None)) for row in rows))
    for ours, theirs in zip(packed, alone, strict=True):
        np.testing.assert_allclose(numpy(ours), numpy(theirs), atol=2e-5)


def test_packed_rows_may_be_longer_than_a_document_may():
    """24 ids in pieces of 12, of a network with places for 20."""
    network = transformer(positions="learned")
    ids = np.concatenate([IDS[:1], IDS[1:2]], axis=1)
    logits = numpy(network([ids, np.repeat([[1, 2]], 12, axis=1)]))
    np.testing.assert_allclose(logits[0, 12:], numpy(network(IDS[1:2]))[0], atol=1e-5)


def test_segments_that_do_not_fit_are_refused():
    network = transformer(num_layers=1)
    with pytest.raises(ValueError, match="must have the shape of the ids"):
        network([IDS, IDS[:, :5]])
    with pytest.raises(ValueError, match="leave `padding_mask` out"):
        network([IDS, np.ones_like(IDS)], padding_mask=np.ones_like(IDS))


def test_rotary_turns_pairs_by_their_angles():
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 4)).astype("float32")
    turned = numpy(rotary(x, np.array([[0, 1, 7]]), base=100.0))
    for t, position in enumerate((0, 1, 7)):
        for i, frequency in enumerate((1.0, 100.0**-0.5)):
            pair = (x[0, t, :, i] + 1j * x[0, t, :, i + 2]) * np.exp(1j * position * frequency)
            np.testing.assert_allclose(turned[0, t, :, i], pair.real, atol=1e-6)
            np.testing.assert_allclose(turned[0, t, :, i + 2], pair.imag, atol=1e-6)


def test_rotary_products_depend_on_the_distance_alone():
    network = transformer()
    near = numpy(network(IDS))
    far = numpy(network(IDS, positions=np.arange(12, dtype="int32")[None] + 8))
    np.testing.assert_allclose(near, far, atol=2e-5)


def test_grouped_heads_equal_repeated_ones():
    """Two heads of keys for four of queries, as four with each pair of them alike."""
    grouped, full = transformer(num_kv_heads=2), transformer()
    for weight, other in zip(grouped.weights, full.weights, strict=True):
        value = numpy(weight)
        if value.shape != tuple(other.shape):  # (16, 2 · 4) to (16, 4 · 4)
            value = np.repeat(value.reshape(16, 2, 4), 2, axis=1).reshape(16, 16)
        other.assign(value)
    np.testing.assert_allclose(numpy(grouped(IDS)), numpy(full(IDS)), atol=1e-5)


def test_logits_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = CausalTransformer(11, 20, num_layers=1, num_heads=2, width=8)
    finally:
        keras.config.set_dtype_policy("float32")
    assert network.blocks[0].attention.compute_dtype == "bfloat16"
    logits = network(IDS)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    cache = network.make_cache(2, 7)
    assert keras.backend.standardize_dtype(cache[0][0].dtype) == "bfloat16"


@EACH
def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    network = transformer(**kind)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(numpy(network(IDS)), numpy(loaded(IDS)))


def test_parameters_are_counted_as_in_the_paper():
    """Per block 4 w² and 8 w², and two norms; the table once, for it serves the logits too."""
    network = CausalTransformer(65, 64, num_layers=4, num_heads=4, width=128)
    assert network.count_params() == 65 * 128 + 4 * (12 * 128**2 + 2 * 128) + 128


@pytest.mark.parametrize(
    "options, words",
    [
        ({"num_heads": 3}, "`num_heads` must divide `width`"),
        ({"num_kv_heads": 3}, "`num_kv_heads` must divide `num_heads`"),
        ({"num_heads": 16}, "even width"),
        ({"norm": "batch"}, "Unknown norm 'batch'"),
        ({"positions": "rotatory"}, "Did you mean 'rotary'"),
        ({"activation": "geglu"}, "Unknown activation"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        transformer(**options)
