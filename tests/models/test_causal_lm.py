"""`Autoregressive` of KerasHub's models: tiny random ones."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import artifex_keras as ak
from artifex_keras.models.autoregressive.hub import HubDecoder
from artifex_keras.rl.policies.hub import HubPolicy

pytest.importorskip("keras_hub")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "rl"))
from test_hub import (  # noqa: E402
    EACH,
    VOCABULARY,
    array,
    gpt2,
    inputs,
    made,
    randomised,
    weights_of,
    writer,
)

IDS = np.random.default_rng(0).integers(1, VOCABULARY, (8, 6)).astype("int32")


def by_hand(model, ids=IDS):
    """ln p of each id but the first in float64, of the model's own logits."""
    logits = array(model(inputs(ids))).astype("float64")[:, :-1]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(log_p, ids[:, 1:, None], axis=-1)[..., 0]


@EACH
def test_log_probs_are_those_of_the_models_own_logits(name):
    language = made(name)
    model = ak.Autoregressive(language)
    assert model.vocabulary_size == VOCABULARY and model.network is language
    log_prob = array(model.log_prob(IDS))
    np.testing.assert_allclose(log_prob, by_hand(language), rtol=1e-5, atol=1e-5)
    assert model.perplexity(IDS) == pytest.approx(np.exp(-log_prob.mean()), rel=1e-5)
    policy = array(HubPolicy(language).sequence_log_probs(ops.convert_to_tensor(IDS)))
    np.testing.assert_allclose(log_prob, policy, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_the_cache_draws_what_whole_rows_draw(name, monkeypatch):
    model = ak.Autoregressive(made(name), seed=0)
    assert model.has_cache
    prompts, options = [[3, 4, 5], [6], [7, 8]], {"end_token_id": [2, 11], "seed": 4}
    fast = model.generate(prompts, 6, 0.8, return_log_probs=True, **options)
    shown = []
    slow = model.generate(prompts, 6, 0.8, return_log_probs=True, stream=shown.append, **options)
    for cached, whole in zip(fast, slow, strict=True):
        np.testing.assert_allclose(array(cached), array(whole), atol=1e-4)
    monkeypatch.setattr(HubDecoder, "prefill", lambda self, prompt: None)
    model.compiled_methods = {}
    np.testing.assert_array_equal(array(model.generate(prompts, 6, 0.8, **options)), array(fast[0]))


def test_it_learns_as_sft_does_and_is_saved(tmp_path):
    after = []
    for kind in (ak.Autoregressive, ak.SFT):
        language = randomised(gpt2(dropout=0.0))
        model = kind(language, seed=0)
        model.compile(keras.optimizers.SGD(0.1))
        data = IDS
        if kind is ak.SFT:
            data = {"tokens": IDS, "mask": np.ones(IDS.shape, "float32")}
        history = model.fit(data, epochs=2, batch_size=4, shuffle=False, verbose=0).history
        after.append((history, language.get_weights()))
        if kind is ak.Autoregressive:
            first = by_hand(made("gpt2")).mean(axis=1)
            logs = ak.Autoregressive(made("gpt2"))
            logs.compile("sgd")
            loss = logs.evaluate(IDS, verbose=0, return_dict=True)["loss"]
            assert loss == pytest.approx(-first.mean(), rel=1e-5)
            model.save(tmp_path / "model.keras")
            loaded = keras.saving.load_model(tmp_path / "model.keras")
            np.testing.assert_array_equal(array(loaded.log_prob(IDS)), array(model.log_prob(IDS)))
    (ours, weights), (theirs, others) = after
    for name in ("loss", "perplexity", "accuracy"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
    for weight, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


def test_of_lora_and_frozen_layers_what_should_move_moves(tmp_path):
    language = made("gpt2")
    language.backbone.enable_lora(2)
    model = ak.Autoregressive(language, seed=0)
    before = weights_of(language)
    model.compile(keras.optimizers.Adam(0.05))
    model.fit(IDS, epochs=2, verbose=0)
    moved = {path for path, then in before.items() if (weights_of(language)[path] != then).any()}
    assert moved and all("lora" in path for path in moved)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded.log_prob(IDS)), array(model.log_prob(IDS)))
    assert len(loaded.trainable_variables) == len(model.trainable_variables) == 8

    language = made("llama")
    language.backbone.token_embedding.trainable = False
    before = weights_of(language)
    model = ak.Autoregressive(language)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(IDS, verbose=0)
    stayed = {path for path, then in before.items() if (weights_of(language)[path] == then).all()}
    assert stayed == {path for path in before if "token_embedding" in path}


def test_bfloat16_weights_have_a_loss_in_float32():
    keras.config.set_dtype_policy("bfloat16")
    try:
        language = made("llama")
    finally:
        keras.config.set_dtype_policy("float32")
    model = ak.Autoregressive(language, seed=0)
    log_prob = model.log_prob(IDS)
    assert keras.backend.standardize_dtype(log_prob.dtype) == "float32"
    logits = array(ops.cast(language(inputs(IDS)), "float32")).astype("float64")[:, :-1]
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(expected, IDS[:, 1:, None], axis=-1)[..., 0]
    assert np.abs(array(log_prob) - expected).mean() < 0.03  # a compiled program rounds elsewhere
    # SGD: in bfloat16 β₂ of Adam is 1, and its bias correction a rate of 0.
    model.compile(keras.optimizers.SGD(0.1))
    losses = model.fit(IDS, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.1


def test_its_tokenizer_says_start_end_and_padding():
    language = writer()
    model = ak.Autoregressive(language, seed=0)
    assert (model.start_token_id, model.pad_token_id) == (7, 0)
    other = ak.Autoregressive(language, pad_token_id=5, start_token_id=1)
    assert (other.start_token_id, other.pad_token_id) == (1, 5)
    ids = np.array([[6, 3, 4], [3, 7, 0]], "int32")
    log_prob = array(model.log_prob(ids))
    np.testing.assert_allclose(
        log_prob, by_hand(language, np.pad(ids, [[0, 0], [1, 0]], constant_values=7)), atol=1e-5
    )
    counted = log_prob[ids != 0].mean()  # all but the padding
    assert model.perplexity(ids) == pytest.approx(np.exp(-counted), rel=1e-5)
    rows = array(model.generate(np.full((32, 1), 3), 8, seed=1))
    ended = np.cumsum(rows == 7, axis=1) > 0
    assert ended.any() and not rows[:, 1:][ended[:, :-1]].any()


def test_a_policy_may_be_an_autoregressive_of_one():
    language = made("gpt2")
    model = ak.Autoregressive(language)
    grpo = ak.GRPO(model, lambda completions: [row.count(7) for row in completions],
                   num_generations=2, max_new_tokens=3, seed=0)  # fmt: skip
    grpo.compile("adam")
    history = grpo.fit(np.full((2, 1), 2), batch_size=2, verbose=0).history
    assert 0 <= history["reward"][0] <= 3
    np.testing.assert_allclose(
        array(grpo.actor.sequence_log_probs(ops.convert_to_tensor(IDS))),
        by_hand(language),
        atol=1e-5,
    )


def test_what_is_wrong_is_said():
    language = made("gpt2")
    with pytest.raises(ValueError, match=r"GPT2CausalLM\(backbone=backbone"):
        ak.Autoregressive(language.backbone)
    model = ak.Autoregressive(language)
    model.compile("adam")
    for texts in (["ab", "b"], np.array(["ab", "b"])):
        with pytest.raises(ValueError, match="Received: texts.*SFT"):
            model.fit(texts)
    with pytest.raises(ValueError, match="context of 16 tokens. Received: rows of 18"):
        model.fit(np.ones((2, 18), int))
    with pytest.raises(ValueError, match=r"must be in \[0, 13\)"):
        model.log_prob([[1, 13]])
    with pytest.raises(ValueError, match="context of 16 tokens"):
        model.generate([[1] * 10], 8)


def learned(kind, language):
    model = kind(language, seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    return model, model.fit(IDS, epochs=10, verbose=0).history["loss"]


@pytest.mark.parametrize(("name", "kind"), [("llama", ak.Autoregressive), ("qwen", ak.SFT)])
def test_lora_on_an_int8_base_moves_lora_alone(name, kind, tmp_path):
    language = made(name)
    language.quantize("int8")
    language.backbone.enable_lora(2)
    before = weights_of(language)
    kernels = [w for w in language.weights if keras.backend.standardize_dtype(w.dtype) == "int8"]
    assert len(kernels) >= 10
    model, losses = learned(kind, language)
    other = made(name)
    other.backbone.enable_lora(2)
    falls = [run[0] - run[-1] for run in (losses, learned(kind, other)[1])]
    assert falls[0] > 0.1 and falls[0] == pytest.approx(falls[1], rel=0.4)
    moved = {path for path, then in before.items() if (weights_of(language)[path] != then).any()}
    assert len(moved) == 8 and all("lora" in path for path in moved)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(IDS, verbose=0) == model.evaluate(IDS, verbose=0)
