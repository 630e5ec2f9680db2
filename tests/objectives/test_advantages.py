"""Returns, advantages and baselines against loops in float64, closed forms and their laws."""

import numpy as np
import pytest
from keras import ops

from artifex_keras.objectives import advantages as adv

RNG = np.random.default_rng(0)
REWARDS = RNG.normal(size=(5, 7))
VALUES = RNG.normal(size=(5, 7))
# All, padding behind, padding before, holes, nothing.
MASK = np.array(
    [[1] * 7, [1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 1], [0] * 7]
)


def numpy(x):
    return ops.convert_to_numpy(x)


def close(x, expected, **tolerance):
    np.testing.assert_allclose(numpy(x), expected, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


def row_by_row(function, *tensors):
    """`function` on the counted steps of each row alone, its results put back into place."""
    result = np.zeros(MASK.shape)
    for b, row in enumerate(MASK[:-1] > 0):
        result[b, row] = function(*(x[b, row] for x in tensors))
    return result


def returns(rewards, gamma):
    return [sum(gamma**k * r for k, r in enumerate(rewards[s:])) for s in range(len(rewards))]


def estimates(rewards, values, gamma, lam):
    following = [*values[1:], 0]
    errors = [r + gamma * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    return returns(errors, gamma * lam)


# Along a trajectory


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
def test_returns_are_sums_over_the_steps_that_count(gamma):
    expected = row_by_row(lambda r: returns(r, gamma), REWARDS)
    close(adv.discounted_returns(REWARDS, MASK, gamma), expected)


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 1.0), (0.9, 0.0), (1.0, 0.5)])
def test_gae_is_the_sum_of_discounted_errors(gamma, lam):
    advantages, targets = adv.gae(REWARDS, VALUES, MASK, gamma, lam)
    expected = row_by_row(lambda r, v: estimates(r, v, gamma, lam), REWARDS, VALUES)
    close(advantages, expected)
    close(targets, expected + VALUES * MASK)


def test_gae_by_hand():
    # deltas: 1 + .5*.4 - .2 = 1, 0 + .5*.6 - .4 = -.1, 2 - .6 = 1.4; factor .5*.8 = .4
    advantages, targets = adv.gae([[1.0, 0, 2, 9]], [[0.2, 0.4, 0.6, 9]], [[1, 1, 1, 0]], 0.5, 0.8)
    close(advantages, [[1 + 0.4 * 0.46, 0.46, 1.4, 0]])
    close(targets, [[1.384, 0.86, 2.0, 0]])


def test_the_limits_of_lambda():
    advantages, targets = adv.gae(REWARDS, VALUES, MASK, 0.9, 1.0)
    sums = numpy(adv.discounted_returns(REWARDS, MASK, 0.9))
    close(advantages, sums - VALUES * MASK)
    close(targets, sums)
    one_step, _ = adv.gae(REWARDS[:1], VALUES[:1], MASK[:1], 0.9, 0.0)
    close(one_step, REWARDS[:1] + 0.9 * np.append(VALUES[:1, 1:], [[0]], 1) - VALUES[:1])


def test_what_does_not_count_is_not_looked_at():
    dirty = np.where(MASK, REWARDS, np.nan), np.where(MASK, VALUES, np.inf)
    for clean, spoilt in zip(
        adv.gae(REWARDS, VALUES, MASK, 0.9, 0.8), adv.gae(*dirty, MASK, 0.9, 0.8), strict=True
    ):
        np.testing.assert_array_equal(numpy(clean), numpy(spoilt))
    close(adv.discounted_returns(np.array([[1, 2]]), np.array([[True, True]]), 0.6), [[2.2, 2]])


def test_whitened_values_have_mean_zero_and_variance_one():
    kept = REWARDS[MASK > 0]
    expected = np.zeros(MASK.shape)
    expected[MASK > 0] = (kept - kept.mean()) / np.sqrt(kept.var(ddof=1) + 1e-8)
    close(adv.whiten(REWARDS, MASK), expected)
    close(adv.whiten(np.where(MASK, REWARDS, np.nan) * 3 + 100 * MASK, MASK), expected, atol=1e-4)


def test_whitening_equal_values_or_one_gives_zero():
    for mask in (MASK, np.eye(5, 7) * np.eye(5)[:, :1], np.zeros((5, 7))):
        np.testing.assert_array_equal(numpy(adv.whiten(np.full((5, 7), 0.1), mask)), 0)


def test_the_score_comes_at_the_last_step_that_counts(random):
    kl = random.normal(size=MASK.shape)
    kl[MASK == 0] = np.nan
    scores = np.arange(1, 6)  # integers: they must not make the penalty one
    expected = np.where(MASK, -0.1 * kl, 0)
    for row, last in enumerate([6, 2, 6, 6]):
        expected[row, last] += scores[row]
    close(adv.token_rewards(scores, MASK, kl, 0.1), expected)
    np.testing.assert_array_equal(numpy(adv.token_rewards(scores, MASK)).sum(1), [1, 2, 3, 4, 0])
    for wrong in (scores[:, None], scores[:1]):
        with pytest.raises(ValueError, match="agree"):
            adv.token_rewards(wrong, MASK)


def test_reinforce_plus_plus_is_the_whitened_return_to_go(random):
    kl = random.normal(size=MASK.shape)
    scores = random.normal(size=5)
    to_go = np.zeros(MASK.shape)
    for b, row in enumerate(MASK > 0):
        for s in np.flatnonzero(row):
            to_go[b, s] = scores[b] - 0.3 * sum(kl[b, u] for u in np.flatnonzero(row) if u >= s)
    kept = to_go[MASK > 0]
    expected = (to_go - kept.mean()) / np.sqrt(kept.var(ddof=1) + 1e-8) * MASK
    close(adv.reinforce_plus_plus(scores, MASK, kl, 0.3), expected)


# Among completions

GROUPS = np.array([[1.0, 0, 0, 0.5], [3, 3, 3, 3], [-1, 2, np.nan, 2], [np.nan] * 4])
NAN = float("nan")


def relative(groups, scale, epsilon=1e-4):
    everything = np.std([r for group in groups for r in group if r == r], ddof=1)
    result = []
    for group in groups:
        kept = [r for r in group if r == r]
        spread = {"group": np.std(kept, ddof=1) if len(kept) > 1 else 0, "batch": everything}
        divisor = spread[scale] + epsilon if scale != "none" else 1
        result += [(r - np.mean(kept)) / divisor if r == r else 0 for r in group]
    return result


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
@pytest.mark.parametrize("scale", adv.SCALES)
def test_group_relative_advantages(scale):
    close(adv.group_relative(GROUPS.ravel(), 4, scale), relative(GROUPS, scale))
    close(adv.group_relative(GROUPS.ravel(), 4, scale, 0.5), relative(GROUPS, scale, 0.5))


def test_a_group_by_hand():
    # mean 1/4, squares 1/16 * (9 + 1 + 1 + 1) = 3/4, ddof 1: 1/4, std 1/2
    close(adv.group_relative([1, 0, 0, 0], 4), np.array([0.75, -0.25, -0.25, -0.25]) / 0.5001)
    close(adv.leave_one_out([1, 0, 0, 0], 4), [1, -1 / 3, -1 / 3, -1 / 3])
    close(adv.group_std([1, 0, 0, 0, 2, 2, 2, 2], 4), [0.5, 0])


@pytest.mark.parametrize("scale", adv.SCALES)
def test_group_means_are_zero_and_groups_do_not_mix(scale, random):
    rewards = random.normal(size=24) * 5 + 1000
    advantages = numpy(adv.group_relative(rewards, 6, scale))
    np.testing.assert_allclose(advantages.reshape(4, 6).mean(1), 0, atol=1e-5)
    moved = rewards + np.repeat([0, 10, -20, 30], 6)  # a prompt's difficulty does not matter
    if scale != "batch":
        np.testing.assert_allclose(
            numpy(adv.group_relative(moved, 6, scale)), advantages, atol=1e-3
        )
    order = random.permutation(6)
    shuffled = adv.group_relative(rewards.reshape(4, 6)[:, order].ravel(), 6, scale)
    np.testing.assert_allclose(
        numpy(shuffled), advantages.reshape(4, 6)[:, order].ravel(), rtol=1e-4
    )


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.3, 1e6 + 0.1])
@pytest.mark.parametrize("size", [3, 7, 8])
def test_equal_rewards_give_exactly_zero(value, size):
    rewards = np.full(4 * size, value)
    with_gaps = np.where(np.arange(4 * size) % size == 1, NAN, rewards)
    for r in (rewards, with_gaps, np.where(np.arange(4 * size) < size, NAN, rewards)):
        for scale in adv.SCALES:
            np.testing.assert_array_equal(numpy(adv.group_relative(r, size, scale, 1e-8)), 0)
        np.testing.assert_array_equal(numpy(adv.leave_one_out(r, size)), 0)
        np.testing.assert_array_equal(numpy(adv.group_std(r, size)), 0)


def test_leave_one_out_subtracts_the_mean_of_the_others():
    expected = []
    for group in GROUPS:
        for i, r in enumerate(group):
            others = [o for j, o in enumerate(group) if j != i and o == o]
            expected.append(r - np.mean(others) if r == r and others else 0)
    close(adv.leave_one_out(GROUPS.ravel(), 4), expected)
    close(adv.leave_one_out([5.0, NAN, 1.0, 3.0], 2), [0, 0, -2, 2])


@pytest.mark.parametrize("function", [adv.group_relative, adv.leave_one_out, adv.group_std])
def test_groups_that_are_none_are_refused(function):
    with pytest.raises(ValueError, match="must divide.*group_size=4"):
        function(np.ones(6), 4)
    with pytest.raises(ValueError, match="at least 2"):
        function(np.ones(6), 1)
    with pytest.raises(ValueError, match="one per completion"):
        function(np.ones((3, 2)), 2)
    with pytest.raises(TypeError):
        function(np.ones(6), 2.0)


def test_an_unknown_scale_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'group'"):
        adv.group_relative(np.ones(4), 2, "groups")


def test_the_moving_mean_starts_as_the_average_and_then_forgets(random):
    batches = random.normal(size=(5, 3))
    mean = 0.0
    for count, batch in enumerate(batches):
        mean = adv.moving_mean(mean, batch, count)
        close(mean, batches[: count + 1].mean())
    close(adv.moving_mean(2.0, [4.0, 8.0, NAN], 1000, decay=0.9), 2 + 0.1 * 4)
    close(adv.moving_mean(2.0, [NAN, NAN], 3), 2.0)


@pytest.mark.backends("jax")
def test_everything_is_traced():
    import jax

    def step(rewards, values, mask, scores, gamma):
        advantages, targets = adv.gae(rewards, values, mask, gamma, gamma)
        plus = adv.reinforce_plus_plus(scores, mask, rewards, gamma)
        means = adv.moving_mean(gamma, scores, gamma)
        groups = [adv.group_relative(scores, 3, scale) for scale in adv.SCALES]
        return advantages, targets, plus, *groups, adv.leave_one_out(scores, 3), means

    results = jax.eval_shape(step, REWARDS[:3], VALUES[:3], MASK[:3], REWARDS[:3, 0], 0.9)
    assert [r.shape for r in results] == [(3, 7)] * 3 + [(3,)] * 4 + [()]


# Dynamic sampling


@pytest.mark.parametrize(
    ("spread", "count", "groups", "share"),
    [
        ([0, 1, 0, 1, 1], 2, [1, 3], 1.0),
        ([0, 1, 0, 1, 1], 3, [1, 3, 4], 1.0),
        ([0, 1, 0, 0, 0], 3, [1, 0, 2], 1 / 3),  # groups without any fill up, in their order
        ([0, 0, 0, 0, 0], 2, [0, 1], 0.0),
        ([1, 1, 1, 1, 1], 5, [0, 1, 2, 3, 4], 1.0),
    ],
)
def test_groups_with_spread_come_first(spread, count, groups, share):
    rewards = np.array([[0.5, 0.5, 0.5 + s] for s in spread])
    rewards[0, 0] = np.nan  # doesn't apply: no spread
    rows, found = adv.groups_with_spread(rewards.reshape(-1), 3, count)
    expected = [3 * group + i for group in groups for i in range(3)]
    np.testing.assert_array_equal(ops.convert_to_numpy(rows), expected)
    np.testing.assert_allclose(ops.convert_to_numpy(found), share, rtol=1e-6)


def test_a_group_to_which_no_reward_applies_has_no_spread():
    rewards = np.array([np.nan, np.nan, 1.0, 2.0])
    rows, share = adv.groups_with_spread(rewards, 2, 1)
    assert ops.convert_to_numpy(rows).tolist() == [2, 3] and float(share) == 1
