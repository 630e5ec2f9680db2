"""Output heads in int8 and int4 pass the gradient of their weights, and compute what they did."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops
from one_program import in_one_program

import artifex_keras as ak
from artifex_keras.backend import input_gradient, value_and_grad
from artifex_keras.backend.quantized_heads import give_heads_gradients
from artifex_keras.networks.rows import RowDense

VOCABULARY, WIDTH = 7, 4
HIDDEN = np.random.default_rng(0).normal(size=(2, 3, WIDTH)).astype("float32")
UPSTREAM = np.random.default_rng(1).normal(size=(2, 3, VOCABULARY)).astype("float32")


def head(mode, tied=True, cap=None):
    """A quantised head, what it gave before it had a gradient, and its float weights (V, W)."""
    keras.utils.set_random_seed(0)
    layer = layers.ReversibleEmbedding(VOCABULARY, WIDTH, tied, logit_soft_cap=cap)
    layer(np.int32([[1]]))
    for weight in layer.weights:
        weight.assign(np.random.default_rng(2).normal(size=weight.shape))
    rows = ops.convert_to_numpy(layer.embeddings if tied else layer.reverse_embeddings.value)
    rows = np.array(rows if tied else rows.T)
    layer.quantize(mode)
    before = ops.convert_to_numpy(layer(HIDDEN, reverse=True))
    give_heads_gradients(layer)
    return layer, before, rows


def gradient(layer):
    def total(hidden):
        return ops.sum(ops.multiply(layer(hidden, reverse=True), UPSTREAM))

    hidden = ops.convert_to_tensor(HIDDEN)
    return ops.convert_to_numpy(in_one_program(lambda: input_gradient(total, hidden)))


def quantised_by_hand(rows, levels):
    """Float64 weights (V, W) rounded to whole numbers of up to `levels`, row by row."""
    scale = levels / np.abs(rows).max(axis=1, keepdims=True).astype("float64")
    return np.clip(np.round(rows * scale), -levels - 1, levels) / scale


@pytest.mark.seam
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("mode", "levels"), [("int8", 127), ("int4", 7)])
def test_the_gradient_is_that_of_the_rounded_weights(mode, levels, tied, cap):
    layer, before, rows = head(mode, tied, cap)
    logits = ops.convert_to_numpy(layer(HIDDEN, reverse=True))
    np.testing.assert_array_equal(logits, before)
    if mode == "int4":  # rounded in groups, so what Keras itself makes of them is asked
        unit = np.eye(WIDTH, dtype="float32") * (1 if cap is None else 1e-2 * cap)
        rounded = ops.convert_to_numpy(layer(unit, reverse=True)).T / unit[0, 0]
        assert np.abs(rounded - rows).max() < 0.4
    else:
        rounded = quantised_by_hand(rows, levels)
    upstream = UPSTREAM if cap is None else UPSTREAM * (1 - (logits / cap) ** 2)
    np.testing.assert_allclose(gradient(layer), upstream @ rounded, rtol=1e-3, atol=1e-4)


def test_the_way_in_and_float_heads_stay_as_they_are():
    layer, _, rows = head("int8")
    found = ops.convert_to_numpy(layer(np.arange(VOCABULARY)))
    np.testing.assert_allclose(found, quantised_by_hand(rows, 127), rtol=1e-5, atol=1e-6)
    plain = layers.ReversibleEmbedding(VOCABULARY, WIDTH)
    plain(np.int32([[1]]))
    give_heads_gradients(plain)
    expected = UPSTREAM @ ops.convert_to_numpy(plain.embeddings)
    np.testing.assert_allclose(gradient(plain), expected, rtol=1e-5, atol=1e-5)
    plain.quantize("int8")  # later than our model was built
    np.testing.assert_allclose(gradient(plain), expected, rtol=0.05, atol=0.02)


def network():
    keras.utils.set_random_seed(0)
    made = ak.networks.CausalTransformer(11, 8, num_layers=1, num_heads=2, width=16)
    for weight in made.trainable_weights:
        weight.assign(0.3 * np.random.default_rng(3).normal(size=weight.shape))
    return made


def quantised(made, mode="int8"):
    with warnings.catch_warnings():  # of Keras, about layers without weights
        warnings.filterwarnings("ignore", message="Layer .* does not have a `quantize`")
        made.quantize(mode)
    return made


def test_all_products_of_our_networks_are_quantised(tmp_path):
    """Keras leaves out layers of classes that come from its own."""
    made, ids = network(), np.int32([[1, 2, 3]])
    plain = ops.convert_to_numpy(in_one_program(lambda: made(ids)))
    kernels = [v for v in quantised(made).variables if v.path.endswith("kernel")]
    assert len(kernels) >= 6
    assert {keras.backend.standardize_dtype(v.dtype) for v in kernels} == {"int8"}
    found = ops.convert_to_numpy(in_one_program(lambda: made(ids)))
    assert 0 < np.abs(found - plain).max() < 0.1 * np.abs(plain).max()
    made.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    again = ops.convert_to_numpy(in_one_program(lambda: loaded(ids)))
    np.testing.assert_allclose(again, found, rtol=1e-5, atol=1e-6)


def test_products_of_rows_are_quantised():
    layer = RowDense(3)  # of which `dit` is made
    layer.build((None, 4))
    layer.quantize("int8")
    kinds = {v.path.rpartition("/")[2]: v.dtype for v in layer.variables}
    assert kinds["kernel"] == "int8"


@pytest.mark.seam
def test_a_transformer_in_int8_has_nearly_the_gradient_in_float():
    """Of the factors of LoRA, all below the head: the cosine was .1 and less."""
    ids = np.random.default_rng(0).integers(0, 11, (8, 8)).astype("int32")
    found = []
    for mode in (None, "int8"):
        made = network() if mode is None else quantised(network(), mode)
        for layer in made._flatten_layers():
            if hasattr(layer, "enable_lora") and not isinstance(layer, layers.Embedding):
                layer.enable_lora(2)
        factors = [v for v in made.trainable_variables if "lora" in v.path]
        assert len(factors) >= 8
        for place, factor in enumerate(factors):
            factor.assign(0.3 * np.random.default_rng(place).normal(size=factor.shape))
        model = ak.Autoregressive(made)
        model.build(ids.shape)

        def loss(network=made):
            log_p = ops.log_softmax(network(ids)[:, :-1])
            return -ops.mean(ops.sum(ops.one_hot(ids[:, 1:], 11) * log_p, axis=-1)), None

        gradients = in_one_program(lambda loss=loss, of=factors: value_and_grad(loss, of)[2])
        found.append(np.concatenate([ops.convert_to_numpy(g).ravel() for g in gradients]))
    one, other = found
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.98
