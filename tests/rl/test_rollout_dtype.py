"""Rollouts in another dtype than training: which weights are cast, and for how long."""

import keras
import numpy as np
import pytest
from keras import ops
from one_program import in_one_program

import artifex_keras as ak
from artifex_keras.backend import ReadThroughScope
from artifex_keras.rl import rollout_weights
from artifex_keras.rl.policies import policy_of

CAST = "float32" if keras.backend.backend() == "tensorflow" else "bfloat16"  # and rounded

PROMPTS = np.array([[1, 2, 3], [4, 5, 6]])


def sevens(prompts, completions):
    return [completion.count(7) for completion in completions]


def network():
    keras.utils.set_random_seed(0)
    return ak.networks.CausalTransformer(12, 16, num_layers=1, num_heads=2, width=8)


def algorithm(policy, **options):
    return ak.GRPO(policy, sevens, max_new_tokens=4, num_generations=3, seed=1, **options)


def completions(model):
    return [row["completion"] for row in model.table(PROMPTS, count=6, seed=2)]


def dtypes(model, dtype="bfloat16"):
    """The dtypes in which a policy's weights are read during a rollout, by name."""
    policy, found = policy_of(model, max_new_tokens=2), {}

    def look(prompts):
        values = {v.path: v.value for v in model.variables}
        found.update({p: keras.backend.standardize_dtype(v.dtype) for p, v in values.items()})
        return prompts

    in_one_program(lambda: rollout_weights.sample(look, {"x": ops.zeros((2,))}, policy, dtype))
    return found


def test_completions_are_those_of_rounded_weights():
    rounded = network()
    for weight in rounded.weights:
        weight.assign(ops.cast(ops.cast(weight.value, "bfloat16"), "float32"))
    exact = completions(algorithm(network()))
    found = completions(algorithm(network(), rollout_dtype="bfloat16"))
    assert found == completions(algorithm(rounded))
    assert len(exact) == len(found) == 6


def test_the_step_learns_with_its_own_weights():
    model = algorithm(network(), rollout_dtype="bfloat16", importance_cap=2.0)
    model.compile(keras.optimizers.SGD(0.0))
    before = model.policy.get_weights()
    with pytest.warns(UserWarning, match="learning rate"):
        logs = model.fit(PROMPTS, batch_size=2, verbose=0).history
    assert all(
        np.array_equal(a, b) for a, b in zip(before, model.policy.get_weights(), strict=True)
    )
    assert logs["importance_weight"][0] != 1.0  # the completions are of rounded weights
    np.testing.assert_allclose(logs["importance_weight"][0], 1.0, atol=0.05)


def test_floating_weights_are_cast_and_others_are_not():
    assert set(dtypes(network()).values()) == {CAST}
    assert set(dtypes(network(), None).values()) == {"float32"}


def test_quantised_layers_keep_theirs():
    model = network()
    block = model.blocks[0]
    block.up.quantize("int8")
    found = dtypes(model)
    own = {v.path: keras.backend.standardize_dtype(v.dtype) for v in block.up.variables}
    assert {path: found[path] for path in own} == own and "int8" in own.values()
    assert found[block.down.kernel.path] == CAST


def test_a_scope_keeps_dtypes_where_it_shall():
    variable = keras.Variable(np.ones(2, "float32"))
    half = ops.ones((2,), "bfloat16")
    for keep, expected in ((True, "bfloat16"), (False, "float32")):
        with ReadThroughScope([(variable, half)], keep_dtypes=keep):
            assert keras.backend.standardize_dtype(variable.value.dtype) == expected


def test_a_dtype_that_there_is_not():
    with pytest.raises(ValueError, match="bfloat16"):
        algorithm(network(), rollout_dtype="bfloat")
