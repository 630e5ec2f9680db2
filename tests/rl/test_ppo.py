"""PPO's updates of policy and critic against the formulas in float64."""

import keras
import numpy as np
import pytest
from keras import ops
from tables import (
    BEFORE,
    END,
    MASK,
    OTHER,
    SIZE,
    TABLE,
    close,
    entropy,
    log_probs,
    policy,
    rollout,
    slope,
    table_of,
    taught,
)

from artifex_keras.networks import CausalTransformer
from artifex_keras.rl import PPO

pytestmark = pytest.mark.backends("jax")

REWARDS = np.array([1.0, 0.0, 0.5, -1.0, 2.0, 0.0])
OLD = log_probs(TABLE) + np.random.default_rng(3).normal(size=MASK.shape) * 0.3
VALUES = np.random.default_rng(4).normal(size=(SIZE, 1))


def critic(table=VALUES):
    return policy(table, "critic")


def ppo(**options):
    common = {"num_generations": 3, "max_new_tokens": 3, "end_token_id": END, "seed": 0}
    common |= {"value": critic(), "kl_coeff": 0.0, "num_epochs": 1}
    if options.get("kl_coeff"):
        common["reference"] = policy(OTHER, "reference")
    return PPO(policy(), None, **{**common, **options})


def advantages(rewards, mask=MASK, *, beta=0.0, gamma=1.0, lam=0.95, old=None):
    """`(whitened advantages, returns)`, token by token from the end."""
    old = log_probs(TABLE) if old is None else old
    values = VALUES[BEFORE][..., 0]
    found = np.zeros(mask.shape)
    for row in range(len(mask)):
        length = int(mask[row].sum())
        later, value_later = 0.0, 0.0
        for t in reversed(range(length)):
            r = -beta * (old - log_probs(OTHER))[row, t] + (t == length - 1) * rewards[row]
            delta = r + gamma * value_later - values[row, t]
            later = delta + gamma * lam * later
            value_later = values[row, t]
            found[row, t] = later
    returns = found + values
    counted = found[mask > 0]
    white = (found - counted.mean()) / np.sqrt(counted.var(ddof=1) + 1e-8)
    return white * mask, returns


def losses(table, values, old, worth, mask=MASK, *, clip=0.2, value_clip=0.2, vf=0.5, c_e=0.0):
    """`(loss, value loss)` by the letter."""
    a, returns = worth
    ratio = np.exp(log_probs(table) - old)
    each = -np.minimum(ratio * a, np.clip(ratio, 1 - clip, 1 + clip) * a)
    v, v_old = values[BEFORE][..., 0], VALUES[BEFORE][..., 0]
    error = (v - returns) ** 2
    if value_clip is not None:
        near = v_old + np.clip(v - v_old, -value_clip, value_clip)
        error = np.maximum(error, (near - returns) ** 2)
    value_loss = 0.5 * (error * mask).sum() / mask.sum()
    surrogate = (each * mask).sum() / mask.sum()
    return surrogate + vf * value_loss - c_e * entropy(table, mask=mask), value_loss


def descended(table, values, rate, *arguments, **settings):
    """Both tables after an update."""
    return (
        table - rate * slope(lambda t: losses(t, values, *arguments, **settings)[0], table),
        values - rate * slope(lambda v: losses(table, v, *arguments, **settings)[0], values),
    )


@pytest.mark.parametrize(
    ("options", "settings", "estimate"),
    [
        ({}, {}, {}),
        ({"gamma": 0.9, "gae_lambda": 0.7}, {}, {"gamma": 0.9, "lam": 0.7}),
        ({"vf_coeff": 0.1, "entropy_coeff": 0.3}, {"vf": 0.1, "c_e": 0.3}, {}),
        ({"kl_coeff": 0.5}, {}, {"beta": 0.5}),
    ],
    ids=str,
)
def test_one_update_by_the_letter(options, settings, estimate):
    old = log_probs(TABLE)
    model = ppo(**options)
    table, logs = taught(model, rollout(), REWARDS)
    worth = advantages(REWARDS, **estimate)
    expected = descended(TABLE, VALUES, 1.0, old, worth, **settings)
    close(table, expected[0])
    close(table_of(model.value), expected[1])
    loss, value_loss = losses(TABLE, VALUES, old, worth, **settings)
    close(logs["loss"], loss)
    close(logs["value_loss"], value_loss)
    counted = MASK > 0
    unexplained = (worth[1] - VALUES[BEFORE][..., 0])[counted].var() / worth[1][counted].var()
    close(logs["explained_variance"], 1 - unexplained)


@pytest.mark.parametrize("value_clip", [None, 0.05])
def test_several_updates_of_policy_and_critic(value_clip):
    """Four, from completions of another policy: ratios and values are clipped on the way."""
    model = ppo(num_epochs=4, value_clip=value_clip, clip_param=0.1)
    tables = TABLE, VALUES
    worth, history = advantages(REWARDS, old=OLD), []
    table, logs = taught(model, rollout(OLD), REWARDS, rate=0.3)
    settings = {"clip": 0.1, "value_clip": value_clip}
    for _ in range(4):
        history.append(losses(*tables, OLD, worth, **settings))
        tables = descended(*tables, 0.3, OLD, worth, **settings)
    close(table, tables[0])
    close(table_of(model.value), tables[1])
    close([logs["loss"], logs["value_loss"]], np.mean(history, axis=0))
    moved = np.abs(tables[1] - VALUES)[BEFORE][MASK > 0]
    assert moved.max() > 0.05 and logs["clip_fraction"] > 0


def test_a_completion_that_no_reward_applies_to_teaches_nothing():
    rewards = np.where(np.arange(6) == 2, np.nan, REWARDS)
    mask = MASK * (np.arange(6) != 2)[:, None]
    model = ppo()
    table, _ = taught(model, rollout(), rewards)
    worth = advantages(REWARDS, mask)
    close(table, descended(TABLE, VALUES, 1.0, log_probs(TABLE), worth, mask)[0])


def test_the_coefficient_follows_the_divergence_per_completion():
    model = ppo(kl_coeff=0.5, kl_target=0.1, kl_horizon=60.0)
    per_completion = ((log_probs(TABLE) - log_probs(OTHER)) * MASK).sum(1).mean()
    coeff = 0.5
    for _ in range(2):
        model.policy.set_weights([np.float32(TABLE)])
        _, logs = taught(model, rollout(), REWARDS, rate=0.0)
        close(logs["kl_coeff"], coeff)
        coeff *= 1 + np.clip(per_completion / 0.1 - 1, -0.2, 0.2) * 6 / 60
    close(float(model.adapted_kl_coeff), coeff)


def test_updates_end_where_the_policy_has_moved_too_far():
    model = ppo(num_epochs=6, target_kl=0.003)
    tables, old, kls = (TABLE, VALUES), log_probs(TABLE), []
    worth = advantages(REWARDS)
    table, logs = taught(model, rollout(), REWARDS, rate=0.3)
    while not kls or kls[-1] <= 1.5 * 0.003:
        x = old - log_probs(tables[0])
        kls.append(((np.exp(-x) - 1 + x) * MASK).sum() / MASK.sum())
        tables = descended(*tables, 0.3, old, worth)
    assert 1 < len(kls) < 6
    close(table, tables[0])
    close(logs["approx_kl"], np.mean(kls), rtol=1e-3)


# Critics


def functional(width=None):
    entry = keras.Input((width,), dtype="int32")
    hidden = keras.layers.Embedding(SIZE, 4)(entry)
    return keras.Model(entry, keras.layers.Dense(SIZE)(hidden))


@pytest.mark.parametrize(
    "network",
    [
        lambda: CausalTransformer(SIZE, 8, num_layers=1, num_heads=2, width=8),
        functional,
        lambda: functional(6),
    ],
    ids=["transformer", "functional", "fixed width"],
)
def test_a_value_stands_on_the_last_hidden_vectors(network):
    """From zeros, so that its first step is rate · vf_coeff · the mean of return · vector."""
    model = PPO(network(), None, num_generations=3, max_new_tokens=3, end_token_id=END, seed=0)
    made = rollout()
    features = ops.convert_to_numpy(model.actor.score(made).features)
    width = features.shape[-1]
    assert [tuple(w.shape) for w in model.value.weights] == [(width, 1), (1,)]
    before = model.policy.get_weights()
    made = made._replace(log_probs=model.actor.score(made).log_probs)
    model.kl_coeff, model.num_epochs = 0.0, 1
    taught(model, made, REWARDS)
    # Without values the returns are those of lambda: λ^(T-t) r.
    to_go = np.cumsum(MASK[:, ::-1], axis=1)[:, ::-1] - 1
    returns = REWARDS[:, None] * 0.95**to_go * MASK
    expected = 0.5 * (features * returns[..., None]).sum((0, 1)) / MASK.sum()
    close(model.value.get_weights()[0][:, 0], expected, rtol=1e-3)
    assert any(np.any(a != b) for a, b in zip(before, model.policy.get_weights(), strict=True))


def test_a_critic_of_its_own_may_give_values_without_a_last_axis():
    entry = keras.Input((None,), dtype="int32")
    values = keras.layers.Embedding(SIZE, 1, name="flat_table")(entry)
    flat = keras.Model(entry, ops.squeeze(values, -1))
    flat.set_weights([np.float32(VALUES)])
    tables = [taught(ppo(value=value), rollout(), REWARDS)[0] for value in (flat, critic())]
    close(*tables, rtol=1e-6)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="no hidden vectors to put a value on"):
        PPO(policy(), None, max_new_tokens=3)
    with pytest.raises(ValueError, match="`value` must be a keras.Model"):
        ppo(value="critic")
    with pytest.raises(ValueError, match="`value` must be built"):
        ppo(value=keras.Sequential([keras.layers.Embedding(SIZE, 1)]))
    with pytest.raises(ValueError, match=r"`value` must give a value for each id.*\(6, 5, 5\)"):
        taught(ppo(value=policy(name="logits")), rollout(), REWARDS)
    with pytest.raises(ValueError, match="`kl_target` adapts `kl_coeff`"):
        ppo(kl_target=0.1)
    with pytest.raises(ValueError, match="`kl_in` is of no use here"):
        ppo(kl_in="loss")
    with pytest.raises(ValueError, match="`gamma` must be in .0, 1"):
        ppo(gamma=1.5)
    with pytest.raises(ValueError, match="`value_clip` must be greater than 0"):
        ppo(value_clip=0.0)
