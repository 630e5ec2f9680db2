"""KerasHub's models under rollouts with a layout of their own: the numbers of one device."""

import contextlib

import keras
import numpy as np
import pytest

import artifex_keras as ak

hub = pytest.importorskip("keras_hub")
pytestmark = pytest.mark.backends("jax")

SMALL = {"vocabulary_size": 13, "num_layers": 2, "intermediate_dim": 16, "hidden_dim": 8}


def gpt2():
    backbone = hub.models.GPT2Backbone(**SMALL, num_heads=2, max_sequence_length=16)
    return hub.models.GPT2CausalLM(backbone, None)


def gemma():
    heads = {"num_query_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    return hub.models.GemmaCausalLM(hub.models.GemmaBackbone(**SMALL, **heads))


def sevens(prompts, completions):
    return [sum(token % 7 == 1 for token in completion) for completion in completions]


PROMPTS = np.random.default_rng(0).integers(0, 12, (8, 4)).astype("int32")
NOTHING = contextlib.nullcontext()


def trained(make, mesh=None, rollout_mesh=None):
    over = ak.distributed.model_parallel
    with over(mesh, rollout_mesh=rollout_mesh, min_bytes=0).scope() if mesh else NOTHING:
        keras.utils.set_random_seed(0)
        options = {"max_new_tokens": 5, "num_generations": 4, "end_token_id": 12, "seed": 1}
        model = ak.GRPO(make(), sevens, **options)
        model.compile("adam")
        model.fit(PROMPTS, batch_size=8, shuffle=False, verbose=0)
        values = model.evaluate(PROMPTS, batch_size=8, verbose=0, return_dict=True)
        return values, model.policy.get_weights()


@pytest.mark.parametrize(
    ("make", "mesh", "rollout_mesh"), [(gpt2, (8,), (2, 4)), (gemma, (2, 4), (8,))]
)
def test_a_preset_learns_as_on_one_device(make, mesh, rollout_mesh):
    values, weights = trained(make, mesh, rollout_mesh)
    expected, others = trained(make)
    assert values == pytest.approx(expected, rel=1e-5)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
