"""Logits in chunks: every loss over a vocabulary and its gradients are those of all logits at once,
and take a fraction of the memory."""

import keras
import numpy as np
import pytest
from algorithms import ALGORITHMS, bigrams, network
from keras import ops
from one_program import in_one_program

import artifex_keras as ak
from artifex_keras.backend import ReadThroughScope, value_and_grad, values_of
from artifex_keras.models.autoregressive import chunks
from artifex_keras.rl.policies import policy_of
from artifex_keras.rl.rollout import Experience, Rollout

ROWS = {row.name: row for row in ALGORITHMS}
GIVEN = ["dpo", "kto", "distillation"]
SAMPLED = ["grpo", "ppo", "reinforce"]


def numpy(x):
    return ops.convert_to_numpy(x)


def differentiated(model, objective):
    """The terms of an objective and its gradients."""

    def loss():
        terms = {name: ops.mean(value) for name, value in objective().items()}
        return terms["loss"], terms

    variables = model.policy.trainable_variables
    _, terms, gradients = in_one_program(lambda: value_and_grad(loss, variables))
    return {name: float(value) for name, value in terms.items()}, list(map(numpy, gradients))


def rollout(rows=4, width=3):
    random = np.random.default_rng(0)
    ids = random.integers(3, 13, (rows, 6)).astype("int32")
    return Rollout(
        completion=ops.convert_to_tensor(ids[:, -width:]),
        log_probs=ops.convert_to_tensor(random.normal(-2.5, 0.1, (rows, width)).astype("float32")),
        mask=ops.ones((rows, width)),
        ended=ops.ones((rows,)),
        sequence=ops.convert_to_tensor(ids),
        start=ops.full((rows,), 6 - width, "int32"),
    )


def experience(model):
    made, ones = rollout(), ops.ones((4, 3))
    reference = None
    if model._has_reference:
        reference = model.actor.score(made, model.reference)._replace(features=None)
    advantages = ops.convert_to_tensor(np.float32([1, -1, 0.5, -0.5]))
    if isinstance(model, ak.PPO):
        advantages = advantages[:, None] * ones
    return Experience(made, advantages, reference, 0.1 * ones, 0.5 * ones)


def results(name, chunk_size):
    """What an algorithm makes of one batch, by a chunk size."""
    row = ROWS[name]
    more = {"temperature": 0.8} if name in SAMPLED else {}
    model = row.make(policy=network(), chunk_size=chunk_size, **more)
    if name in SAMPLED:
        return differentiated(model, lambda: model.terms(experience(model)))
    if name == "distillation":
        return differentiated(model, lambda: model.terms(rollout()))
    for weight in model.policy.trainable_variables:
        weight.assign(weight * 1.1)  # from its reference: else rounding decides who is ahead
    batch = model.unpack(row.data(4))
    return differentiated(model, lambda: model.objective(batch, True))


def alike(ours, theirs):
    assert ours[0].keys() == theirs[0].keys()
    for name in ours[0]:
        np.testing.assert_allclose(ours[0][name], theirs[0][name], atol=1e-6, rtol=1e-6)
    for a, b in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.quick(3)
@pytest.mark.seam
@pytest.mark.parametrize("name", [*GIVEN, *SAMPLED])
def test_chunks_change_neither_terms_nor_gradients(name):
    alike(results(name, 8), results(name, None))


@pytest.mark.seam
def test_an_autoregressive_is_the_same_in_chunks():
    tokens = np.random.default_rng(0).integers(1, 13, (4, 8)).astype("int32")
    weights = np.float32(np.arange(32).reshape(4, 8) % 3)

    def all_of(chunk_size):
        options = {"label_smoothing": 0.1, "z_loss": 0.01, "scheduled_sampling": "linear"}
        options |= {"scheduled_sampling_steps": 1, "start_token_id": 0, "seed": 0}
        model = ak.Autoregressive(network(), chunk_size=chunk_size, **options)
        model.policy = model.network
        model.step.assign(1)  # all inputs are drawn
        batch = model.unpack((tokens, None, weights))
        terms, gradients = differentiated(model, lambda: model.objective(batch, True))
        terms["nats"] = model.perplexity(tokens, sample_weight=weights, batch_size=3)
        return terms, [*gradients, numpy(model.log_prob(tokens))]

    alike(all_of(6), all_of(None))


class Logits(keras.Model):
    """Ids to logits in one piece."""

    def build(self, shape):
        self.table = self.add_weight(shape=(13, 13), name="table")
        self.built = True

    def call(self, ids):
        return ops.take(self.table, ids, axis=0)


def test_a_policy_of_logits_alone_is_computed_whole():
    policy = Logits()
    policy.build((None, 4))
    for name in ("dpo", "grpo"):
        options = {"loss_type": "simpo"} if name == "dpo" else {"beta": 0.0}
        with pytest.raises(ValueError, match="gives logits alone"):
            ROWS[name].make(policy=policy, chunk_size=4, **options)
        assert ROWS[name].make(policy=policy, **options).chunk_size == "auto"
    with pytest.raises(ValueError, match="gives logits alone"):
        ak.Autoregressive(policy, chunk_size=4).build((None, 4))
    with pytest.raises(ValueError, match="`chunk_size` must be"):
        ak.Autoregressive(policy, chunk_size="all")
    with pytest.raises(ValueError, match="for policies of tokens"):
        diffusion = ak.Diffusion(ak.networks.timed_mlp(2, (4,)), num_timesteps=50)
        diffusion.build((None, 2))
        ak.GRPO(diffusion, lambda prompts, samples: [0.0] * len(samples), chunk_size=4)


def test_a_last_layer_that_sees_several_places_is_no_head():
    """The logits of a convolution depend on what was before: scores are those of the network."""
    keras.utils.set_random_seed(0)
    entry = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(13, 8, "random_normal")(entry)
    policy = keras.Model(entry, keras.layers.Conv1D(13, 3, padding="causal")(hidden))
    actor, made = policy_of(policy, max_new_tokens=3), rollout()
    ids = numpy(made.sequence)
    log_p = numpy(ops.log_softmax(policy(ids[:, :-1])))
    expected = np.take_along_axis(log_p, ids[:, 1:, None], -1)[:, 2:, 0]
    np.testing.assert_allclose(numpy(actor.score(made).log_probs), expected, atol=1e-6)
    assert actor.feature_width is None and policy_of(bigrams()).feature_width == 8


def test_the_chunk_size_is_kept_and_may_be_set(tmp_path):
    model = ROWS["dpo"].make(chunk_size=16)
    model.chunk_size = 8
    assert model.actor.chunk_size == 8
    model.save(tmp_path / "dpo.keras")
    assert keras.saving.load_model(tmp_path / "dpo.keras").actor.chunk_size == 8


def temporaries(name, chunk_size, vocabulary_size, rows, length, width=8):
    """XLA's own figure, in bytes, of the update of an algorithm with rows of this length."""
    import jax

    policy = ak.networks.CausalTransformer(
        vocabulary_size, length + 1, num_layers=1, num_heads=2, width=width
    )
    options = {"chunk_size": chunk_size, "seed": 0}
    ones, ids = np.ones((rows, length), "float32"), np.ones((rows, length), "int32")
    if name == "sft":
        model, data = ak.SFT(policy, **options), {"tokens": ids, "mask": ones}
    elif name == "dpo":
        model = ak.DPO(policy, **options)
        mask = ones.copy()
        mask[:, 0] = 0
        half = slice(0, rows // 2)
        data = {
            f"{side}{kind}": value[half]
            for side in ("chosen", "rejected")
            for kind, value in (("", ids), ("_mask", mask))
        }
    else:
        model = ak.GRPO(policy, lambda prompts, completions: [0.0], max_new_tokens=length - 1,
                        beta=0.1, **options)  # fmt: skip
        data = Rollout(ids[:, 1:], -ones[:, 1:], ones[:, 1:], ones[:, 0], ids, 0 * ids[:, 0] + 1)

    def objective(data):
        if name == "grpo":
            reference = model.actor.score(data, model.reference)
            given = Experience(data, ops.ones((rows,)), reference._replace(features=None))
            return model.terms(given)["loss"]
        return ops.mean(model.objective(model.unpack(data), True)["loss"])

    variables = model.policy.trainable_variables

    def step(values, data):
        with ReadThroughScope(zip(variables, values, strict=True)):
            return value_and_grad(lambda: (objective(data), None), variables)[2]

    compiled = jax.jit(step).lower(values_of(variables), data).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.backends("jax")
@pytest.mark.parametrize("name", ["sft", "dpo", "grpo"])
def test_chunks_take_a_fraction_of_the_memory(name):
    whole, chunked = (temporaries(name, size, 8192, 8, 64) for size in (None, 32))
    assert whole > 4 * 8 * 63 * 8192 > 5 * chunked


@pytest.mark.backends("jax")
def test_a_symbol_in_place_of_a_number_of_rows_counts_for_32():
    """An export leaves the rows open, and no comparison can be made with them."""
    from jax import export

    (rows,) = export.symbolic_shape("rows")
    assert chunks.chunk_of("auto", rows, 8, 4) is None
    assert chunks.chunk_of("auto", rows, 16, 2**17) == 128
    assert chunks.chunk_of("auto", 4, rows, 2**17) is None
