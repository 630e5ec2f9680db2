"""KerasHub's models as policies: tiny random ones."""

import logging

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras import planning
from artifex_keras.backend import compiled
from artifex_keras.distributed.layouts import placements
from artifex_keras.models.autoregressive.hub import offers_cache
from artifex_keras.objectives.tokens import token_log_probs
from artifex_keras.rl import DPO, GRPO, RewardModel
from artifex_keras.rl.policies.hub import HubPolicy, without_lora
from artifex_keras.rl.policies.references import reference_scores

hub = pytest.importorskip("keras_hub")

VOCABULARY = 13
SMALL = {"vocabulary_size": VOCABULARY, "num_layers": 2, "intermediate_dim": 16, "hidden_dim": 8}
GROUPED = SMALL | {"num_query_heads": 2, "num_key_value_heads": 1}
GEMMA2 = {  # what the second generation has besides the first
    "query_head_dim_normalize": False,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "final_logit_soft_cap": 0.5,
    "attention_logit_soft_cap": 2.0,
    "use_sliding_window_attention": True,
    "sliding_window_size": 3,
}


def gpt2(preprocessor=None, **options):
    options = SMALL | {"num_heads": 2, "max_sequence_length": 16} | options
    return hub.models.GPT2CausalLM(hub.models.GPT2Backbone(**options), preprocessor)


def llama():
    return hub.models.LlamaCausalLM(hub.models.LlamaBackbone(**GROUPED))


def gemma(**options):
    return hub.models.GemmaCausalLM(hub.models.GemmaBackbone(**GROUPED, head_dim=4, **options))


def gemma3():
    options = {"image_size": 16, "vision_encoder": None, "sliding_window_size": 3}
    backbone = hub.models.Gemma3Backbone(**GROUPED, head_dim=4, **options)
    return hub.models.Gemma3CausalLM(preprocessor=None, backbone=backbone)


def qwen():
    return hub.models.QwenCausalLM(hub.models.QwenBackbone(**GROUPED))


def qwen3():
    return hub.models.Qwen3CausalLM(hub.models.Qwen3Backbone(**GROUPED, head_dim=4))


MODELS = {
    "gpt2": gpt2,
    "llama": llama,
    "gemma": gemma,
    "gemma2": lambda: gemma(**GEMMA2),
    "gemma3": gemma3,
    "qwen": qwen,
    "qwen3": qwen3,
}
EACH = pytest.mark.parametrize("name", MODELS)


def randomised(model, spread=0.5):
    """The model with weights large enough for distributions that differ."""
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(random.normal(0, spread, weight.shape))
    return model


def made(name, spread=0.5):
    return randomised(MODELS[name](), spread)


class Program:
    """A function of a model as one compiled program, as a step of `fit` runs it."""

    def __init__(self, model, run):
        self.variables, self.run, self.compiled_methods = model.variables, run, {}

    @compiled
    def __call__(self, *args):
        return self.run(*args)


def run(model, function, *args):
    """The function's arrays, run in a compiled program."""
    args = [np.asarray(arg) for arg in args]
    results = Program(model, function)(*args)
    return keras.tree.map_structure(ops.convert_to_numpy, results, none_is_leaf=False)


class Fixed:
    """Noise that is given."""

    def __init__(self, uniforms):
        self.uniforms = uniforms

    def uniform(self, shape):
        assert tuple(shape) == tuple(self.uniforms.shape)
        return ops.convert_to_tensor(self.uniforms)


PROMPT = np.array([[3, 4, 5, 0], [6, 0, 0, 0], [7, 8, 9, 10]], "int32")
LENGTH = np.array([3, 1, 4], "int32")
IDS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 6)).astype("int32")


def noise(rows, tokens=5):
    return np.random.default_rng(1).uniform(size=(rows, tokens)).astype("float32")


def inputs(ids=IDS):
    return {"token_ids": ids, "padding_mask": np.ones_like(ids)}


def logits(model, ids=IDS):
    policy = HubPolicy(model)
    return run(model, lambda ids: policy.head(policy.features(ids)), ids)


def array(x):
    return ops.convert_to_numpy(x)


class Uncached(HubPolicy):
    """The policy without the cache."""

    def _decoder(self, width):
        decoder = super()._decoder(width)
        decoder.prefill = lambda prompt: None
        return decoder


# Scoring


@EACH
def test_features_and_head_make_the_model(name):
    model = made(name)
    np.testing.assert_allclose(logits(model), array(model(inputs())), rtol=1e-5, atol=1e-5)
    assert HubPolicy(model).feature_width == 8
    assert HubPolicy(model).vocabulary_size == VOCABULARY


def test_sequences_are_scored_as_the_model_does():
    model = made("gpt2")
    expected = token_log_probs(model(inputs())[:, :-1], IDS[:, 1:])
    ours = run(model, HubPolicy(model).sequence_log_probs, IDS)
    np.testing.assert_allclose(ours, array(expected), atol=1e-5)


# Sampling


@EACH
def test_cached_tokens_are_those_of_full_passes_and_are_scored_alike(name):
    model = made(name)
    options = {"max_new_tokens": 5, "temperature": 0.7, "end_token_id": [2, 11]}
    cached, full = HubPolicy(model, **options), Uncached(model, **options)

    def all_of_it(prompt, length, uniforms):
        prompts = {"prompt": prompt, "prompt_length": length}
        rollout = cached.rollout(prompts, 2, Fixed(uniforms))
        sampled = full.completions(prompt, length, 2, uniforms)
        likeliest = [
            policy.completions(prompt, length, 1, uniforms[::2], greedy=True)
            for policy in (cached, full)
        ]
        return rollout, cached.score(rollout), sampled, likeliest

    rollout, scores, (tokens, log_probs), likeliest = run(
        model, all_of_it, PROMPT, LENGTH, noise(6)
    )
    for found, expected in zip(*likeliest, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert offers_cache(model)
    np.testing.assert_array_equal(rollout.completion, tokens)
    np.testing.assert_allclose(rollout.log_probs, log_probs, atol=1e-5)
    mask = rollout.mask
    assert 0 < (mask == 0).sum()  # some have ended
    np.testing.assert_allclose(scores.log_probs * mask, log_probs, atol=1e-4)
    for row, start, completion in zip(
        rollout.sequence, rollout.start, rollout.completion, strict=True
    ):
        np.testing.assert_array_equal(row[start : start + 5], completion)


def test_padding_may_be_the_end():
    """The first end token is the row's, scored like the others; those after it are padding."""
    model = made("gpt2", 0.02)  # nearly uniform: token floor(13 u)
    policy = HubPolicy(model, max_new_tokens=4, end_token_id=7, pad_token_id=7)
    uniforms = (np.array([[1, 7, 3, 3], [7, 1, 1, 1], [1, 2, 3, 4]], "float32") + 0.5) / VOCABULARY

    def rollout(prompt, length, uniforms):
        prompts = {"prompt": prompt, "prompt_length": length}
        return policy.rollout(prompts, 1, Fixed(uniforms))

    made_of_it = run(model, rollout, PROMPT, LENGTH, uniforms)
    expected = [[1, 7, 7, 7], [7, 7, 7, 7], [1, 2, 3, 4]]
    np.testing.assert_array_equal(made_of_it.completion, expected)
    np.testing.assert_array_equal(made_of_it.mask, [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(made_of_it.ended, [1, 1, 0])
    np.testing.assert_array_equal(made_of_it.log_probs != 0, made_of_it.mask != 0)


@pytest.mark.parametrize("width", [12, 15])
def test_rows_may_fill_the_context(width):
    """Padding of prompts must not count: 12 tokens and 5 new ones, of which 4 are looked at."""
    model = made("gpt2")
    prompt = np.ones((1, width), "int32")
    policies = HubPolicy(model, max_new_tokens=5), Uncached(model, max_new_tokens=5)
    made_by = [
        run(model, lambda *x, policy=policy: policy.completions(*x[:2], 1, x[2])[0],
            prompt, np.array([12], "int32"), noise(1))
        for policy in policies
    ]  # fmt: skip
    np.testing.assert_array_equal(*made_by)


def test_without_a_cache_it_says_so_once(caplog):
    model = made("gpt2")
    policy = HubPolicy(model, max_new_tokens=2)
    model._build_cache = lambda token_ids, states: None
    given = PROMPT, LENGTH, noise(3, 2)
    with caplog.at_level(logging.WARNING, "artifex_keras"):
        for _ in range(2):
            run(model, lambda *x: policy.completions(*x[:2], 1, x[2]), *given)
    assert caplog.text.count("no key-value cache") == 1


def test_a_recurrent_state_is_no_cache():
    """It would see the padding of prompts, and what is fed twice."""
    model = made("gpt2")
    policy = HubPolicy(model, max_new_tokens=2)
    columns = model._build_cache
    model._build_cache = lambda token_ids: (None, (columns(token_ids)[1], ops.zeros((3, 2, 8))))
    assert policy._decoder(PROMPT.shape[1]).prefill(ops.convert_to_tensor(PROMPT)) is None
    assert not offers_cache(model)


def test_a_model_of_more_than_tokens_is_refused():
    model = made("gpt2")
    image = keras.Input((4,), name="image")
    seen = keras.Model({**model.input, "image": image}, model.output)
    seen.backbone = model.backbone
    with pytest.raises(ValueError, match="image"):
        HubPolicy(seen)


# LoRA


def moved_by_lora(name="gpt2"):
    """`(model, logits before)` of a model whose LoRA weights have changed it."""
    model = made(name)
    before = logits(model)
    model.backbone.enable_lora(2)
    HubPolicy(model)
    random = np.random.default_rng(3)
    for weight in model.trainable_weights:
        weight.assign(random.normal(0, 1, weight.shape))
    return model, before


@EACH
def test_of_a_model_with_lora_it_alone_is_trained(name):
    model = made(name)
    model.backbone.enable_lora(2)
    trained = HubPolicy(model).variables
    assert len(trained) == 8  # queries and values of 2 layers, 2 factors each
    assert all("lora" in weight.name for weight in trained)


@pytest.mark.parametrize("name", ["gpt2", "gemma"])
def test_without_lora_the_model_is_what_it_was(name):
    model, before = moved_by_lora(name)
    policy = HubPolicy(model)

    def scores(model):
        return {"logits": policy.head(policy.features(IDS, model), model)}

    def both():
        with without_lora(model):
            inside = scores(model)
        return inside, reference_scores("lora_off", policy, scores), scores(model)

    inside, reference, outside = (entry["logits"] for entry in run(model, both))
    np.testing.assert_allclose(inside, before, atol=1e-5)
    np.testing.assert_allclose(reference, before, atol=1e-5)
    assert np.abs(outside - before).max() > 0.01
    np.testing.assert_allclose(logits(model), outside, atol=1e-5)


def test_lora_off_needs_lora_alone():
    model = made("gpt2")
    with pytest.raises(ValueError, match="needs a policy with LoRA"):
        DPO(model, "lora_off")
    model.backbone.enable_lora(2)
    model.backbone.token_embedding.trainable = True
    with pytest.raises(ValueError, match="token_embedding"):
        DPO(model, "lora_off")


@pytest.mark.parametrize("lora", [False, True])
def test_a_copy_stays_when_its_original_moves(lora):
    model = moved_by_lora()[0] if lora else made("gpt2")
    copy = HubPolicy(model).copy()
    then = logits(model)
    np.testing.assert_allclose(logits(copy), then, atol=1e-5)
    assert not copy.trainable_weights
    assert [tuple(w.shape) for w in copy.weights] == [tuple(w.shape) for w in model.weights]
    for weight in model.trainable_weights:
        weight.assign(2.0 * weight + 1.0)
    assert np.abs(logits(model) - then).max() > 0.01
    np.testing.assert_allclose(logits(copy), then, atol=1e-5)


# Training


def sevens(prompts, completions):
    return [row.count(7) / 4 for row in completions]


def weights_of(model):
    return {w.path: array(w).copy() for w in model.weights}


@pytest.mark.parametrize("lora", [False, True])
def test_grpo(lora, tmp_path):
    model = made("gpt2", 0.5 if lora else 0.2)
    if lora:
        model.backbone.enable_lora(4)
    before = weights_of(model)
    held = {"beta": 1e-3, "reference": "lora_off"} if lora else {}
    grpo = GRPO(model, sevens, num_generations=8, max_new_tokens=4, seed=0, **held)
    grpo.compile(keras.optimizers.Adam(0.1 if lora else 3e-2))
    rewards = grpo.fit(np.full((80, 1), 2), batch_size=8, verbose=0, epochs=3).history["reward"]
    assert rewards[-1] > rewards[0] + 0.15
    moved = {path for path, then in before.items() if (weights_of(model)[path] != then).any()}
    if lora:
        assert moved and all("lora" in path for path in moved)
    grpo.save(tmp_path / "grpo.keras")
    loaded = keras.saving.load_model(tmp_path / "grpo.keras")
    for ours, theirs in zip(grpo.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(array(theirs), array(ours), err_msg=ours.path)
    assert len(loaded.trainable_variables) == len(grpo.trainable_variables)
    loaded.reward_fn = sevens
    loaded.fit(np.full((8, 1), 2), batch_size=8, verbose=0)

    # The model by itself is saved as KerasHub does it, LoRA merged into the kernels.
    model.save(tmp_path / "model.keras")
    alone = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(logits(alone), logits(model), atol=1e-4)
    start = np.array([[2, 0, 0, 0, 0]], "int32")
    given = {"token_ids": start, "padding_mask": (start > 0).astype("int32")}
    alone.compile(sampler="greedy")
    written = array(alone.generate(given, stop_token_ids=None)["token_ids"])
    assert written.shape == start.shape and (written[:, 1:] == 7).mean() >= 0.5


@pytest.mark.parametrize("lora", [False, True])
def test_dpo(lora, tmp_path):
    model = made("gpt2", 0.3)
    if lora:
        model.backbone.enable_lora(4)
    before = weights_of(model)
    mask = np.tile(np.array([[0, 1, 1, 1]], "float32"), (16, 1))
    pairs = {
        "chosen": np.tile(np.array([[2, 7, 7, 1]], "int32"), (16, 1)),
        "rejected": np.tile(np.array([[2, 5, 5, 1]], "int32"), (16, 1)),
    }
    pairs |= {f"{side}_mask": mask for side in ("chosen", "rejected")}
    dpo = DPO(model, "lora_off" if lora else None, beta=0.5, seed=0)
    dpo.compile(keras.optimizers.Adam(3e-2 if lora else 1e-2))
    first = dpo.evaluate(pairs, verbose=0, return_dict=True)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    dpo.fit(pairs, batch_size=8, epochs=8, verbose=0)
    last = dpo.evaluate(pairs, verbose=0, return_dict=True)
    assert last["loss"] < 0.3 and last["reward_accuracy"] == 1.0
    moved = {path for path, then in before.items() if (weights_of(model)[path] != then).any()}
    if lora:
        assert moved and all("lora" in path for path in moved)
    dpo.save(tmp_path / "dpo.keras")
    loaded = keras.saving.load_model(tmp_path / "dpo.keras")
    again = loaded.evaluate(pairs, verbose=0, return_dict=True)
    assert again["loss"] == pytest.approx(last["loss"], rel=1e-5)
    written = loaded.policy.generate(inputs(IDS), stop_token_ids=None)
    assert array(written["token_ids"]).shape == IDS.shape


# Texts

LETTERS = ["!", "a", "b", "c", "d", "Ġ", "ab", "<|endoftext|>"]


def writer():
    """A GPT-2 with a tokenizer: it writes letters."""
    vocabulary = {letter: index for index, letter in enumerate(LETTERS)}
    tokenizer = hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=["a b"])
    preprocessor = hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=8)
    return randomised(gpt2(preprocessor, vocabulary_size=len(LETTERS)), 0.3)


def test_texts_begin_and_end_as_for_the_tokenizer():
    policy = HubPolicy(writer(), max_new_tokens=3)
    assert policy.end_token_ids == [7] and policy.pad_token_id == 0
    assert policy.start_token_id == 7 and policy.num_start_tokens == 1
    np.testing.assert_array_equal(policy.tokenizer.encode("abc"), [6, 3])
    assert policy.tokenizer.decode(np.array([6, 3])) == "abc"
    assert policy.tokenizer.vocabulary_size == len(LETTERS)
    assert HubPolicy(writer(), end_token_id=4).end_token_ids == [4]
    policy.model.preprocessor.tokenizer.end_token2_id = 3
    assert HubPolicy(policy.model).end_token_ids == [7, 3]


def test_texts_in_and_out(tmp_path):
    seen = []

    def likes_c(prompts, completions):
        seen.extend(zip(prompts, completions, strict=True))
        return [text.count("c") for text in completions]

    model = writer()
    grpo = GRPO(model, likes_c, num_generations=4, max_new_tokens=3, seed=0)
    grpo.compile(keras.optimizers.Adam(3e-2))
    grpo.fit(["ab", "d"] * 40, batch_size=8, epochs=2, verbose=0)
    rewards = [text.count("c") for _, text in seen]
    assert np.mean(rewards[-128:]) > np.mean(rewards[:128]) + 0.3
    assert {prompt for prompt, _ in seen} == {"ab", "d"}
    assert all(set(text) <= set("!abcd ") for _, text in seen)

    grpo.save(tmp_path / "grpo.keras")
    loaded = keras.saving.load_model(tmp_path / "grpo.keras")
    actor = loaded.actor
    assert actor.end_token_ids == [7] and actor.start_token_id == 7
    assert loaded.tokenizer.decode([6, 3]) == "abc"
    loaded.policy.compile(sampler="greedy")
    text = loaded.policy.generate("ab", max_length=6)
    assert text.startswith("ab")


def test_full_passes_and_the_base_class_agree():
    """The way through `TokenPolicy` sees a network of ids."""
    policy = Uncached(made("llama"), max_new_tokens=2)
    decoder = policy._decoder(4)
    scored, _ = decoder.start(ops.convert_to_tensor(PROMPT), ops.convert_to_tensor(LENGTH))
    whole = logits(policy.model, PROMPT)
    np.testing.assert_allclose(array(scored), whole[np.arange(3), LENGTH - 1], atol=1e-5)


def test_published_layouts_are_used_where_they_divide():
    model = gemma()
    placed = placements(model, {"data": 2, "model": 2})
    found = {path: spec for path, (spec, why) in placed.items() if why == "KerasHub"}
    query, norm = (
        next(path for path in placed if path.endswith(end))
        for end in ("decoder_block_0/attention/query/kernel", "pre_attention_norm/scale")
    )
    assert found[query] == ("model", "data", None) and norm not in found
    assert "token_embedding/embeddings" in placed  # 13 tokens, which two devices don't divide
    assert "token_embedding/embeddings" not in found
    # 16 devices don't divide the heads: our own rules say the rest.
    assert placements(model, {"data": 2, "model": 16})[query].why != "KerasHub"


# Plans


def planned(algorithm, **options):
    """A function that makes and compiles an algorithm of a random Llama."""

    def make():
        model = algorithm(llama(), **options)
        model.compile("adamw")
        return model

    return make


@pytest.mark.parametrize("algorithm", [DPO, GRPO])
def test_a_plan_from_shapes_is_that_of_the_model(algorithm):
    """With a reference, a frozen copy, which has no weights either."""
    mask = np.ones(IDS.shape, "float32")
    mask[:, 0] = 0
    batch = {"chosen": IDS, "rejected": IDS, "chosen_mask": mask, "rejected_mask": mask}
    make = planned(DPO)
    if algorithm is GRPO:
        batch = {"prompt": IDS[:, :2]}
        make = planned(GRPO, reward_fn=sevens, max_new_tokens=2, beta=0.1)
    options = {"mesh": "2x1", "target": "tpu:v5e", "compile": False}
    shaped, real = planning.plan(make, batch, **options), planning.plan(make(), batch, **options)
    assert shaped.to_dict() == real.to_dict()
    assert shaped.parameters == 2 * shaped.trainable


# Reward models


@pytest.mark.parametrize("part", ["backbone", "model"])
def test_a_reward_stands_on_the_hidden_vector_of_the_last_token(part):
    """Of a backbone as of a model of language, which has the same one."""
    language = made("gpt2")
    backbone = language.backbone
    reward_model = RewardModel(backbone if part == "backbone" else language)
    kernel = np.linspace(-1, 1, 8)[:, None]
    reward_model.head.set_weights([kernel, np.array([0.5])])
    ids = np.array([[3, 4, 5], [6, 7, 8]])
    hidden = backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    wanted = ops.convert_to_numpy(hidden)[:, -1] @ kernel[:, 0] + 0.5
    np.testing.assert_allclose(reward_model.reward(ids), wanted, rtol=1e-5)
    reward_model.compile("adam")
    pairs = [{"prompt": [3], "chosen": [4, 5], "rejected": [6]}] * 2
    reward_model.fit(pairs, verbose=0)
    assert reward_model.reward([[3, 4, 5]])[0] != pytest.approx(wanted[0])
