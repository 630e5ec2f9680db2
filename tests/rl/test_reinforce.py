"""REINFORCE's updates against the formulas in float64, for each baseline."""

import keras
import numpy as np
import pytest
from keras import ops
from tables import (
    BEFORE,
    COMPLETIONS,
    END,
    MASK,
    OTHER,
    PROMPTS,
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

from artifex_keras.rl import REINFORCE, RLOO, traceable

pytestmark = pytest.mark.backends("jax")

REWARDS = np.array([1.0, 0.0, 0.5, np.nan, 2.0, 0.0])
APPLIES = ~np.isnan(REWARDS)
PLAIN = np.where(APPLIES, REWARDS, 0.0)
K1 = (log_probs(TABLE) - log_probs(OTHER)) * MASK


def reinforce(baseline, **options):
    common = {"num_generations": 3, "max_new_tokens": 3, "end_token_id": END, "seed": 0}
    if options.get("kl_coeff"):
        common["reference"] = policy(OTHER, "reference")
    return REINFORCE(policy(), None, baseline=baseline, **{**common, **options})


def left_out(values):
    """Less the mean of the others of its prompt."""
    found = np.zeros(6)
    for group in (range(3), range(3, 6)):
        for i in group:
            others = [values[j] for j in group if j != i and APPLIES[j]]
            found[i] = values[i] - np.mean(others)
    return found * APPLIES


def whitened(values):
    counted = (MASK * APPLIES[:, None]) > 0
    chosen = values[counted]
    return np.where(counted, (values - chosen.mean()) / np.sqrt(chosen.var(ddof=1) + 1e-8), 0.0)


def loss_of(table, worth, c_e=0.0):
    worth = worth if worth.ndim == 2 else worth[:, None]
    return -(worth * log_probs(table) * MASK).sum() / 6 - c_e * entropy(table)


def agrees(model, worth, c_e=0.0):
    model.policy.set_weights([np.float32(TABLE)])
    table, logs = taught(model, rollout(), REWARDS)
    close(table, TABLE - slope(lambda t: loss_of(t, worth, c_e), TABLE))
    close(logs["loss"], loss_of(TABLE, worth, c_e))
    assert logs["approx_kl"] < 1e-6


def worth_by(baseline, scores):
    """Of each completion, from `scores` (6,)."""
    return {
        None: scores,
        "batch": scores - scores[APPLIES].mean(),
        "loo": left_out(scores),
        "moving": scores,  # nothing came before
    }[baseline] * APPLIES


@pytest.mark.parametrize("baseline", [None, "batch", "loo", "moving"])
def test_each_baseline_by_the_letter(baseline):
    agrees(reinforce(baseline), worth_by(baseline, PLAIN))
    penalised = PLAIN - 0.5 * K1.sum(1)
    agrees(reinforce(baseline, kl_coeff=0.5), worth_by(baseline, penalised))


def test_the_moving_mean_knows_earlier_batches_alone():
    model = reinforce("moving", baseline_decay=0.4)
    agrees(model, PLAIN * APPLIES)
    mean = PLAIN[APPLIES].mean()
    agrees(model, (PLAIN - mean) * APPLIES)  # of one batch
    shifted = 0.4 * mean + 0.6 * mean
    agrees(model, (PLAIN - shifted) * APPLIES)


@pytest.mark.parametrize("kl_coeff", [0.0, 0.5])
def test_the_greedy_completion_is_what_others_are_compared_with(kl_coeff):
    """Of each three rows the last is the greedy one: it teaches nothing itself."""
    sampled = np.array([0, 1, 3, 4])
    for best, of_best in ((REWARDS, [0.5, 0.0]), (np.where(np.arange(6) == 2, np.nan, REWARDS), 0)):
        model = reinforce("greedy", num_generations=2, kl_coeff=kl_coeff)
        penalised = PLAIN - kl_coeff * K1.sum(1)
        worth = (penalised[sampled] - np.repeat(of_best, 4 // np.size(of_best))) * APPLIES[sampled]

        def loss(table, worth=worth):
            found = log_probs(table, BEFORE[sampled], COMPLETIONS[sampled])
            return -(worth[:, None] * found * MASK[sampled]).sum() / 4

        table, logs = taught(model, rollout(), best)
        close(table, TABLE - slope(loss, TABLE))
        close(logs["loss"], loss(TABLE))
        close(logs["reward"], np.nanmean(REWARDS[sampled]))
        close(logs["greedy_reward"], np.nanmean(best[[2, 5]]))


def test_whitened_returns_to_go():
    """REINFORCE++: the score at the last token, the penalty of each from it on."""
    for beta in (0.0, 0.5):
        to_go = PLAIN[:, None] - beta * np.cumsum(K1[:, ::-1], axis=1)[:, ::-1]
        agrees(reinforce("whiten", kl_coeff=beta), whitened(to_go))


def test_a_discount_counts_from_the_end():
    last = MASK.sum(1) - 1
    powers = 0.5 ** (last[:, None] - np.arange(3)) * MASK
    base = PLAIN[APPLIES].mean()
    worth = (powers * PLAIN[:, None] - base * MASK) * APPLIES[:, None]
    agrees(reinforce("batch", gamma=0.5), worth)


def test_entropy_is_favoured():
    agrees(reinforce("batch", entropy_coeff=0.3), worth_by("batch", PLAIN), 0.3)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_older_completions_weigh_as_the_policy_would_write_them(gamma):
    """Truncated importance weights, for a worth of rows and for one of actions."""
    far = log_probs(OTHER)
    weights = np.minimum(np.exp(log_probs(TABLE) - far), 1.3)
    powers = gamma ** (MASK.sum(1)[:, None] - 1 - np.arange(3))
    worth = weights * (powers * PLAIN[:, None] - PLAIN[APPLIES].mean()) * APPLIES[:, None]
    model = reinforce("batch", gamma=gamma, importance_cap=1.3)
    table, logs = taught(model, rollout(far), REWARDS)
    close(table, TABLE - slope(lambda t: loss_of(t, worth), TABLE))
    close(logs["loss"], loss_of(TABLE, worth))
    close(logs["importance_weight"], (weights * MASK).sum() / MASK.sum())


def test_equal_rewards_teach_exactly_nothing():
    model = reinforce("loo")
    for value in (0.1, 1 / 3, -7.3):
        table, _ = taught(model, rollout(), np.full(6, value))
        np.testing.assert_array_equal(table, np.float32(TABLE))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="baseline"):
        reinforce("mean")
    with pytest.raises(ValueError, match="`num_generations` must be an integer of at least 2"):
        reinforce("loo", num_generations=1)
    with pytest.raises(ValueError, match="`num_epochs` is of no use here"):
        reinforce("batch", num_epochs=2)
    with pytest.raises(ValueError, match="`kl_estimator` is of no use here"):
        reinforce("batch", kl_estimator="k3")


@traceable
def fours(prompts, completions, completion_mask):
    """How many 4 a completion has."""
    return ops.sum(ops.cast(completions == 4, "float32") * completion_mask, axis=1)


def test_rloo_is_reinforce_with_the_others_as_baseline():
    def weights(cls, **options):
        model = cls(policy(), fours, max_new_tokens=3, num_generations=4, seed=0, **options)
        model.compile(keras.optimizers.SGD(1.0))
        model.fit(PROMPTS[:, :1], batch_size=2, shuffle=False, verbose=0)
        return table_of(model.policy)

    found = weights(RLOO)
    np.testing.assert_array_equal(found, weights(REINFORCE, baseline="loo"))
    assert np.abs(found - TABLE).max() > 1e-3
    with pytest.raises(ValueError, match="`baseline`.*see REINFORCE"):
        weights(RLOO, baseline="batch")
