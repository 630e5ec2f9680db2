"""Policies of denoising steps: what they sample is what they score, whatever trains them."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import compiled
from artifex_keras.models import Diffusion, FlowMatching
from artifex_keras.models.base import GenerativeModel
from artifex_keras.networks import timed_mlp
from artifex_keras.rl import GRPO, REINFORCE, traceable
from artifex_keras.rl.policies import policy_of
from artifex_keras.rl.policies.denoising import DiffusionPolicy, FlowPolicy


def numpy(x):
    return ops.convert_to_numpy(x)


def randomised(model, scale=0.3):
    """The model with weights that aren't those of a fresh network, whose answer is 0."""
    rng = np.random.default_rng(5)
    for w in model.network.weights:
        w.assign(scale * rng.standard_normal(w.shape))
    return model


def diffusion(**options):
    network = timed_mlp((2,), (16,), num_classes=options.pop("num_classes", None))
    plain = {"noise_schedule": "linear", "prediction_type": "v_prediction", "ema_decay": None}
    options = plain | {"seed": 0} | options
    return randomised(Diffusion(network, **options))


def edm(**options):
    network = timed_mlp((2,), (16,), time_scale=100)
    return randomised(Diffusion(network, noise_schedule="edm", ema_decay=None, seed=0, **options))


def flow(**options):
    network = timed_mlp(
        (2,), (16,), time_scale=1000, condition_dim=options.pop("condition_dim", None)
    )
    return randomised(FlowMatching(network, seed=0, **options))


POLICIES = {
    "ddim": lambda: DiffusionPolicy(diffusion(), num_steps=8),
    "eta": lambda: DiffusionPolicy(diffusion(noise_schedule="cosine"), num_steps=8, eta=0.5),
    "edm": lambda: DiffusionPolicy(edm(), num_steps=8),
    "flow": lambda: FlowPolicy(flow(), num_steps=8),
    "trigonometric": lambda: FlowPolicy(flow(path="trigonometric"), num_steps=8, noise_level=0.3),
    "labels": lambda: DiffusionPolicy(diffusion(num_classes=3), num_steps=8),
    "guided": lambda: DiffusionPolicy(diffusion(num_classes=3), num_steps=8, guidance_scale=3.0),
    "guided_flow": lambda: FlowPolicy(flow(condition_dim=4), num_steps=8, guidance_scale=3.0),
}


def prompts_for(policy, count=3):
    """A batch as `fit` brings it."""
    spec = policy.model.condition_spec
    if spec is None:
        return np.zeros((count, 0), "float32")
    if "int" in spec.dtype:
        return np.arange(count, dtype="int32")
    return np.random.default_rng(1).standard_normal((count, *spec.shape[1:])).astype("float32")


class Stage(GenerativeModel):
    """Where a policy acts in a compiled step, with noise of its own."""

    def __init__(self, actor):
        super().__init__(seed=0)
        self.actor, self.policy, self.built = actor, actor.model, True

    @compiled
    def rollout(self, x, group_size):
        return self.actor.rollout(self.actor.unpack(x), group_size, self)


def rolled_out(policy, group_size=2, count=3):
    """A rollout as a compiled step makes it."""
    x = ops.convert_to_tensor(prompts_for(policy, count))
    return Stage(policy).rollout(x, group_size=group_size)


# What a rollout is


@pytest.mark.parametrize("name", POLICIES)
def test_scores_right_after_a_rollout_are_its_log_probs(name):
    policy = POLICIES[name]()
    made = rolled_out(policy)
    assert made.states.shape == (6, 8, 2) and made.log_probs.shape == (6, 7)
    assert made.completion.shape == (6, 2)
    np.testing.assert_array_equal(numpy(made.mask), np.ones((6, 7)))
    np.testing.assert_array_equal(numpy(made.ended), np.ones(6))
    log_probs = numpy(made.log_probs)
    np.testing.assert_allclose(numpy(policy.score(made).log_probs), log_probs, atol=1e-4)
    assert log_probs.std() > 0.1  # the actions differ
    reference = policy.copy()
    scores = policy.score(made, reference)
    np.testing.assert_allclose(numpy(scores.log_probs), log_probs, atol=1e-4)


@pytest.mark.parametrize("name", ["labels", "guided_flow"])
def test_conditions_are_prompt_major(name):
    policy = POLICIES[name]()
    made = rolled_out(policy)
    given = prompts_for(policy)
    np.testing.assert_array_equal(numpy(made.condition), np.repeat(given, 2, axis=0))
    others = made._replace(condition=np.roll(numpy(made.condition), 2, axis=0))
    wrong = numpy(policy.score(others).log_probs)
    assert np.abs(wrong - numpy(made.log_probs)).max() > 1e-2


def test_a_policy_draws_what_the_model_draws():
    """With so little chance that the chain is the flow, and with the noise that `sample` sees."""
    model = flow()
    policy = FlowPolicy(model, num_steps=8, noise_level=1e-4)
    noise = np.random.default_rng(0).standard_normal((8, 3, 2)).astype("float32")
    made = policy.rollout(policy.unpack(np.zeros((3, 0))), 1, Given(noise))
    np.testing.assert_allclose(numpy(made.completion), numpy(model.decode(noise[0], 8)), atol=1e-3)


def test_guidance_is_the_models():
    model = diffusion(num_classes=3)
    policy = DiffusionPolicy(model, num_steps=8, guidance_scale=3.0)
    made = rolled_out(policy)
    first, last = numpy(made.states)[:, 0], numpy(made.states)[:, -1]
    timesteps = model.sampling_timesteps(8)
    end = model.denoise(last, int(timesteps[-1]), made.condition, 3.0)
    np.testing.assert_allclose(numpy(made.completion), numpy(end), atol=1e-4)
    start = numpy(model.denoise(first, int(timesteps[0]), made.condition, 3.0))
    mean = policy.chain.keep[0] * first + policy.chain.change[0] * start
    np.testing.assert_allclose(numpy(policy.score(made).means)[:, 0], mean, atol=1e-4)


class Given:
    """Noise that was drawn before."""

    def __init__(self, noise):
        self.noise = noise

    def normal(self, shape):
        assert shape == self.noise.shape
        return ops.convert_to_tensor(self.noise)


def test_unconditional_models_take_columns_and_empty_arrays():
    policy = FlowPolicy(flow())
    for x in (np.zeros((4, 0)), {"condition": np.zeros((4, 0))}, {"target": np.ones((4, 3))}):
        made = policy.unpack(x)
        assert set(made) == {"prompt"} and made["prompt"].shape == (4, 0)
    conditional = FlowPolicy(flow(condition_dim=4))
    made = conditional.unpack({"condition": np.ones((5, 4)), "target": np.ones((5, 1))})
    assert made["prompt"].shape == made["condition"].shape == (5, 4)


# The average of the weights


def test_training_starts_from_the_average_and_is_seen_in_samples():
    model = flow(ema_decay=0.9)
    model.compile(keras.optimizers.Adam(1e-2))
    x = np.random.default_rng(0).standard_normal((64, 2)).astype("float32")
    model.fit(x, batch_size=16, epochs=2, verbose=0)
    before = numpy(model.sample(5, seed=1))
    policy = policy_of(model, num_steps=8)
    np.testing.assert_allclose(numpy(model.sample(5, seed=1)), before, rtol=1e-5, atol=1e-6)
    made = rolled_out(policy)
    scores = policy.score(made, policy.copy())
    np.testing.assert_allclose(numpy(scores.log_probs), numpy(made.log_probs), atol=1e-4)
    for weight in policy.variables:
        weight.assign(weight + 0.1)
    assert np.abs(numpy(model.sample(5, seed=1)) - before).max() > 0.1


def test_another_model_as_the_reference_counts_by_its_average():
    policy, other = FlowPolicy(flow()), flow(ema_decay=0.9)
    other.compile(keras.optimizers.Adam(1e-2))
    x = np.random.default_rng(0).standard_normal((64, 2)).astype("float32")
    other.fit(x, batch_size=16, epochs=1, verbose=0)
    made = rolled_out(policy)
    kept = numpy(policy.score(made, other).means)
    FlowPolicy(other)  # takes the average for its weights
    np.testing.assert_allclose(numpy(policy.score(made, other).means), kept, atol=1e-5)


# The divergence


@pytest.mark.parametrize("name", ["ddim", "flow"])
def test_the_divergence_is_the_mean_of_the_log_ratios(name):
    """First-step closed form against draws: all rows begin in one state."""
    policy = POLICIES[name]()
    reference = policy.copy()
    for weight in policy.variables:
        weight.assign(1.1 * weight)
    noise = np.random.default_rng(0).standard_normal((8, 20_000, 2)).astype("float32")
    noise[0] = noise[0, 0]
    made = policy.rollout({"prompt": np.zeros((20_000, 0))}, 1, Given(noise))
    scores, others = policy.score(made), policy.score(made, reference)
    closed = numpy(policy.kl(scores, others))
    assert closed.shape == (20_000, 7) and (closed >= 0).all()
    ratios = numpy(scores.log_probs) - numpy(others.log_probs)
    np.testing.assert_allclose(ratios.mean(0), closed.mean(0), rtol=0.05, atol=2e-4)
    assert closed.mean() > 1e-3
    np.testing.assert_allclose(numpy(policy.kl(scores, scores)), 0, atol=1e-6)


def test_the_entropy_is_that_of_the_noise():
    policy = POLICIES["flow"]()
    made = rolled_out(policy)
    entropy = numpy(policy.score(made, entropy=True).entropy)
    expected = 0.5 * np.log(2 * np.pi * np.e * policy.chain.std[:-1] ** 2)
    np.testing.assert_allclose(entropy, np.tile(expected, (6, 1)), rtol=1e-5)


# Preferences


@pytest.mark.parametrize("make", [diffusion, edm, flow, lambda: flow(sigma=0.1)])
def test_errors_are_the_loss_at_the_same_times_and_noise(make):
    """Their mean over many draws is the model's own loss, and each is a mean of squares."""
    model = make()
    policy = policy_of(model)
    x = np.random.default_rng(0).standard_normal((4000, 2)).astype("float32")
    drawn = policy.draw(4000, model)
    errors = numpy(policy.errors(x, {}, drawn))
    assert errors.shape == (4000,)
    np.testing.assert_array_equal(numpy(policy.errors(x, {}, drawn)), errors)
    copied = numpy(policy.errors(x, {}, drawn, policy.copy()))
    np.testing.assert_allclose(copied, errors, rtol=1e-5)
    model.compile("sgd")
    loss = model.evaluate(x, batch_size=4000, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(errors.mean(), loss, rtol=0.1)


def test_an_error_by_hand():
    model = flow(condition_dim=4)
    policy = FlowPolicy(model, guidance_scale=2.0)
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 3, 2)).astype("float32")
    condition = prompts_for(policy)
    times = np.array([0.1, 0.5, 0.9], "float32")
    x_t = times[:, None] * x + (1 - times[:, None]) * noise
    inputs = [ops.convert_to_tensor(part) for part in (x_t, times, condition)]
    velocity = numpy(model(inputs))
    expected = ((x - noise - velocity) ** 2).mean(1)
    drawn = {"times": inputs[1], "noise": ops.convert_to_tensor(noise)}
    found = policy.errors(x, {"condition": condition}, drawn)
    np.testing.assert_allclose(numpy(found), expected, rtol=1e-4)


# Learning


@traceable
def to_the_right(prompts, completions):
    return ops.tanh(completions[:, 0])


@pytest.mark.parametrize("name", ["ddim", "flow", "guided_flow"])
def test_the_policy_gradient_moves_samples_towards_the_reward(name):
    policy = POLICIES[name]()
    randomised(policy.model, 0.05)
    sampling = {"num_steps": 8, "guidance_scale": policy.guidance_scale}
    model = GRPO(policy.model, to_the_right, num_generations=32, sampling=sampling, seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    x = np.repeat(prompts_for(policy), 30, axis=0)
    rewards = model.fit(x, batch_size=3, shuffle=False, epochs=2, verbose=0).history["reward"]
    assert rewards[1] > rewards[0] + 0.1 and rewards[1] > 0.3


@pytest.mark.parametrize("conditional", [True, False])
def test_a_reward_on_the_host_is_told_the_conditions(conditional):
    told = []

    def reward(prompts, completions, aim):
        told.append((np.asarray(prompts), np.asarray(aim)))
        return np.zeros(len(completions))

    model = REINFORCE(
        flow(condition_dim=4 if conditional else None),
        reward,
        num_generations=2,
        sampling={"num_steps": 2},
    )
    model.compile(keras.optimizers.SGD(0.1))
    conditions = np.arange(12, dtype="float32").reshape(3, 4)
    columns = {"aim": np.arange(3.0)} | ({"condition": conditions} if conditional else {})
    model.fit(columns, batch_size=3, shuffle=False, verbose=0)
    prompts, aim = told[0]
    expected = np.repeat(conditions, 2, axis=0) if conditional else np.zeros((6, 0))
    np.testing.assert_array_equal(prompts, expected)
    np.testing.assert_array_equal(aim, np.repeat(np.arange(3.0), 2))


# What is refused


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="`num_steps` must be an integer of at least 2"):
        FlowPolicy(flow(), num_steps=1)
    with pytest.raises(ValueError, match="'greedy'.* is for policies of tokens"):
        REINFORCE(flow(), baseline="greedy")
    with pytest.raises(ValueError, match="`eta`"):
        DiffusionPolicy(diffusion(), eta=0.0)
    with pytest.raises(ValueError, match="Guidance needs a condition"):
        FlowPolicy(flow(), guidance_scale=2.0)
    with pytest.raises(ValueError, match="Unknown path of a stochastic chain 'vp'"):
        FlowPolicy(flow(path="vp"))
    with pytest.raises(ValueError, match="Unknown option of a FlowPolicy 'eta'"):
        policy_of(flow(), eta=0.5)
    with pytest.raises(ValueError, match="takes a condition"):
        FlowPolicy(flow(condition_dim=4)).unpack(np.zeros((3, 0)))
    with pytest.raises(ValueError, match="condition"):
        FlowPolicy(flow()).unpack(np.zeros((3, 4)))
