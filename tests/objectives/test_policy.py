"""Policy losses against loops in float64; divergences and fixed points by enumeration."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import value_and_grad
from artifex_keras.objectives import policy
from artifex_keras.objectives.advantages import group_relative, leave_one_out, token_rewards
from artifex_keras.objectives.tokens import masked_sum

RNG = np.random.default_rng(0)
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
OLD = -RNG.uniform(0.5, 3, MASK.shape)
NEW = OLD + RNG.normal(size=MASK.shape) * 0.3
KL = RNG.uniform(size=MASK.shape)
PER_ROW = np.array([1.0, -2.0, 0.5, 7.0])
PER_TOKEN = RNG.normal(size=MASK.shape)


def numpy(x):
    return ops.convert_to_numpy(x)


def close(x, expected, **tolerance):
    np.testing.assert_allclose(numpy(x), expected, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


def slope(loss, x):
    """The gradient of a scalar `loss(x)` at x."""
    x = keras.Variable(np.float32(x))
    _, _, (gradient,) = value_and_grad(lambda: (loss(ops.convert_to_tensor(x)), None), [x])
    return numpy(gradient)


# The surrogate


def losses(advantages, low, high, level="token", dual=None, kl_coeff=0.0, surrogate="ppo"):
    """Per token, {(row, step): loss}, by the letter of the formulas."""
    result = {}
    for b, row in enumerate(MASK):
        steps = [s for s, counts in enumerate(row) if counts]
        for s in steps:
            x = NEW[b, s] - OLD[b, s]
            if level == "sequence":
                x = sum(NEW[b, u] - OLD[b, u] for u in steps) / len(steps)
            a = advantages[b] if np.ndim(advantages) == 1 else advantages[b, s]
            ratio = math.exp(x)
            bounded = min(max(ratio, 1 - low), 1 + high)
            loss = -min(ratio * a, bounded * a)
            if surrogate == "cispo":
                loss = -bounded * a * NEW[b, s]
            if dual and a < 0:
                loss = min(loss, -dual * a)
            result[b, s] = loss + kl_coeff * KL[b, s]
    return result


def reduced(per_token, reduction):
    rows = [[v for (b, _), v in per_token.items() if b == row] for row in range(3)]
    total, count = sum(per_token.values()), len(per_token)
    return {
        "grpo": sum(sum(row) / len(row) for row in rows) / 3,  # the fourth row is empty
        "bnpo": total / count,
        "dapo": total / 40,
        "dr_grpo": total / (3 * 10),
    }[reduction]


@pytest.mark.parametrize("reduction", ["grpo", "bnpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("level", policy.LEVELS)
@pytest.mark.parametrize("advantages", [PER_ROW, PER_TOKEN], ids=["rows", "tokens"])
def test_the_surrogate_by_the_letter(reduction, level, advantages):
    expected = reduced(losses(advantages, 0.1, 0.2, level, 1.15, 0.3), reduction)
    loss = policy.clipped_surrogate(
        NEW,
        OLD,
        advantages,
        MASK,
        clip_low=0.1,
        clip_high=0.2,
        dual_clip=1.15,
        level=level,
        reduction=reduction,
        max_length=10,
        num_tokens=40,
        kl=KL,
        kl_coeff=0.3,
    )
    close(loss, expected)


def test_a_surrogate_by_hand():
    new, old = np.log([[1.5, 1.5, 0.5, 0.5, 4.0]]), np.zeros((1, 5))
    advantages, mask = [[1.0, -1, 1, -1, -1]], np.ones((1, 5))
    each = policy.clipped_surrogate(new, old, advantages, mask, reduction="none")
    close(each, [[-1.2, 1.5, -0.5, 0.8, 4.0]])
    each = policy.clipped_surrogate(
        new, old, advantages, mask, clip_high=0.28, dual_clip=3.0, reduction="none"
    )
    close(each, [[-1.28, 1.5, -0.5, 0.8, 3.0]])
    close(policy.clip_fractions(new, old, advantages, mask)[0], 0.2)
    close(policy.clip_fractions(new, old, advantages, mask)[1], 0.2)
    close(policy.clip_fraction(new, old, advantages, mask, clip_high=0.6), 0.2)
    gradient = slope(lambda x: policy.clipped_surrogate(x, old, advantages, mask), new)
    close(gradient, np.array([[0, 1.5, -0.5, 0, 4.0]]) / 5)  # nothing where it is clipped


@pytest.mark.parametrize("reduction", ["grpo", "bnpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("level", policy.LEVELS)
@pytest.mark.parametrize("advantages", [PER_ROW, PER_TOKEN], ids=["rows", "tokens"])
def test_cispo_by_the_letter(reduction, level, advantages):
    expected = losses(advantages, 1.0, 0.1, level, kl_coeff=0.3, surrogate="cispo")
    common = {"clip_low": 1.0, "clip_high": 0.1, "level": level, "surrogate": "cispo"}
    reduce = {"reduction": reduction, "max_length": 10, "num_tokens": 40}
    loss = policy.clipped_surrogate(
        NEW, OLD, advantages, MASK, kl=KL, kl_coeff=0.3, **common, **reduce
    )
    close(loss, reduced(expected, reduction))


def test_cispo_by_hand():
    """Ratios of 1.5, 8 and .5, the second bounded by 5: 2506.13585 equations 4 and 5."""
    new = np.log([[0.75, 0.8, 0.25, 0.8]])
    old, mask = np.log([[0.5, 0.1, 0.5, 0.1]]), np.ones((1, 4))
    advantages = [[1.0, -1, 1, 1]]
    bounds = {"clip_low": 1.0, "clip_high": 4.0, "surrogate": "cispo"}
    weights = np.array([1.5, 5.0, 0.5, 5.0])
    each = policy.clipped_surrogate(new, old, advantages, mask, reduction="none", **bounds)
    close(each, -weights * advantages * new)
    gradient = slope(lambda x: policy.clipped_surrogate(x, old, advantages, mask, **bounds), new)
    close(gradient, -weights * advantages / 4)  # also where the weight is at its bound
    below, above = policy.clip_fractions(new, old, advantages, mask, **bounds)
    close([below, above], [0, 0.5])  # whatever the advantage
    bounds["clip_low"] = 0.2
    below, above = policy.clip_fractions(new, old, advantages, mask, **bounds)
    close([below, above], [0.25, 0.5])
    each = policy.clipped_surrogate(new, old, advantages, mask, reduction="none", **bounds)
    close(each[0, 2], -0.8 * np.log(0.25))


@pytest.mark.parametrize("reduction", ["grpo", "dapo"])
def test_the_first_step_of_cispo_is_the_policy_gradient(reduction):
    def loss(x):
        return policy.clipped_surrogate(
            x, x, PER_ROW, MASK, clip_low=1.0, reduction=reduction, surrogate="cispo"
        )

    close(slope(loss, OLD), -PER_ROW[:, None] * MASK * FIRST_STEP[reduction])


def test_importance_weights_by_hand():
    policy_, sampler = np.log([[0.5, 0.9, 0.1]]), np.log([[0.4, 0.1, 0.2]])
    close(policy.importance_weights(policy_, sampler, 2.0), [[1.25, 2.0, 0.5]])
    gradient = slope(lambda x: ops.sum(x * policy.importance_weights(x, sampler, 2.0)), policy_)
    close(gradient, [[1.25, 2.0, 0.5]])  # the weights are constants
    with pytest.raises(ValueError, match="`cap` must be positive"):
        policy.importance_weights(policy_, sampler, 0.0)


def test_uncapped_importance_weights_are_exact_in_expectation():
    """A mean over the sampler's tokens becomes one over the policy's: 1 for the constant 1."""
    values = np.arange(5.0)
    weights = numpy(policy.importance_weights(np.log(P)[None], np.log(S)[None], 1e6))[0]
    np.testing.assert_allclose((S * weights).sum(), 1, rtol=1e-6)
    np.testing.assert_allclose((S * weights * values).sum(), (P * values).sum(), rtol=1e-6)


@pytest.mark.parametrize("surrogate", policy.SURROGATES)
def test_weights_multiply_the_surrogate_and_not_the_divergence(surrogate):
    weights = RNG.uniform(0.5, 2, MASK.shape)
    plain = losses(PER_ROW, 0.2, 0.2, surrogate=surrogate)
    expected = {(b, s): weights[b, s] * v + 0.3 * KL[b, s] for (b, s), v in plain.items()}
    loss = policy.clipped_surrogate(
        NEW,
        OLD,
        PER_ROW,
        MASK,
        kl=KL,
        kl_coeff=0.3,
        surrogate=surrogate,
        weights=np.where(MASK, weights, np.nan),
    )
    close(loss, reduced(expected, "grpo"))


def test_unreduced_losses_stand_where_tokens_count():
    expected = np.zeros(MASK.shape)
    for place, value in losses(PER_ROW, 0.2, 0.2).items():
        expected[place] = value
    close(policy.clipped_surrogate(NEW, OLD, PER_ROW, MASK, reduction="none"), expected)
    total = policy.clipped_surrogate(NEW, OLD, PER_ROW, MASK, reduction="dapo")
    close(total, expected.sum() / MASK.sum())  # all tokens are those of this batch


def test_micro_batches_add_up_to_the_batch():
    parts = [
        policy.clipped_surrogate(
            NEW[s], OLD[s], PER_ROW[s], MASK[s], reduction="dapo", num_tokens=MASK.sum()
        )
        for s in (slice(0, 1), slice(1, 4))
    ]
    whole = policy.clipped_surrogate(NEW, OLD, PER_ROW, MASK, reduction="dapo")
    close(parts[0] + parts[1], numpy(whole))


@pytest.mark.parametrize("reduction", policy.REDUCTIONS)
@pytest.mark.parametrize("level", policy.LEVELS)
@pytest.mark.parametrize("surrogate", policy.SURROGATES)
def test_what_does_not_count_reaches_neither_loss_nor_gradient(reduction, level, surrogate):
    def loss(x, old, advantages, kl):
        return ops.sum(
            policy.clipped_surrogate(
                x, old, advantages, MASK, level=level, reduction=reduction, max_length=9,
                kl=kl, kl_coeff=0.1, surrogate=surrogate,
            )
        )  # fmt: skip

    dirty = [
        np.where(MASK, x, junk)
        for x, junk in zip((OLD, PER_TOKEN, KL), (np.nan, -np.inf, np.inf), strict=True)
    ]
    clean = [np.where(MASK, x, 0) for x in (OLD, PER_TOKEN, KL)]
    new = np.where(MASK, NEW, np.inf)
    close(loss(new, *dirty), numpy(loss(NEW, *clean)))
    gradient = slope(lambda x: loss(x, *dirty), new)
    close(gradient, slope(lambda x: loss(x, *clean), NEW))
    assert np.all(gradient[MASK == 0] == 0) and np.all(gradient[0] != 0)
    everything = np.zeros_like(MASK)
    empty = policy.clipped_surrogate(
        NEW, OLD, PER_ROW, everything, level=level, reduction=reduction, max_length=9
    )
    assert np.all(numpy(empty) == 0)


FIRST_STEP = {
    "grpo": np.array([[1 / 4] * 4, [1 / 2] * 4, [1 / 2] * 4, [0] * 4]) / 3,
    "bnpo": 1 / 8,
    "dapo": 1 / 8,
    "dr_grpo": 1 / 30,
}


@pytest.mark.parametrize("reduction", FIRST_STEP)
def test_the_first_step_is_the_policy_gradient(reduction):
    def loss(x):
        return policy.clipped_surrogate(x, x, PER_ROW, MASK, reduction=reduction, max_length=10)

    expected = -PER_ROW[:, None] * MASK * FIRST_STEP[reduction]
    close(slope(loss, OLD), expected)
    close(loss(np.float32(OLD)), expected.sum())
    assert float(policy.clip_fraction(OLD, OLD, PER_ROW, MASK)) == 0
    assert float(policy.approx_kl(OLD, OLD, MASK)) == 0


def test_the_first_step_of_whole_sequences_shares_the_gradient_among_tokens():
    gradient = slope(lambda x: policy.clipped_surrogate(x, x, PER_ROW, MASK, level="sequence"), OLD)
    close(gradient, -PER_ROW[:, None] * MASK * FIRST_STEP["grpo"])


def test_a_ratio_of_sums_is_the_surrogate_of_one_long_token():
    total = [masked_sum(x, MASK)[:, None] for x in (NEW, OLD)]
    loss = policy.clipped_surrogate(*total, PER_ROW, np.ones((4, 1)))
    ratios = np.exp(((NEW - OLD) * MASK).sum(1))
    expected = -np.minimum(ratios * PER_ROW, np.clip(ratios, 0.8, 1.2) * PER_ROW)
    close(loss, expected.mean())


def test_extreme_ratios_stay_finite():
    new, old = np.array([[0.0, -500.0]]), np.array([[-500.0, 0.0]])
    loss = policy.clipped_surrogate(new, old, [-1.0], np.ones((1, 2)), reduction="none")
    close(loss, [[math.exp(20), 0.8]])
    for name in policy.KL_ESTIMATORS:
        kl = policy.kl_estimate(new, old, name, old)
        assert np.isfinite(numpy(kl)).all()
        gradient = slope(lambda x, name=name: ops.sum(policy.kl_estimate(x, old, name, old)), new)
        assert np.isfinite(gradient).all()


def test_advantages_and_old_policy_are_constants():
    x = np.float32(NEW)

    def loss(x):
        return policy.clipped_surrogate(x, 0.9 * x, 2.0 * x, MASK, clip_low=9.0)

    held = slope(lambda y: policy.clipped_surrogate(y, 0.9 * x, 2.0 * x, MASK, clip_low=9.0), x)
    close(slope(loss, x), held)


def test_bad_arguments_are_refused():
    def surrogate(advantages=PER_ROW, mask=MASK, **options):
        return policy.clipped_surrogate(NEW, OLD, advantages, mask, **options)

    cases = [
        ("Did you mean 'dr_grpo'", {"reduction": "dr-grpo"}),
        ("Choices: sequence, token", {"level": "row"}),
        ("max_length", {"reduction": "dr_grpo"}),
        ("dual_clip", {"dual_clip": 1.0}),
        ("clip_low", {"clip_low": -0.1}),
        ("clip_high", {"clip_high": -0.1}),
        ("Did you mean 'cispo'", {"surrogate": "cipso"}),
        ("`dual_clip` bounds", {"surrogate": "cispo", "dual_clip": 3.0}),
        ("needs `kl`", {"kl_coeff": 0.1}),
        ("agree", {"advantages": PER_ROW[:1]}),
        ("agree", {"advantages": PER_ROW[:, None]}),
        ("agree", {"mask": MASK[:, :1]}),
        ("agree", {"kl": KL[:, 0], "kl_coeff": 0.1}),
    ]
    for message, options in cases:
        with pytest.raises(ValueError, match=message):
            surrogate(**options)


def test_reinforce_sums_over_tokens_and_averages_over_rows():
    expected = -sum(PER_ROW[b] * (NEW[b] * MASK[b]).sum() for b in range(3)) / 3
    close(policy.reinforce_loss(NEW, PER_ROW, MASK), expected)
    close(policy.reinforce_loss(NEW, PER_TOKEN, MASK), -(PER_TOKEN * NEW * MASK).sum() / 3)
    gradient = slope(lambda x: policy.reinforce_loss(x, PER_ROW, MASK), NEW)
    close(gradient, -PER_ROW[:, None] * MASK / 3)


# Divergences


def test_estimators_by_hand():
    x = np.log(2.0)
    ratio = np.exp(0.3)
    for name, value in {
        "k1": x,
        "k2": x * x / 2,
        "k3": 0.5 - 1 + x,
        "k3_is": ratio * (x - 0.5),
    }.items():
        close(policy.kl_estimate([[-1.0]], [[-1 - x]], name, [[-1.3]]), [[value]])
    close(policy.kl_estimate([[-1.0]], [[-1 - x]], "k3_is"), [[x - 0.5]])
    with pytest.raises(ValueError, match="Choices: k1, k2, k3, k3_is"):
        policy.kl_estimate([[0.0]], [[0.0]], "k4")


@pytest.mark.parametrize("name", ["k2", "k3", "k3_is"])
def test_estimators_are_zero_at_the_reference_and_never_negative(name):
    assert np.all(numpy(policy.kl_estimate(OLD, OLD, name, OLD)) == 0)
    assert np.all(numpy(policy.kl_estimate(NEW, OLD, name, NEW)) > 0)
    tiny = numpy(policy.kl_estimate([[1e-3]], [[0.0]], name))
    np.testing.assert_allclose(tiny, 5e-7, rtol=2e-3)


LOGITS = np.float32([0.9, -0.4, 0.1, -1.3, 0.6])
REFERENCE = np.float32([-0.2, 0.5, 0.3, -0.6, -0.1])
SAMPLER = np.float32([0.0, 0.3, -0.5, -0.2, 0.8])


def softmax(z):
    p = np.exp(np.float64(z))
    return p / p.sum()


def expected_estimate(name, sampler, logits, old=None):
    """Σ_a of the sampler's probability, held fixed, times the estimate from a sample a."""
    log_p = ops.log_softmax(logits)[None]
    reference = np.log(softmax(REFERENCE))[None]
    kl = policy.kl_estimate(log_p, reference, name, None if old is None else np.log(old)[None])
    return ops.sum(ops.cast(sampler[None], "float32") * ops.cast(kl, "float32"))


P, Q, S = softmax(LOGITS), softmax(REFERENCE), softmax(SAMPLER)
X = np.log(P / Q)
FORWARD = (P * X).sum()  # KL(π‖π_ref)
GRADIENTS = {
    "k1": np.zeros(5),
    "k2": P * (X - FORWARD),
    "k3": P - Q,  # of KL(π_ref‖π)
    "k3_is": P * (X - FORWARD),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_expected_gradient_of_each_estimator(name):
    gradient = slope(lambda z: expected_estimate(name, P, z), LOGITS)
    close(gradient, GRADIENTS[name])
    if name != "k2":
        close(expected_estimate(name, P, LOGITS), FORWARD)


def test_the_ratio_makes_k3_right_on_samples_of_another_policy():
    close(expected_estimate("k3_is", S, LOGITS, old=S), FORWARD)
    gradient = slope(lambda z: expected_estimate("k3_is", S, z, old=S), LOGITS)
    close(gradient, GRADIENTS["k3_is"])
    gap = abs(float(expected_estimate("k3", S, LOGITS)) - FORWARD)
    assert gap > 0.02  # which it isn't without


def test_the_distance_from_the_sampler_is_estimated_on_its_samples():
    new, old = np.log(P)[None], np.log(S)[None]
    ratio = P / S
    mask = np.ones((1, 5))
    close(policy.approx_kl(new, old, mask), (ratio - 1 - np.log(ratio)).mean())
    np.testing.assert_allclose((S * (ratio - 1 - np.log(ratio))).sum(), (S * np.log(S / P)).sum())
    spoilt = np.append(new, [[np.nan]], 1), np.append(old, [[0.0]], 1), [[1] * 5 + [0]]
    close(policy.approx_kl(*spoilt), (ratio - 1 - np.log(ratio)).mean())


def test_the_adaptive_coefficient_follows_the_divergence():
    options = {"target": 6.0, "horizon": 1000, "num_samples": 100}
    close(policy.adaptive_kl_coeff(0.2, 6.6, **options), 0.2 * (1 + 0.1 * 0.1))
    close(policy.adaptive_kl_coeff(0.2, 60.0, **options), 0.2 * (1 + 0.2 * 0.1))
    close(policy.adaptive_kl_coeff(0.2, 0.0, **options), 0.2 * (1 - 0.2 * 0.1))
    close(policy.adaptive_kl_coeff(0.2, 6.0, **options), 0.2)


# The bandit: one token, ten arms, reward 1 for one of them, a uniform reference

BETA = 1 / math.log(9)
G = 8
# The rewarded arm, logit z, in k = 0 .. G of the G samples; the others are alike, logit 0.
ARMS = np.array([[1] * k + [0] * (G - k) for k in range(G + 1)]).reshape(-1)


def bandit_gradient(p, advantage_of, kl_in):
    """The expected gradient of the loss in z where the rewarded arm has probability p."""
    weights = [math.comb(G, k) * p**k * (1 - p) ** (G - k) / G for k in range(G + 1)]
    weights = ops.convert_to_tensor(np.float32(np.repeat(weights, G)[:, None]))

    def loss(z):
        total = ops.logsumexp(ops.append(z, ops.full((1,), math.log(9.0))))
        log_probs = ops.where(ARMS[:, None] == 1, z - total, -total)
        reference = np.full((72, 1), -math.log(10), "float32")
        kl = policy.kl_estimate(log_probs, reference, kl_in.split()[0])
        return ops.sum(bandit_loss(log_probs, kl, advantage_of, kl_in) * weights)

    return float(slope(loss, [math.log(9 * p / (1 - p))])[0])


def bandit_loss(log_probs, kl, advantage_of, kl_in):
    mask = np.ones((72, 1), "float32")
    penalty = ops.stop_gradient(BETA * kl)[:, 0]
    if kl_in == "k1":  # in the reward
        advantages = advantage_of(token_rewards(ARMS, mask, ops.stop_gradient(kl), BETA)[:, 0])
    elif kl_in == "k1 after":  # in the reward, once the group has been compared
        advantages = ops.cast(advantage_of(np.float32(ARMS)), "float32") - penalty
    else:
        advantages = advantage_of(np.float32(ARMS))
    coeff = 0.0 if kl_in in ("k1", "k1 after") else BETA
    return policy.clipped_surrogate(
        log_probs, log_probs, advantages, mask, reduction="none", kl=kl, kl_coeff=coeff
    )


def group_mean(rewards):
    return group_relative(rewards, G, "none")


def unbiased(rewards):
    return leave_one_out(rewards, G)


@pytest.mark.parametrize(
    ("advantage_of", "kl_in", "probability"),
    [
        (unbiased, "k1", 0.5),
        (unbiased, "k2", 0.5),
        (unbiased, "k3_is", 0.5),
        (unbiased, "k3", 0.6185),
        (group_mean, "k1", 0.5),  # the mean shrinks reward and penalty alike
        (group_mean, "k1 after", 0.4318),
        (group_mean, "k2", 0.4318),
        (group_mean, "k3_is", 0.4318),
        (group_mean, "k3", 0.5710),
    ],
)
def test_the_bandit_settles_where_the_closed_form_says(advantage_of, kl_in, probability):
    at = [bandit_gradient(probability + d, advantage_of, kl_in) for d in (-1e-3, 0, 1e-3)]
    assert at[0] < 0 < at[2]  # the loss falls towards it from both sides
    assert abs(at[1]) < 0.1 * min(-at[0], at[2])


def test_k1_in_the_loss_regularises_nothing():
    gradient = bandit_gradient(0.9, unbiased, "k1 loss")
    np.testing.assert_allclose(gradient, -0.9 * 0.1, rtol=1e-4)  # of the reward alone


# The critic

VALUES, TARGETS = RNG.normal(size=(2, *MASK.shape))
BEFORE = VALUES + RNG.normal(size=MASK.shape) * 0.5


@pytest.mark.parametrize("clip", [0.2, 0.05, None])
def test_the_value_loss_is_half_the_larger_square(clip):
    total = 0
    for b, s in np.argwhere(MASK):
        v, old, target = VALUES[b, s], BEFORE[b, s], TARGETS[b, s]
        near = v if clip is None else min(max(v, old - clip), old + clip)
        total += 0.5 * max((v - target) ** 2, (near - target) ** 2)
    close(policy.value_loss(VALUES, BEFORE, TARGETS, MASK, clip), total / MASK.sum())


def test_the_value_loss_drops_what_does_not_count_and_holds_its_targets():
    dirty = [np.where(MASK, x, np.nan) for x in (VALUES, BEFORE, TARGETS)]
    close(
        policy.value_loss(*dirty, MASK, 0.2), policy.value_loss(VALUES, BEFORE, TARGETS, MASK, 0.2)
    )
    gradient = slope(lambda v: policy.value_loss(v, None, 0.5 * v, MASK), dirty[0])
    close(gradient, 0.5 * np.where(MASK, VALUES, 0) / MASK.sum())


def test_explained_variance():
    kept = MASK > 0
    expected = 1 - np.var((TARGETS - VALUES)[kept]) / np.var(TARGETS[kept])
    spoilt = np.where(MASK, VALUES, np.nan)
    close(policy.explained_variance(spoilt, TARGETS, MASK), expected)
    close(policy.explained_variance(TARGETS + 3, TARGETS, MASK), 1)
    close(policy.explained_variance(np.full(MASK.shape, 5), TARGETS, MASK), 0)
    close(policy.explained_variance(VALUES, np.ones(MASK.shape), MASK), 0)


@pytest.mark.backends("jax")
@pytest.mark.parametrize("reduction", policy.REDUCTIONS)
def test_losses_are_traced_with_traced_coefficients(reduction):
    import jax

    def step(new, old, advantages, mask, coeff):
        kl = policy.kl_estimate(new, old, "k3_is", old)
        options = {"clip_low": coeff, "dual_clip": 2.0, "kl": kl, "kl_coeff": coeff}
        return [
            policy.clipped_surrogate(
                new, old, advantages, mask, level=level, reduction=reduction, max_length=10,
                num_tokens=ops.sum(mask), **options,
            )
            for level in policy.LEVELS
        ] + [
            policy.reinforce_loss(new, advantages, mask),
            policy.clip_fraction(new, old, advantages, mask, clip_low=coeff),
            policy.approx_kl(new, old, mask),
            policy.value_loss(new, old, kl, mask, coeff),
            policy.explained_variance(new, old, mask),
            policy.adaptive_kl_coeff(coeff, kl[0, 0], target=0.1, horizon=10, num_samples=2),
        ]  # fmt: skip

    shapes = [leaf.shape for leaf in jax.eval_shape(step, NEW, OLD, PER_ROW, MASK, 0.1)]
    assert shapes == [MASK.shape if reduction == "none" else ()] * 2 + [()] * 6
