"""What people type first: each answer names the rule, what came, and the way out."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras import DPO, GRPO, REINFORCE, Autoregressive, RewardModel
from artifex_keras.networks import CausalTransformer
from artifex_keras.rl.asking import Reading


def policy(**options):
    keras.utils.set_random_seed(0)
    network = CausalTransformer(4, 8, num_layers=1, num_heads=2, width=8)
    model = Autoregressive(network, **options)
    model.build((None, 6))
    return model


def count(prompts, completions):
    return [float(sum(row)) for row in completions]


@pytest.fixture(scope="module")
def grpo():
    model = GRPO(policy(), count, max_new_tokens=3, num_generations=2, seed=0)
    model.compile("adam")
    return model


def test_predict_gives_what_the_policy_gives(grpo):
    """It used to say that there are no weights within a step of `fit`."""
    tokens = np.array([[1, 2, 3, 0], [3, 2, 1, 0]])
    expected = ops.convert_to_numpy(grpo.policy(tokens))
    np.testing.assert_allclose(grpo.predict(tokens, verbose=0), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(grpo(tokens)), expected, rtol=1e-5, atol=1e-6)
    network = REINFORCE(policy().network, count, max_new_tokens=3)
    network.compile("adam")
    np.testing.assert_allclose(network.predict(tokens, verbose=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("texts", [["one", "two"], np.array(["one", "two"]), "one"])
def test_predict_says_what_takes_texts(grpo, texts):
    ways = {
        "`.policy.generate` completes them": grpo,
        r"rewards are `reward\(texts\)`": RewardModel(policy().network),
        "A tokenizer makes ids": grpo.policy,
    }
    for way, model in ways.items():
        with pytest.raises(ValueError, match=f"`predict` takes numbers. Received: texts.*{way}"):
            model.predict(texts)
    with pytest.raises(ValueError, match="`evaluate` takes numbers. Received: texts"):
        grpo.policy.evaluate(texts)


@pytest.mark.parametrize("name", ["generate", "sample"])
def test_the_policy_is_what_samples(grpo, name):
    with pytest.raises(AttributeError, match=rf"`.policy.{name}\(...\)`"):
        getattr(grpo, name)(2)
    assert not hasattr(grpo, name)  # callbacks ask
    with pytest.raises(AttributeError, match="no_such_thing"):
        grpo.no_such_thing  # noqa: B018


def test_a_reward_that_takes_lists_for_arrays():
    reading = Reading([[1], [2]], [[1, 2], [3]])
    for name in ("sum", "shape", "lower"):
        with pytest.raises(AttributeError, match=rf"are lists.*asks the list for `{name}`"):
            getattr(reading.completions, name)
    assert np.stack(Reading([], [[1, 2], [3, 4]]).completions).sum() == 10


def test_fit_without_prompts(grpo):
    with pytest.raises(ValueError, match="needs data to learn from"):
        grpo.fit(epochs=1)


def rows(zeros):
    """Preferences as arrays whose rows end with the token 0, or with 1 in its place."""
    end = 0 if zeros else 1
    prompt = np.array([[2, end], [3, end]])
    return {
        "prompt": prompt,
        "chosen": np.array([[1, 2, end], [3, 3, end]]),
        "rejected": np.array([[3, 1, end], [1, 2, end]]),
    }


def test_zeros_of_arrays_are_tokens_unless_they_pad():
    """They were taken off the ends of rows though nobody had said that 0 pads."""
    for zeros in (True, False):
        arrays = DPO(policy()).as_arrays(rows(zeros))
        assert ops.convert_to_numpy(arrays["chosen_mask"]).sum(1).tolist() == [3, 3]
        end = int(not zeros)
        chosen = ops.convert_to_numpy(arrays["chosen"])
        assert chosen[0, :5].tolist() == [2, end, 1, 2, end]
    for padded in (DPO(policy(), pad_token_id=0), DPO(policy(pad_token_id=0))):
        arrays = padded.as_arrays(rows(True))
        assert ops.convert_to_numpy(arrays["chosen_mask"]).sum(1).tolist() == [2, 2]
        assert ops.convert_to_numpy(arrays["chosen"])[0, :3].tolist() == [2, 1, 2]


def test_answers_without_their_mask():
    dpo = DPO(policy())
    dpo.compile("adam")
    ids = np.ones((2, 4), "int32")
    with pytest.raises(ValueError, match="needs the column 'chosen_mask' beside.*'prompt'"):
        dpo.fit({"chosen": ids, "rejected": ids}, verbose=0)
    with pytest.raises(ValueError, match="or rows with these and a 'prompt'. Received: ndarray"):
        dpo.fit(ids, verbose=0)


@pytest.mark.parametrize("typed", ["group_size", "num_samples"])
def test_names_of_other_libraries(typed):
    with pytest.raises(TypeError, match="Did you mean 'num_generations'"):
        GRPO(policy(), count, max_new_tokens=3, **{typed: 4})
