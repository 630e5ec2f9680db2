"""LoRA that is enabled after an algorithm was made: it is saved, and it alone is trained."""

import keras
import numpy as np
import pytest
from algorithms import ALGORITHMS, bigrams, network
from keras import layers, ops

import artifex_keras as ak

ROWS = {row.name: row for row in ALGORITHMS}
ROWS["transformer"] = ROWS["dpo"]


def enable_lora(model, rank=2):
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Dense | layers.Embedding) and layer.weights:
            layer.enable_lora(rank)


def compiled(model):
    model.compile(keras.optimizers.Adam(1e-2))
    return model


def saved(model, tmp_path):
    model.save(tmp_path / "m.keras")
    return keras.models.load_model(tmp_path / "m.keras")


def values(model):
    return [ops.convert_to_numpy(v) for v in (*model.weights, *model.optimizer.variables)]


def assert_same(loaded, model, rtol=0.0):
    for a, b in zip(values(loaded), values(model), strict=True):
        np.testing.assert_allclose(a, b, rtol, atol=rtol)
    ours, theirs = ([v.name for v in m.trainable_variables] for m in (loaded, model))
    assert ours == theirs


def moved(model):
    """Gives factors and slots values as of a training."""
    model.follow_networks()  # as `fit` does
    model.build_optimizer()
    random = np.random.default_rng(0)
    for v in (*model.trainable_variables, *model.optimizer.variables):
        if "learning_rate" not in v.path:
            v.assign(ops.cast(random.uniform(1, 2, v.shape), v.dtype))


@pytest.mark.parametrize("when", ["before compile", "after compile", "after fit"])
@pytest.mark.parametrize("name", ["dpo", "kto", "grpo", "ppo", "reinforce", "transformer"])
def test_the_saved_file_goes_on(name, when, tmp_path):
    model = ROWS[name].make(policy=network() if name == "transformer" else bigrams())
    if when == "after fit":
        moved(compiled(model))
    if when == "after compile":
        compiled(model)
    enable_lora(model.policy)
    if when != "after compile":
        compiled(model)
    moved(model)
    loaded = saved(model, tmp_path)
    assert_same(loaded, model)
    own = [v.name for v in model.policy.trainable_variables]
    assert "bias" not in own and sum(name.startswith("lora_") for name in own) >= 4
    if getattr(model, "ema_decay", None):
        assert len(model._average) == len(loaded._average) == len(model.policy.weights)


def test_training_is_that_of_a_model_that_was_not_saved(tmp_path):
    row = ROWS["kto"]
    model = compiled(row.make())
    model.fit(*row.arrays(8), batch_size=8, verbose=0)
    enable_lora(model.policy)
    with pytest.raises(ValueError, match="Call `compile` again"):
        model.fit(*row.arrays(8), batch_size=8, verbose=0)
    before = [ops.convert_to_numpy(w) for w in model.policy.non_trainable_variables]
    compiled(model).fit(*row.arrays(8), batch_size=8, verbose=0)
    loaded = saved(model, tmp_path)
    for each in (model, loaded):
        each.fit(*row.arrays(8), batch_size=8, verbose=0)
    assert_same(loaded, model, 1e-5)
    assert int(loaded.optimizer.iterations) == 2
    for weight, value in zip(model.policy.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)


def test_biases_train_for_who_asks(tmp_path):
    model = ROWS["dpo"].make()
    enable_lora(model.policy)
    compiled(model)
    bias = model.policy.get_layer("bigrams_out").bias
    assert not bias.trainable
    bias.trainable = True
    compiled(model)
    assert bias.trainable and len(model.trainable_variables) == 5
    moved(model)
    assert_same(saved(model, tmp_path), model)
    assert len(ROWS["dpo"].make(policy=model.policy).trainable_variables) == 5


def test_a_critic_with_lora(tmp_path):
    critic = bigrams(3)
    critic = keras.Model(critic.input, layers.Dense(1, name="critic")(critic.output))
    model = compiled(ROWS["ppo"].make(value=critic))
    enable_lora(model.policy)
    enable_lora(critic)
    moved(model)
    assert_same(saved(model, tmp_path), model)


@pytest.mark.quick(1)
@pytest.mark.parametrize("policy", [bigrams, network])
@pytest.mark.parametrize("first", [False, True])
def test_a_quantised_policy(policy, first, tmp_path):
    policy = policy()
    if first:
        policy.quantize("int8")
        enable_lora(policy)
    model = ROWS["dpo"].make(policy=policy, ema_decay=0.9)
    if not first:
        policy.quantize("int8")
        enable_lora(policy)
    moved(compiled(model))
    assert_same(saved(model, tmp_path), model)


def test_a_family_whose_network_gets_lora(tmp_path):
    model = compiled(ak.Autoregressive(network(), ema_decay=0.9))
    model.build_optimizer()
    enable_lora(model.network)
    moved(compiled(model))
    loaded = saved(model, tmp_path)
    assert_same(loaded, model)
    tokens = np.random.default_rng(1).integers(0, 13, (4, 6)).astype("int32")
    for each in (model, loaded):
        each.fit(tokens, batch_size=4, verbose=0)
    assert_same(loaded, model, 1e-5)


def test_weights_of_before_load_into_a_policy_with_lora(tmp_path):
    model, other = (ROWS["dpo"].make() for _ in range(2))
    model.save_weights(tmp_path / "m.weights.h5")
    enable_lora(other.policy)
    other.load_weights(tmp_path / "m.weights.h5")
    ids = np.array([[3, 4, 5]])
    np.testing.assert_array_equal(
        ops.convert_to_numpy(other.policy(ids)), ops.convert_to_numpy(model.policy(ids))
    )


def test_lora_off_needs_no_frozen_biases():
    policy = bigrams()
    enable_lora(policy)
    assert ROWS["dpo"].make(policy=policy, reference="lora_off").reference == "lora_off"
