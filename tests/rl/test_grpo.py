"""GRPO's updates against the formulas in float64, and where they settle."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from tables import (
    COMPLETIONS,
    END,
    MASK,
    OTHER,
    TABLE,
    close,
    log_probs,
    policy,
    rollout,
    slope,
    table_of,
    taught,
)

from artifex_keras.rl import GRPO, REINFORCE, traceable
from artifex_keras.rl.rollout import Rollout

pytestmark = pytest.mark.backends("jax")

REWARDS = np.array([1.0, 0.0, 0.5, np.nan, 2.0, 0.0])
OLD = log_probs(TABLE) + np.random.default_rng(3).normal(size=MASK.shape) * 0.4
NEVER = None  # a reward that is never asked: the rewards are fed


def grpo(**options):
    common = {"num_generations": 3, "max_new_tokens": 3, "end_token_id": END, "seed": 0}
    if options.get("beta"):
        common["reference"] = policy(OTHER, "reference")
    return GRPO(policy(), NEVER, **{**common, **options})


def advantages(rewards, scale="group"):
    """By the letter: among the completions of a prompt to which the reward applies."""
    found = np.zeros(len(rewards))
    applies = ~np.isnan(rewards)
    for group in (slice(0, 3), slice(3, 6)):
        there = rewards[group][applies[group]]
        spread = {
            "group": there.std(ddof=1) + 1e-4,
            "batch": None,
            "none": 1.0,
        }[scale]
        if scale == "batch":
            everything = rewards[applies]
            spread = everything.std(ddof=1) + 1e-4
        found[group] = np.where(applies[group], (rewards[group] - there.mean()) / spread, 0.0)
    return found


ESTIMATES = {
    "k2": lambda x, ratio: x**2 / 2,
    "k3": lambda x, ratio: np.exp(-x) - 1 + x,
    "k3_is": lambda x, ratio: ratio * (np.exp(-x) - 1 + x),
}


def loss_of(
    table,
    old,
    rewards=REWARDS,
    *,
    mask=MASK,
    loss_type="grpo",
    scale="group",
    low=0.2,
    high=0.2,
    level="token",
    dual=None,
    beta=0.0,
    estimator="k3_is",
    worth=None,
    at=None,
    weights=1.0,
):
    """The loss by the letter, where `old` are the log-probabilities of the one that sampled."""
    l = log_probs(table)  # noqa: E741
    x = l - old
    length = mask.sum(1, keepdims=True)
    if level == "sequence":
        x = np.repeat((x * mask).sum(1, keepdims=True) / np.maximum(length, 1), 3, axis=1)
    ratio = np.exp(x)
    a = (advantages(rewards, scale) if worth is None else worth)[:, None]
    each = -np.minimum(ratio * a, np.clip(ratio, 1 - low, 1 + high) * a)
    if loss_type == "cispo":  # the weight is that of the table which is updated, a constant
        here = log_probs(TABLE if at is None else at) - old
        if level == "sequence":
            here = np.repeat((here * mask).sum(1, keepdims=True) / length, 3, axis=1)
        each = -np.minimum(np.exp(here), 1 + high) * a * l
    if dual:
        each = np.where(a < 0, np.minimum(each, -dual * a), each)
    each = each * weights
    each = (each + beta * ESTIMATES[estimator](l - log_probs(OTHER), np.exp(l - old))) * mask
    rows = (length > 0).sum()
    return {
        "grpo": (each.sum(1) / np.maximum(length[:, 0], 1)).sum() / rows,
        "bnpo": each.sum() / mask.sum(),
        "dapo": each.sum() / mask.sum(),
        "cispo": each.sum() / mask.sum(),
        "dr_grpo": each.sum() / (rows * 3),
    }[loss_type]


def agrees(model, old, made=None, rate=1.0, **settings):
    """One update of the model is one along the gradient of `loss_of`."""
    table, logs = taught(model, made or rollout(old), REWARDS, rate)
    close(table, TABLE - rate * slope(lambda t: loss_of(t, old, **settings), TABLE))
    close(logs["loss"], loss_of(TABLE, old, **settings), atol=1e-6)
    return logs


# One update, in which the policy is the one that sampled


@pytest.mark.parametrize(
    ("loss_type", "settings"),
    [
        ("grpo", {}),
        ("bnpo", {}),
        ("dr_grpo", {"scale": "none"}),
        ("dapo", {"high": 0.28}),
        ("cispo", {"high": 4.0}),
    ],
)
def test_each_loss_by_the_letter(loss_type, settings):
    settings = {"loss_type": loss_type, **settings}
    logs = agrees(grpo(loss_type=loss_type), log_probs(TABLE), **settings)
    assert logs["approx_kl"] == 0 and logs["clip_fraction"] == 0
    agrees(grpo(loss_type=loss_type, beta=0.3), log_probs(TABLE), beta=0.3, **settings)


@pytest.mark.parametrize("estimator", ESTIMATES)
def test_each_estimate_in_the_loss(estimator):
    model = grpo(beta=0.5, kl_estimator=estimator)
    logs = agrees(model, log_probs(TABLE), beta=0.5, estimator=estimator)
    x = log_probs(TABLE) - log_probs(OTHER)
    close(logs["kl"], ((np.exp(-x) - 1 + x) * MASK).sum() / MASK.sum())


def test_the_divergence_in_the_reward():
    x = (log_probs(TABLE) - log_probs(OTHER)) * MASK
    worth = advantages(REWARDS - 0.5 * x.sum(1))
    agrees(grpo(beta=0.5, kl_in="reward"), log_probs(TABLE), worth=worth)


@pytest.mark.parametrize(
    ("scale", "name"), [(True, "group"), ("group", "group"), ("batch", "batch"), (False, "none")]
)
def test_each_scale_of_the_rewards(scale, name):
    agrees(grpo(scale_rewards=scale), log_probs(TABLE), scale=name)


def test_a_loss_type_scales_as_it_is_published_unless_asked_otherwise():
    asked = grpo(loss_type="dr_grpo", scale_rewards="group")
    agrees(asked, log_probs(TABLE), loss_type="dr_grpo", scale="group")


def test_bounded_advantages():
    worth = np.clip(advantages(REWARDS), -0.5, 0.5)
    agrees(grpo(advantage_clip=0.5), log_probs(TABLE), worth=worth)


def test_truncated_completions_teach_nothing():
    """They are in no mean, above nor below the bar, though their prompt's others are compared with
    them."""
    mask = MASK * np.array([1, 1, 0, 1, 0, 1])[:, None]
    for loss_type in ("grpo", "bnpo"):
        model = grpo(mask_truncated=True, loss_type=loss_type)
        agrees(model, log_probs(TABLE), mask=mask, loss_type=loss_type)


# Updates with completions of an older policy


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"low": 0.1, "high": 0.3},
        {"dual": 1.2},
        {"level": "sequence", "low": 0.05, "high": 0.05},
        {"beta": 0.4},
        {"beta": 0.4, "estimator": "k2"},
        {"loss_type": "cispo", "high": 0.05},
        {"loss_type": "cispo", "high": 0.05, "level": "sequence", "beta": 0.4},
    ],
    ids=str,
)
def test_several_updates_with_a_rollout(settings):
    """Three, that begin with a policy other than the one that sampled: what is clipped differs."""
    names = {"low": "clip_param", "high": "clip_high", "dual": "dual_clip"}
    names |= {"level": "level", "beta": "beta", "estimator": "kl_estimator"}
    names |= {"loss_type": "loss_type"}
    options = {names[name]: value for name, value in settings.items()}
    model = grpo(num_iterations=3, **options)
    table, logs = taught(model, rollout(OLD), REWARDS, rate=0.5)
    expected, losses, clipped = TABLE, [], []
    for _ in range(3):
        losses.append(loss_of(expected, OLD, at=expected, **settings))
        clipped.append(clip_fraction(expected, **settings))
        at = {"at": expected}
        expected = expected - 0.5 * slope(
            lambda t, at=at: loss_of(t, OLD, **settings, **at), expected
        )
    close(table, expected)
    close(logs["loss"], np.mean(losses), atol=1e-6)
    close(logs["clip_fraction"], np.mean(clipped))
    assert logs["clip_fraction"] > 0


def clip_fraction(table, low=0.2, high=None, level="token", loss_type="grpo", **others):
    high = low if high is None else high
    x = log_probs(table) - OLD
    if level == "sequence":
        x = np.repeat((x * MASK).sum(1, keepdims=True) / MASK.sum(1, keepdims=True), 3, axis=1)
    a = advantages(REWARDS)[:, None]
    gone = ((np.exp(x) < 1 - low) & (a < 0)) | ((np.exp(x) > 1 + high) & (a > 0))
    if loss_type == "cispo":
        gone = np.exp(x) > 1 + high
    return (gone * MASK).sum() / MASK.sum()


def test_cispo_refuses_bounds_that_it_does_not_use():
    for name, value in (("clip_param", 0.1), ("dual_clip", 3.0)):
        with pytest.raises(ValueError, match=f"`{name}` isn't used by loss_type='cispo'"):
            grpo(loss_type="cispo", **{name: value})
        model = grpo(loss_type="cispo")
        with pytest.raises(ValueError, match=f"`{name}` isn't used by loss_type='cispo'"):
            setattr(model, name, value)
    assert grpo(loss_type="cispo", clip_high=1.0).clip_high == 1.0


def test_minibatches_are_cut_from_a_fresh_order_in_each_pass():
    noise = np.float32(np.random.default_rng(4).uniform(size=(2, 6)))
    model = grpo(num_iterations=2, num_minibatches=3)
    model.uniform = lambda shape, rows=0: ops.convert_to_tensor(noise)
    table, _ = taught(model, rollout(OLD), REWARDS, rate=0.5)
    expected = TABLE
    worth = advantages(REWARDS)  # of the whole batch, whatever it is cut into
    for rows in np.argsort(noise, axis=1).reshape(6, 2):
        mask = MASK * np.isin(np.arange(6), rows)[:, None]
        expected = expected - 0.5 * slope(
            lambda t, mask=mask: loss_of(t, OLD, mask=mask, worth=worth), expected
        )
    close(table, expected)


def test_updates_end_where_the_policy_has_moved_too_far():
    """The update that finds it so is the last one."""
    model = grpo(num_iterations=8, target_kl=0.004)
    table, logs = taught(model, rollout(log_probs(TABLE)), REWARDS, rate=0.5)
    expected, kls, old = TABLE, [], log_probs(TABLE)
    while not kls or kls[-1] <= 1.5 * 0.004:
        # Of the old policy's samples: e^-x - 1 + x with x = l_old - l.
        x = old - log_probs(expected)
        kls.append(((np.exp(-x) - 1 + x) * MASK).sum() / MASK.sum())
        expected = expected - 0.5 * slope(lambda t: loss_of(t, old), expected)
    assert 2 < len(kls) < 8
    close(table, expected)
    close(logs["approx_kl"], np.mean(kls), rtol=1e-3)
    again, _ = taught(model, rollout(log_probs(expected)), REWARDS)  # the next batch goes on
    assert np.abs(again - table).max() > 1e-3


# Completions of another policy, or of the same one in other arithmetic

FAR = log_probs(TABLE) + np.random.default_rng(6).normal(size=MASK.shape) * 0.7


def capped(cap):
    return np.minimum(np.exp(log_probs(TABLE) - FAR), cap)


@pytest.mark.parametrize("loss_type", ["grpo", "cispo"])
def test_capped_importance_weights_in_one_update(loss_type):
    """The ratio is 1, as the policy has not moved; the weight is that of the sampling."""
    high = {"grpo": 0.2, "cispo": 4.0}[loss_type]
    settings = {"loss_type": loss_type, "high": high, "weights": capped(1.3)}
    model = grpo(loss_type=loss_type, importance_cap=1.3)
    table, logs = taught(model, rollout(FAR), REWARDS)
    here = log_probs(TABLE)
    close(table, TABLE - slope(lambda t: loss_of(t, here, at=TABLE, **settings), TABLE))
    close(logs["importance_weight"], (capped(1.3) * MASK).sum() / MASK.sum())
    assert capped(9.0).max() > 1.3 and logs["approx_kl"] == 0


def test_capped_importance_weights_in_several_updates():
    """They stay those of before the first update, and the ratio is of what came after it."""
    model = grpo(num_iterations=3, importance_cap=1.3, beta=0.4)
    table, logs = taught(model, rollout(FAR), REWARDS, rate=0.5)
    settings = {"weights": capped(1.3), "beta": 0.4}
    expected, here, found = TABLE, log_probs(TABLE), []
    for _ in range(3):
        found.append(loss_of(expected, here, **settings))
        expected = expected - 0.5 * slope(lambda t: loss_of(t, here, **settings), expected)
    close(table, expected)
    close(logs["loss"], np.mean(found), atol=1e-6)
    close(logs["importance_weight"], (capped(1.3) * MASK).sum() / MASK.sum())


# Dynamic sampling


def test_of_twice_as_many_groups_those_with_a_spread_are_learned_from():
    made = rollout()
    for flat, kept in ((slice(0, 3), slice(3, 6)), (slice(3, 6), slice(0, 3))):
        rewards = REWARDS.copy()
        rewards[flat] = 0.25
        table, logs = taught(grpo(oversample=2), made, rewards)
        mask = MASK * np.isin(np.arange(6), np.arange(6)[kept])[:, None]
        worth = advantages(rewards)
        close(table, TABLE - slope(lambda t, m=mask, w=worth: small(t, m, w), TABLE))
        assert logs["spread_groups"] == 1 and logs["flat_groups"] == 0.5
        close(logs["reward"], np.nanmean(rewards))  # of all groups


def small(table, mask, worth):
    return loss_of(table, log_probs(TABLE), mask=mask, worth=worth)


def test_without_any_spread_nothing_is_learned():
    for options in ({}, {"num_iterations": 2}, {"loss_type": "cispo"}):
        model = grpo(oversample=1.5, **options)
        table, logs = taught(model, rollout(), np.full(6, 0.5))
        np.testing.assert_array_equal(table, np.float32(TABLE))
        assert (logs["spread_groups"], logs["flat_groups"], logs["loss"]) == (0, 1, 0)
        taught(model, rollout(), [*np.full(3, 0.5), np.nan, np.nan, np.nan])
        np.testing.assert_array_equal(table_of(model.policy), np.float32(TABLE))


def test_minibatches_are_of_the_groups_that_are_learned_from():
    model = grpo(oversample=2.0, num_minibatches=3)
    assert [model.learned_prompts(n) for n in (0, 1, 2, 3, 8)] == [0, 1, 1, 2, 4]
    model.check_minibatches(3 * model.learned_prompts(2))
    with pytest.raises(ValueError, match="`num_minibatches` must divide .* Received: .*3 compl"):
        grpo(oversample=2.0, num_minibatches=2).check_minibatches(3 * model.learned_prompts(2))


# A replay of past groups

REPLAY = {"importance_cap": 1.3, "replay_buffer_size": 2, "max_prompt_length": 3}
A_FLAT = np.array([1.0, 0.0, 0.5, 0.25, 0.25, 0.25])


@pytest.mark.backends("jax", "tensorflow", "torch")
def test_a_past_group_takes_the_place_of_one_without_a_spread():
    """With the rewards and the log-probabilities of when it was sampled."""
    model, plain = grpo(**REPLAY), grpo(importance_cap=1.3)
    first, logs = taught(model, rollout(FAR), A_FLAT, rate=0.5)
    np.testing.assert_array_equal(first, taught(plain, rollout(FAR), A_FLAT, rate=0.5)[0])
    assert logs["replayed_groups"] == 0
    table, logs = taught(model, rollout(log_probs(first)), np.full(6, 0.25))
    assert logs["replayed_groups"] == 0.5 and logs["flat_groups"] == 1  # one was kept
    weights = np.minimum(np.exp(log_probs(first) - FAR), 1.3)
    weights[3:], here = 1.0, log_probs(first)

    def loss(t):
        return loss_of(t, here, A_FLAT, weights=weights)

    close(table, first - 0.5 * slope(loss, first))
    close(logs["loss"], loss(first), atol=1e-6)
    close(logs["importance_weight"], (weights * MASK).sum() / MASK.sum())


def test_the_newest_groups_with_a_spread_are_kept():
    model, made = grpo(**REPLAY), rollout()
    kept = model._replay.groups["rewards"]
    for rewards, expected, filled in (
        (A_FLAT, [A_FLAT[:3], [0, 0, 0]], 1),
        (np.full(6, 0.5), [A_FLAT[:3], [0, 0, 0]], 1),
        ([0, 0, 0, 3, 4, 5], [[3, 4, 5], A_FLAT[:3]], 2),
        ([6, 7, 8, 9, 9, 1], [[6, 7, 8], [9, 9, 1]], 2),
    ):
        taught(model, made, rewards)
        np.testing.assert_array_equal(np.array(model._replay.filled), np.arange(2) < filled)
        np.testing.assert_array_equal(np.array(kept)[:filled], np.float32(expected)[:filled])


def test_each_kept_group_comes_back_once_a_step_and_both_are_chosen():
    model = grpo(**{**REPLAY, "replay_buffer_size": 3})
    rewards = np.array([0, 0, 1, 0, 1, 1, 2, 0, 0], "float32")
    long = Rollout(*[v if v is None else ops.concatenate([v, v[:3]]) for v in rollout()])
    model._replay.exchange(long, rewards, np.float32([0, 0, 0]))
    flat = np.zeros(9, "float32")
    _, got, share = model._replay.exchange(long, flat, np.float32([0.5, 0.9, 0.1]))
    np.testing.assert_array_equal(np.array(got), np.concatenate([rewards[6:], rewards[:6]]))
    assert float(share) == 1


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("needs an `importance_cap`", {"importance_cap": None}),
        ("needs a `max_prompt_length`", {"max_prompt_length": None}),
        ("needs a `reward_fn`, and no `environment`", {"max_turns": 2}),
        ("must be an integer of at least 0", {"replay_buffer_size": -1}),
    ],
)
def test_what_a_replay_buffer_needs(message, options):
    with pytest.raises(ValueError, match=f"`replay_buffer_size` {message}.* Received: "):
        grpo(**{**REPLAY, **options})


def test_an_environment_does_not_take_the_place_of_a_reward_with_a_replay_buffer():
    model = grpo(**REPLAY)
    with pytest.raises(ValueError, match="`environment` doesn't go with .* Received: .*_size=2"):
        model.environment = object


def test_a_prompt_wider_than_the_replay_buffer():
    with pytest.raises(ValueError, match="at most `max_prompt_length` .* Received: .* 1 more"):
        taught(grpo(**{**REPLAY, "max_prompt_length": 2}), rollout(), REWARDS)


# Laws


def test_equal_rewards_teach_exactly_nothing():
    for model in (grpo(), grpo(scale_rewards=False)):
        for value in (0.1, 1 / 3, -7.3):
            table, logs = taught(model, rollout(), np.full(6, value))
            np.testing.assert_array_equal(table, np.float32(TABLE))
            assert logs["flat_groups"] == 1


def test_what_stands_behind_an_end_does_not_matter():
    made, other = rollout(), rollout()
    random = np.random.default_rng(5)
    sequence = np.array(ops.convert_to_numpy(other.sequence))
    tokens = np.where(MASK > 0, COMPLETIONS, random.integers(0, 5, MASK.shape)).astype("int32")
    for row, start in enumerate(ops.convert_to_numpy(other.start)):
        sequence[row, start : start + 3] = tokens[row]
    other = other._replace(
        completion=ops.convert_to_tensor(tokens),
        sequence=ops.convert_to_tensor(sequence),
        log_probs=ops.where(other.mask > 0, other.log_probs, -3.0),
    )
    model, results = grpo(beta=0.2, num_iterations=2), []
    for each in (made, other):
        model.policy.set_weights([np.float32(TABLE)])
        results.append(taught(model, each, REWARDS))
    close(*(table for table, _ in results), rtol=1e-6, atol=1e-7)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "bnpo", "dapo", "cispo"])
def test_accumulation_equals_the_large_batch_with_each_reduction(loss_type):
    """A half counts by its rows where the loss is a mean over rows, else by its tokens."""
    whole, parts = (
        GRPO(policy(), NEVER, num_generations=3, max_new_tokens=3, loss_type=loss_type)
        for _ in range(2)
    )
    mask = np.float32(MASK * np.array([[1, 0, 1, 1, 1, 1]]).T)  # in one row nothing counts
    made = rollout()._replace(mask=ops.convert_to_tensor(mask))
    expected, _ = taught(whole, made, REWARDS)
    parts.compile(keras.optimizers.SGD(1.0, gradient_accumulation_steps=2))
    parts.build_optimizer()
    for rows in (slice(0, 3), slice(3, 6)):
        half = Rollout(*(value if value is None else value[rows] for value in made))
        table, _ = taught(parts, half, REWARDS[rows])
    close(table, expected)


# Where it settles: the bandit of ten arms, one of which is rewarded

ARMS, G, BETA = 10, 8, 1 / math.log(9)


def bandit_slope(model, p, groups=1000):
    """Which way an update goes in the rewarded arm's logit, where it has the probability p.

    Of the groups of 8 there are as many of each kind as are to be expected.
    """
    table = np.zeros((ARMS, ARMS))
    table[0, 0] = math.log(9 * p / (1 - p))
    model.policy.set_weights([np.float32(table)])
    chances = [math.comb(G, k) * p**k * (1 - p) ** (G - k) for k in range(G + 1)]
    kinds = np.searchsorted(np.cumsum(chances), (np.arange(groups) + 0.5) / groups)
    tokens = np.where(np.arange(G) < kinds[:, None], 0, 1).reshape(-1, 1)
    tokens = np.where(tokens == 1, 1 + np.arange(len(tokens))[:, None] % 9, 0).astype("int32")
    ones = np.ones((len(tokens), 1), "float32")
    made = {
        "completion": tokens,
        "log_probs": np.float32(log_probs(table, np.zeros_like(tokens), tokens)),
        "mask": ones,
        "ended": ones[:, 0],
        "start": np.ones(len(tokens), "int32"),
        "sequence": np.concatenate([np.zeros_like(tokens), tokens], axis=1),
    }
    made = Rollout(**{name: ops.convert_to_tensor(value) for name, value in made.items()})
    after, _ = taught(model, made, tokens[:, 0] == 0)
    return float(after[0, 0] - np.float32(table[0, 0]))


def by_group_mean(**options):
    return lambda network, reference: GRPO(
        network,
        NEVER,
        reference=reference,
        max_new_tokens=1,
        num_generations=G,
        beta=BETA,
        scale_rewards=False,
        **options,
    )


def by_leave_one_out(network, reference):
    common = {"max_new_tokens": 1, "num_generations": G}
    return REINFORCE(network, NEVER, reference=reference, baseline="loo", kl_coeff=BETA, **common)


SETTLED = [
    (by_leave_one_out, 0.5),
    (by_group_mean(kl_in="reward"), 0.5),  # the mean shrinks reward and penalty alike
    (by_group_mean(), 0.4318),
    (by_group_mean(kl_estimator="k2"), 0.4318),
    (by_group_mean(kl_estimator="k3"), 0.5710),
]


@pytest.mark.parametrize(("make", "p"), SETTLED)
def test_the_bandit_settles_where_the_closed_form_says(make, p):
    zeros = np.zeros((ARMS, ARMS))
    model = make(policy(zeros), policy(zeros, "reference"))
    below, at, above = (bandit_slope(model, p + d) for d in (-0.02, 0.0, 0.02))
    assert below > 0 > above
    assert abs(at) < 0.1 * min(below, -above)


@pytest.mark.parametrize(("make", "p"), [SETTLED[0], SETTLED[2]], ids=["loo", "grpo"])
def test_sampling_gets_there(make, p):
    """512 samples an update: the mean over the last third is within a few standard errors."""

    @traceable
    def rewarded(prompts, completions):
        return ops.cast(completions[:, 0] == 0, "float32")

    zeros = np.zeros((ARMS, ARMS))
    model = make(policy(zeros), policy(zeros, "reference"))
    model.reward_fn = rewarded
    model.reseed(0)
    model.compile(keras.optimizers.SGD(2.0))
    x = np.zeros((64 * 40, 1), "int32")
    history = model.fit(x, batch_size=64, epochs=3, verbose=0).history
    assert history["reward"][0] < history["reward"][2]
    assert abs(history["reward"][2] - p) < 0.015
    assert table_of(model.policy)[1:].max() == 0  # no other prompt was seen


SLOW = (("bnpo", 1), ("dapo", 1), ("grpo", 1), ("dr_grpo", 1), ("grpo", 3))


@pytest.mark.parametrize(
    ("loss_type", "minibatches"),
    [("bnpo", 3), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_metrics_of_uneven_batches_are_those_of_one(loss_type, minibatches):
    """Of 9 and 4 tokens, and minibatches of 2 to 5: tokens weigh alike in an epoch's means."""
    made, rewards = rollout(log_probs(TABLE) + 0.1), np.array([1.0, 0.0, np.nan, 0.25, 2.0, 0.0])
    options = {"num_generations": 2, "max_new_tokens": 3, "end_token_id": END, "seed": 0}
    options |= {"beta": 0.3, "reference": policy(OTHER, "reference"), "loss_type": loss_type}
    model = GRPO(policy(), None, num_minibatches=minibatches, **options)
    _, expected = taught(model, made, rewards, rate=0.0)
    if minibatches > 2:
        model = GRPO(policy(), None, num_minibatches=2, **options)
        model.compile(keras.optimizers.SGD(0.0))
    taught(model, part_of(made, slice(0, 4)), rewards[:4])
    model.reset_metrics = lambda: None
    _, found = taught(model, part_of(made, slice(4, 6)), rewards[4:])
    names = ("loss", "approx_kl", "clip_fraction", "entropy", "kl", "completion_length")
    for name in (*names, "truncated", "reward", "flat_groups"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def part_of(made, rows):
    return made._replace(**{n: v[rows] for n, v in made._asdict().items() if v is not None})
