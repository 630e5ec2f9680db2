"""Policies of tokens: what they sample, how likely they say it is, and what stands where."""

import functools

import keras
import numpy as np
import pytest
from algorithms import bigrams, network
from keras import ops

from artifex_keras.models import Autoregressive
from artifex_keras.rl import GRPO, PPO
from artifex_keras.rl.policies import policy_of
from artifex_keras.rl.policies.base import frozen_copy
from artifex_keras.rl.policies.tokens import joined

PROMPTS = np.array([[3, 4, 5, 6], [7, 0, 0, 0], [8, 9, 1, 0]], "int32")
LENGTHS = np.array([4, 1, 3], "int32")  # an end token in a prompt, too
UNIFORMS = np.float32(np.random.default_rng(0).uniform(size=(6, 5)))


class Fed:
    """Noise that is given."""

    def __init__(self, uniforms=UNIFORMS):
        self.uniforms = uniforms

    def uniform(self, shape):
        assert tuple(shape) == self.uniforms.shape
        return ops.convert_to_tensor(self.uniforms)


def functional(width=None):
    """The mean of all ids up to each place: a network of the whole row, without a cache."""
    keras.utils.set_random_seed(1)
    entry = keras.Input((width,), dtype="int32")
    x = keras.layers.Embedding(13, 8, "random_normal")(entry)
    x = keras.layers.GRU(8, return_sequences=True)(ops.multiply(x, 20.0))
    return keras.Model(entry, keras.layers.Dense(13, kernel_initializer="random_normal")(x * 20))


POLICIES = {
    "transformer": network,
    "learned places": lambda: network(positions="learned", norm="layer"),
    "untied": lambda: network(tied_embeddings=False, num_kv_heads=1, activation="swiglu"),
    "dropout": lambda: network(dropout=0.5),
    "start token": lambda: Autoregressive(network(), start_token_id=0),
    "functional": functional,
    "fixed width": lambda: functional(12),
}


def made_by(model, group_size=2, prompts=PROMPTS, lengths=LENGTHS, uniforms=UNIFORMS, **options):
    """`(policy, rollout)`, the latter as NumPy arrays."""
    options = {"max_new_tokens": 5, "end_token_id": [1, 2], "pad_token_id": 0, **options}
    actor = policy_of(model, **options)
    x = {"prompt": ops.convert_to_tensor(prompts), "prompt_length": ops.convert_to_tensor(lengths)}
    made = actor.rollout(actor.unpack(x), group_size, Fed(uniforms))
    return actor, arrays(made)


@functools.cache
def rollout_of(name):
    """`(policy, rollout)` of a row of `POLICIES`, once: tests only look at it."""
    return made_by(POLICIES[name]())


def arrays(values):
    """A tuple of tensors as NumPy arrays."""
    return keras.tree.map_structure(ops.convert_to_numpy, values, none_is_leaf=False)


def scored_by(actor, made, **options):
    """The scores of a rollout, as NumPy arrays."""
    made = keras.tree.map_structure(ops.convert_to_tensor, made, none_is_leaf=False)
    scores = actor.score(made, **options)
    return arrays(scores)


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("name", "temperature"), [*((name, 0.6) for name in POLICIES), ("transformer", 1.0)]
)
def test_what_was_sampled_is_as_likely_as_it_is_scored(name, temperature):
    """At 0.6, where a temperature that one of the two forgets shows; at 1 on one policy."""
    actor, made = made_by(POLICIES[name](), temperature=temperature)
    scores = scored_by(actor, made, entropy=True)
    counted, scored = made.mask > 0, scores.log_probs
    np.testing.assert_allclose(scored[counted], made.log_probs[counted], atol=1e-4)
    assert 6 < counted.sum() < counted.size  # some ended, none at once
    assert scores.log_probs.shape == scores.entropy.shape == (6, 5)


@pytest.mark.parametrize("name", ["transformer", "functional", "start token"])
def test_each_token_is_drawn_from_the_network_by_its_own_uniform(name):
    """Row by row and token by token, without any of the machinery.

    The network sees whole rows: what comes later changes no logits, as `test_transformer` shows.
    """
    actor, made = rollout_of(name)
    all_logits = ops.convert_to_numpy(actor.network(made.sequence, training=False))
    for row in range(6):
        prompt = PROMPTS[row // 2, : LENGTHS[row // 2]].tolist()
        ids = ([0] if name == "start token" else []) + prompt
        for t in range(5):
            logits = all_logits[row, len(ids) - 1]
            p = np.exp(np.float64(logits - logits.max()))
            p /= p.sum()
            token = int(np.searchsorted(np.cumsum(p), UNIFORMS[row, t]))
            assert made.completion[row, t] == token
            assert made.log_probs[row, t] == pytest.approx(np.log(p[token]), abs=1e-4)
            ids.append(token)
            if token in (1, 2):
                break
        assert made.sequence[row, : len(ids)].tolist() == ids
        assert set(made.sequence[row, len(ids) :]) <= {0}
        assert made.mask[row].tolist() == [1.0] * (t + 1) + [0.0] * (4 - t)
        assert made.ended[row] == (made.completion[row, t] in (1, 2))
        assert set(made.completion[row, t + 1 :]) <= {0}
        assert set(made.log_probs[row, t + 1 :]) <= {0.0}


@pytest.mark.parametrize("name", ["transformer", "functional"])
def test_what_pads_a_prompt_changes_nothing(name):
    _, made = rollout_of(name)
    wide = np.pad(PROMPTS, [(0, 0), (0, 3)], constant_values=11)
    wide = np.where(np.arange(7) < LENGTHS[:, None], wide, 12).astype("int32")
    _, again = made_by(POLICIES[name](), prompts=wide)
    np.testing.assert_array_equal(made.completion, again.completion)
    np.testing.assert_allclose(made.log_probs, again.log_probs, atol=1e-5)
    np.testing.assert_array_equal(made.sequence, again.sequence[:, :9])


def test_the_padding_may_be_an_end_token():
    _, made = rollout_of("transformer")  # padded by 0
    actor, same = made_by(network(), pad_token_id=1)
    np.testing.assert_array_equal(made.mask, same.mask)
    np.testing.assert_array_equal(made.ended, same.ended)
    counted = made.mask > 0
    np.testing.assert_array_equal(made.completion[counted], same.completion[counted])
    assert set(same.completion[~counted]) == {1}
    scored = scored_by(actor, same).log_probs
    np.testing.assert_allclose(scored[counted], same.log_probs[counted], atol=1e-4)


def test_without_an_end_token_all_tokens_count_and_none_is_cut_off():
    _, made = made_by(network(), end_token_id=None)
    assert made.mask.min() == 1 and made.ended.min() == 1


def test_the_padding_of_an_array_is_taken_off_where_it_is_named():
    x = ops.convert_to_tensor(PROMPTS)
    given = policy_of(network(), max_new_tokens=2, pad_token_id=0).unpack(x)
    assert ops.convert_to_numpy(given["prompt_length"]).tolist() == [4, 1, 3]
    whole = policy_of(network(), max_new_tokens=2).unpack(x)
    assert ops.convert_to_numpy(whole["prompt_length"]).tolist() == [4, 4, 4]
    nothing = policy_of(network(), max_new_tokens=2, pad_token_id=3).unpack(ops.full((1, 4), 3))
    assert ops.convert_to_numpy(nothing["prompt_length"]).tolist() == [1]


def test_joined_rows_have_no_gap():
    rows = joined(
        *map(ops.convert_to_tensor, ([[3, 4, 0], [5, 0, 0]], [2, 1], [[6, 7], [8, 9]])), pad=12
    )
    expected = [[3, 4, 6, 7, 12], [5, 8, 9, 12, 12]]
    np.testing.assert_array_equal(ops.convert_to_numpy(rows), expected)


def test_half_precision_scores_nearly_what_it_sampled():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = network()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    actor, made = made_by(model)
    counted = made.mask > 0
    scored = scored_by(actor, made).log_probs
    assert made.log_probs.dtype == np.float32
    np.testing.assert_allclose(scored[counted], made.log_probs[counted], atol=0.05)


def test_scores_of_whole_rows_are_those_of_rollouts():
    for name in ("transformer", "start token", "fixed width"):
        actor, made = rollout_of(name)
        sequence = made.sequence[:, 1:] if name == "start token" else made.sequence
        rows = ops.convert_to_numpy(actor.sequence_log_probs(ops.convert_to_tensor(sequence)))
        scored = scored_by(actor, made).log_probs
        for row in range(6):
            start = made.start[row] - 1
            count = int(made.mask[row].sum())
            np.testing.assert_allclose(
                rows[row, start : start + count], scored[row, :count], atol=1e-5
            )


# Without a cache


def test_that_there_is_no_cache_is_said_once(caplog):
    model = GRPO(functional(), lambda prompts, completions: [0.0] * len(prompts),
                 max_new_tokens=2, num_generations=2)  # fmt: skip
    model.compile("sgd")
    with caplog.at_level("WARNING", "artifex_keras"):
        for _ in range(2):
            model.fit(PROMPTS, batch_size=3, verbose=0)
        model.evaluate(PROMPTS, batch_size=3, verbose=0)
    assert [r.message.split(" has no ")[1].split(":")[0] for r in caplog.records] == [
        "key-value cache"
    ]


@pytest.mark.quick(1)
@pytest.mark.parametrize("width", [None, 12])
def test_a_functional_network_learns_in_rows_of_its_width(width):
    model = PPO(
        functional(width),
        lambda prompts, completions: [float(len(row)) for row in completions],
        max_new_tokens=5,
        end_token_id=1,
        num_generations=2,
        num_epochs=1,
        seed=0,
    )
    model.compile("sgd")
    x = {"prompt": PROMPTS, "prompt_length": LENGTHS}
    history = model.fit(x, batch_size=3, verbose=0).history
    assert history["approx_kl"][0] < 1e-6 and abs(history["kl"][0]) < 1e-6
    long = np.full((3, 9), 3, "int32")  # with 5 more, of which the last is not looked at, 13
    if width is None:
        model.fit(long, batch_size=3, verbose=0)
        return
    model.fit(long[:, :8], batch_size=3, verbose=0)
    with pytest.raises(ValueError, match="context of 12 tokens"):
        model.fit(long, batch_size=3, verbose=0)


def test_hidden_vectors_are_those_before_the_logits():
    for name, width in (("transformer", 16), ("functional", 8), ("start token", 16)):
        actor, made = rollout_of(name)
        assert actor.feature_width == width
        ids = actor.inputs(ops.convert_to_tensor(made.sequence))
        features = actor.features(ids)
        assert features.shape[-1] == width
        both = actor.head(features), actor.network(ids, training=False)
        np.testing.assert_allclose(*map(ops.convert_to_numpy, both), atol=1e-5)
    entry = keras.Input((None,), dtype="int32")
    alone = keras.Model(entry, keras.layers.Embedding(13, 13)(entry))
    assert policy_of(alone).feature_width is None


# Copies


def test_a_copy_is_frozen_and_shares_nothing():
    for make in (network, functional, lambda: Autoregressive(network(), start_token_id=0)):
        model = make()
        copy = frozen_copy(model)
        assert copy.trainable_variables == []
        assert not {id(v) for v in copy.variables} & {id(v) for v in model.variables}
        before = copy.get_weights()
        for weight in model.trainable_weights:
            weight.assign(weight + 1.0)
        for old, new in zip(before, copy.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_the_copy_of_a_trained_model_has_no_optimizer():
    model = Autoregressive(network(), seed=0)
    model.compile("adam")
    model.fit(np.full((4, 6), 3, "int32"), verbose=0)
    assert not getattr(frozen_copy(model), "compiled", False)


def test_training_starts_from_the_average_and_is_seen_in_what_is_sampled():
    model = Autoregressive(network(), start_token_id=0, ema_decay=0.9, seed=0)
    model.compile(keras.optimizers.Adam(0.05))
    model.fit(np.full((8, 6), 3, "int32"), batch_size=4, verbose=0)
    average = [ops.convert_to_numpy(v) for v in model._average]
    assert np.any(average[0] != ops.convert_to_numpy(model._averaged[0]))
    actor = policy_of(model, max_new_tokens=2)
    for mean, weight in zip(average, actor.network.get_weights(), strict=True):
        np.testing.assert_array_equal(mean, weight)
    assert int(model.average_updates) == 0


class Odd(keras.Model):
    """A network that Keras can't make again."""

    def __init__(self, size):
        super().__init__()
        self.table = keras.layers.Embedding(size, size)
        self.table.build()
        self.built = True

    def call(self, ids):
        return self.table(ids)

    def get_config(self):
        raise NotImplementedError


def test_what_cannot_be_copied_is_told():
    common = {"max_new_tokens": 2, "reward_fn": lambda prompts, completions: [0.0] * len(prompts)}
    with pytest.raises(ValueError, match="An? Odd can't be copied for a reference"):
        GRPO(Odd(13), beta=0.1, **common)
    GRPO(Odd(13), **common)
    GRPO(Odd(13), beta=0.1, reference=Odd(13), **common)


@pytest.mark.parametrize(
    ("message", "model", "options"),
    [
        ("`policy` must be a keras.Model", "gpt2", {}),
        ("option of a TokenPolicy.*max_new_tokens", bigrams, {"max_new_token": 3}),
        ("`end_token_id` must be below", bigrams, {"end_token_id": [1, 13]}),
        ("`end_token_id` must be an integer of at least 0", bigrams, {"end_token_id": -1}),
        ("`pad_token_id` must be below", bigrams, {"pad_token_id": 13}),
        ("`temperature` must be greater than 0", bigrams, {"temperature": 0}),
    ],
)
def test_bad_arguments_are_refused(message, model, options):
    with pytest.raises(ValueError, match=message):
        policy_of(model() if callable(model) else model, **options)
