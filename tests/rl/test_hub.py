"""KerasHub's models as policies: tiny random ones."""

import logging

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.objectives.tokens import token_log_probs
from artifex_keras.rl import DPO, GRPO
from artifex_keras.rl.hub import HubPolicy, without_lora
from artifex_keras.rl.policy import TokenPolicy
from artifex_keras.rl.references import reference_scores

hub = pytest.importorskip("keras_hub")

SMALL = {"vocabulary_size": 13, "num_layers": 2, "intermediate_dim": 16}
MODELS = {
    "gpt2": lambda: hub.models.GPT2CausalLM(
        hub.models.GPT2Backbone(**SMALL, num_heads=2, hidden_dim=8, max_sequence_length=16)
    ),
    "llama": lambda: hub.models.LlamaCausalLM(
        hub.models.LlamaBackbone(**SMALL, num_query_heads=2, num_key_value_heads=1, hidden_dim=8)
    ),
    "gemma": lambda: hub.models.GemmaCausalLM(
        hub.models.GemmaBackbone(
            **SMALL, num_query_heads=2, num_key_value_heads=1, hidden_dim=8, head_dim=4
        )
    ),
}
EACH = pytest.mark.parametrize("name", MODELS)


def made(name, spread=0.3):
    """A model of random weights large enough for distributions that differ."""
    model = MODELS[name]()
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(random.normal(0, spread, weight.shape))
    return model


class Fixed:
    """Noise that is given."""

    def __init__(self, uniforms):
        self.uniforms = uniforms

    def uniform(self, shape):
        assert tuple(shape) == self.uniforms.shape
        return ops.convert_to_tensor(self.uniforms)


def prompts():
    ids = np.array([[3, 4, 5, 0], [6, 0, 0, 0], [7, 8, 9, 10]], "int32")
    return {
        "prompt": ops.convert_to_tensor(ids),
        "prompt_length": ops.convert_to_tensor(np.array([3, 1, 4], "int32")),
    }


def noise(rows, tokens=5):
    return np.random.default_rng(1).uniform(size=(rows, tokens)).astype("float32")


def array(x):
    return ops.convert_to_numpy(x)


@EACH
def test_features_and_head_make_the_model(name):
    model = made(name)
    policy = HubPolicy(model)
    ids = np.random.default_rng(0).integers(0, 13, (2, 6)).astype("int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    ours = policy.head(policy.features(ops.convert_to_tensor(ids)))
    np.testing.assert_allclose(array(ours), array(model(inputs)), atol=1e-5)


@EACH
@pytest.mark.parametrize("ends", [None, 2, [2, 11]])
def test_cached_tokens_are_those_of_full_passes(name, ends):
    policy = HubPolicy(made(name), max_new_tokens=5, temperature=0.7, end_token_id=ends)
    x = prompts()
    given = (x["prompt"], x["prompt_length"], 2, ops.convert_to_tensor(noise(6)))
    cached = policy.completions(*given)

    class Full(HubPolicy):
        network = property(lambda self: lambda ids, training: self.head(self.features(ids)))
        completions = TokenPolicy.completions

        def tell_of_no_cache(self):
            pass

    full = Full(policy.model, max_new_tokens=5, temperature=0.7, end_token_id=ends)
    tokens, scores = full.completions(*given)
    np.testing.assert_array_equal(array(cached[0]), array(tokens))
    np.testing.assert_allclose(array(cached[1]), array(scores), atol=1e-5)


@EACH
def test_rollouts_are_scored_as_they_were_sampled(name):
    policy = HubPolicy(made(name), max_new_tokens=5, temperature=1.3, end_token_id=2)
    rollout = policy.rollout(prompts(), 2, Fixed(noise(6)))
    scores = policy.score(rollout)["log_probs"]
    mask = array(rollout["mask"])
    np.testing.assert_allclose(array(scores) * mask, array(rollout["log_probs"]) * mask, atol=1e-4)
    first = array(rollout["sequence"])[0]
    np.testing.assert_array_equal(first[:3], [3, 4, 5])
    np.testing.assert_array_equal(first[3:8], array(rollout["completion"])[0])


def test_sequences_are_scored_as_the_model_does():
    model = made("gpt2")
    ids = np.random.default_rng(0).integers(0, 13, (2, 6)).astype("int32")
    logits = model({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    expected = token_log_probs(logits[:, :-1], ids[:, 1:])
    ours = HubPolicy(model).sequence_log_probs(ops.convert_to_tensor(ids))
    np.testing.assert_allclose(array(ours), array(expected), atol=1e-5)


# LoRA


def moved_by_lora(name="gpt2"):
    """`(model, ids, logits before)` of a model whose LoRA weights have changed it."""
    model = made(name)
    ids = np.random.default_rng(0).integers(0, 13, (2, 6)).astype("int32")
    policy = HubPolicy(model)
    before = array(policy.head(policy.features(ids)))
    model.backbone.enable_lora(2)
    HubPolicy(model)
    assert all("lora" in weight.name for weight in model.trainable_weights)
    for weight in model.trainable_weights:
        weight.assign(np.random.default_rng(3).normal(0, 1, weight.shape))
    return model, ids, before


@EACH
def test_without_lora_the_model_is_what_it_was(name):
    model, ids, before = moved_by_lora(name)
    policy = HubPolicy(model)

    def logits(model):
        return policy.head(policy.features(ids, model), model)

    assert np.abs(array(logits(model)) - before).max() > 0.01
    with without_lora(model):
        inside = logits(model)
    np.testing.assert_allclose(array(inside), before, atol=1e-5)
    scored = reference_scores("lora_off", policy, lambda model: {"x": logits(model)})
    np.testing.assert_allclose(array(scored["x"]), before, atol=1e-5)


@pytest.mark.parametrize("lora", [False, True])
def test_a_copy_stays_when_its_original_moves(lora):
    model, ids, _ = moved_by_lora() if lora else (made("gpt2"), np.ones((1, 4), "int32"), None)
    policy = HubPolicy(model)
    copy = policy.copy()
    then = array(policy.head(policy.features(ids)))
    np.testing.assert_allclose(
        array(policy.head(policy.features(ids, copy), copy)), then, atol=1e-5
    )
    assert not copy.trainable_weights
    for weight in model.trainable_weights:
        weight.assign(weight + 1.0)
    np.testing.assert_allclose(
        array(policy.head(policy.features(ids, copy), copy)), then, atol=1e-5
    )


# Training


def sevens(prompts, completions):
    return [row.count(7) / 5 for row in completions]


@pytest.mark.parametrize("lora", [False, True])
def test_grpo_and_what_is_left_afterwards(lora, tmp_path):
    model = made("gpt2", 0.1)
    if lora:
        model.backbone.enable_lora(4)
    frozen = [(w, array(w).copy()) for w in model.non_trainable_weights]
    grpo = GRPO(
        model, sevens, num_generations=8, max_new_tokens=5, beta=0.001 if lora else 0.0,
        reference="lora_off" if lora else None, seed=0,
    )  # fmt: skip
    grpo.compile(keras.optimizers.Adam(1e-1 if lora else 3e-2))
    rewards = grpo.fit(np.full((80, 1), 2), batch_size=8, epochs=3, verbose=0).history["reward"]
    assert rewards[-1] > (1.2 if lora else 2) * rewards[0]  # LoRA on a random model can do little
    for weight, before in frozen:
        np.testing.assert_array_equal(array(weight), before, err_msg=weight.path)
    ids = np.array([[2, 7, 7, 7]], "int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(loaded(inputs)), array(model(inputs)), atol=1e-5)
    written = loaded.generate(inputs, stop_token_ids=None)
    assert array(written["token_ids"]).shape == ids.shape


def test_dpo_prefers():
    model = made("gpt2", 0.1)
    chosen = np.tile(np.array([[2, 7, 7, 1]], "int32"), (16, 1))
    rejected = np.tile(np.array([[2, 5, 5, 1]], "int32"), (16, 1))
    mask = np.tile(np.array([[0, 1, 1, 1]], "float32"), (16, 1))
    pairs = {
        "chosen": chosen, "chosen_mask": mask, "rejected": rejected, "rejected_mask": mask
    }  # fmt: skip
    dpo = DPO(model, beta=0.5, seed=0)
    dpo.compile(keras.optimizers.Adam(1e-2))
    history = dpo.fit(pairs, batch_size=8, epochs=8, verbose=0).history
    first = dpo.evaluate(pairs, verbose=0, return_dict=True)
    assert history["loss"][0] < np.log(2) + 1e-3 and first["loss"] < 0.2
    assert first["reward_accuracy"] == 1.0


def test_without_a_cache_it_says_so_once(caplog):
    model = made("gpt2")

    class Plain:
        """The model without its cache."""

        def __getattr__(self, name):
            if name == "call_with_cache":
                raise AttributeError(name)
            return getattr(model, name)

    policy = HubPolicy(model, max_new_tokens=2)
    policy.model = Plain()
    policy.model.__class__.__call__ = lambda self, ids, training=False: policy.head(
        policy.features(ids)
    )
    x = prompts()
    with caplog.at_level(logging.WARNING, "artifex_keras"):
        for _ in range(2):
            uniforms = ops.convert_to_tensor(noise(3, 2))
            policy.completions(x["prompt"], x["prompt_length"], 1, uniforms)
    assert caplog.text.count("no key-value cache") == 1
