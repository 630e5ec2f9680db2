"""Losses of policies: the clipped surrogate and its diagnostics, KL estimates, the value loss.

B rows of T tokens or steps. l, `log_probs` (B, T), are those of the running policy at the sampling
temperature, with the gradient; `old_log_probs` those of the policy that sampled, `advantages` and
everything else are constants, through which no gradient flows. A mask (B, T) is 1 on what counts;
the rest is dropped, be it NaN. A row in which nothing counts (a truncated completion left out, a
row that fills up a batch) is in no mean, neither above nor below its bar. Everything called a loss
is to be minimised.
"""

from keras import ops

from artifex_keras.arguments import lookup
from artifex_keras.objectives.masks import as_floats, weighted_mean
from artifex_keras.objectives.tokens import counted, row_mean

__all__ = [
    "KL_ESTIMATORS",
    "LEVELS",
    "REDUCTIONS",
    "SURROGATES",
    "adaptive_kl_coeff",
    "approx_kl",
    "clip_fraction",
    "clip_fractions",
    "clipped_surrogate",
    "explained_variance",
    "importance_weights",
    "kl_estimate",
    "reduction_weight",
    "reinforce_loss",
    "value_loss",
]

LOG_RATIO_LIMIT = 20.0  # e^20 is where a float32 ratio stops meaning anything


# Ratios


def _of_tokens(difference, mask):
    return difference


def _of_rows(difference, mask):
    return ops.expand_dims(row_mean(difference, mask), 1)


LEVELS = {"token": _of_tokens, "sequence": _of_rows}


def _ratio(log_probs, old_log_probs, mask=None, level=_of_tokens):
    """``ρ = exp(l - l_old)``, (B, T), or one per row, (B, 1); the exponent stays within ±20."""
    difference = level(log_probs - ops.stop_gradient(old_log_probs), mask)
    return ops.exp(ops.clip(difference, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def importance_weights(log_probs, sampler_log_probs, cap):
    """``min(exp(l - l_sampler), cap)``, (B, T): constants by which a token weighs where it was
    sampled by another policy than l is of, an older one or the same one in other arithmetic.

    The weights make means over the sampler's tokens those over the policy's, and `cap` bounds
    their variance for some bias: truncated importance sampling, 1802.01561 section 4.1.

    Raises:
        ValueError: for a `cap` that isn't positive.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.policy import importance_weights

    policy, sampler = np.log([[0.5, 0.9]]), np.log([[0.4, 0.1]])
    print(importance_weights(policy, sampler, 2.0))  # [[1.25 2]]
    ```
    """
    if isinstance(cap, int | float) and cap <= 0:
        raise ValueError(f"`cap` must be positive. Received: cap={cap}.")
    log_probs, sampler = as_floats(log_probs, sampler_log_probs)
    return ops.stop_gradient(ops.minimum(_ratio(log_probs, sampler), cap))


def _bounds(clip_low, clip_high):
    clip_high = clip_low if clip_high is None else clip_high
    for name, value in (("clip_low", clip_low), ("clip_high", clip_high)):
        if isinstance(value, int | float) and value < 0:
            raise ValueError(f"`{name}` must not be negative. Received: {name}={value}.")
    return 1 - clip_low, 1 + clip_high


def _counted(mask, log_probs, old_log_probs, advantages, *others):
    """What `counted` gives, with advantages of (B,) as constants (B, T) first."""
    advantages = ops.stop_gradient(ops.convert_to_tensor(advantages))
    if ops.ndim(advantages) == 1:
        steps = ops.shape(log_probs)[-1]
        advantages = ops.repeat(ops.expand_dims(advantages, 1), steps, axis=1)
    return counted(mask, log_probs, old_log_probs, advantages, *others)


# The policy's loss


def _clipped(ratio, low, high, advantages, log_probs):
    return -ops.minimum(ratio * advantages, ops.clip(ratio, low, high) * advantages)


def _weighted(ratio, low, high, advantages, log_probs):
    return -ops.stop_gradient(ops.clip(ratio, low, high)) * advantages * log_probs


SURROGATES = {"ppo": _clipped, "cispo": _weighted}


def clipped_surrogate(
    log_probs,
    old_log_probs,
    advantages,
    mask,
    *,
    clip_low=0.2,
    clip_high=None,
    dual_clip=None,
    level="token",
    reduction="grpo",
    max_length=None,
    num_tokens=None,
    kl=None,
    kl_coeff=0.0,
    surrogate="ppo",
    weights=None,
):
    """``-min(ρA, clip(ρ, 1-ε_lo, 1+ε_hi) A) + β KL`` per token, reduced: the loss of PPO and GRPO.

    ``ρ = exp(l - l_old)`` of each token, or at `level` "sequence" one per row,
    ``exp(Σ(l - l_old) m / |y|)`` with |y| = Σ m (GSPO, 2507.18071). With l_old = l, the policy
    that sampled being the running one, ρ is 1 and the value says nothing while the gradient is
    that of the policy. The ratio of whole sequences that RLOO clips is this loss at level "token"
    on ``masked_sum(...)[:, None]`` with a mask of ones.

    `surrogate` "cispo" makes the clipped ratio a constant weight of the policy gradient,
    ``-sg(clip(ρ, 1-ε_lo, 1+ε_hi)) A l + β KL``: no token loses its gradient (2506.13585 equations
    4 and 5). The paper leaves out the lower bound, which is ε_lo = 1.

    A row of `REDUCTIONS` makes one number of it:

    - "grpo": the mean over rows of ``Σ L m / |y|`` (2402.03300);
    - "bnpo": ``Σ L m / Σ m``;
    - "dapo": ``Σ L m / num_tokens``, the tokens of all micro-batches of one update, whose losses
      then *add* up to the whole; without `num_tokens` those of this batch (2503.14476);
    - "dr_grpo": ``Σ L m / (rows · max_length)`` (2503.20783);
    - "none": all of them, (B, T), 0 where nothing counts.

    Args:
        advantages: A, one per row (B,) or per token (B, T).
        clip_low: ε_lo. `clip_high` is ε_hi, by default the same.
        dual_clip: c > 1; where A < 0 the loss is at most ``-cA``. 1912.09729.
        kl: the estimate of the divergence per token (B, T), with its gradient; β is `kl_coeff`.
        max_length, num_tokens: left alone by the reductions that don't use them.
        weights: (B, T), constants by which each token's loss without its KL is multiplied, such as
            `importance_weights`.

    Raises:
        ValueError: for shapes that don't fit, an unknown level, reduction or surrogate, a negative
            clip range, a `dual_clip` not above 1 or with "cispo", "dr_grpo" without `max_length`,
            `kl_coeff` without `kl`.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.policy import clipped_surrogate

    old, mask = np.log([[0.5, 0.5]]), np.ones((1, 2))
    new = np.log([[0.9, 0.5]])  # a ratio of 1.8, clipped to 1.2, and one of 1
    print(clipped_surrogate(new, old, np.array([1.0]), mask))  # -(1.2 + 1) / 2 = -1.1
    ```
    """
    reduce = lookup(REDUCTIONS, reduction, "reduction")
    loss_of = lookup(SURROGATES, surrogate, "surrogate")
    if dual_clip is not None and surrogate != "ppo":
        raise ValueError(
            "`dual_clip` bounds the surrogate 'ppo'; the weights of 'cispo' are bounded by "
            f"`clip_high`. Received: dual_clip={dual_clip}, surrogate={surrogate!r}."
        )
    low, high = _bounds(clip_low, clip_high)
    if kl is None and (not isinstance(kl_coeff, int | float) or kl_coeff):
        raise ValueError(f"`kl_coeff` needs `kl`. Received: kl_coeff={kl_coeff}, kl=None.")
    kl = ops.zeros_like(log_probs) if kl is None else kl
    mask, log_probs, old, advantages, kl = _counted(mask, log_probs, old_log_probs, advantages, kl)
    ratio = _ratio(log_probs, old, mask, lookup(LEVELS, level, "level of the ratio"))
    loss = loss_of(ratio, low, high, advantages, log_probs)
    if dual_clip is not None:
        loss = _dual_clipped(loss, advantages, dual_clip)
    if weights is not None:
        loss = loss * ops.stop_gradient(counted(mask, weights)[1])
    return reduce(mask * (loss + kl_coeff * kl), mask, max_length, num_tokens)


def _dual_clipped(loss, advantages, bound):
    if isinstance(bound, int | float) and bound <= 1:
        raise ValueError(f"`dual_clip` must be above 1. Received: dual_clip={bound}.")
    return ops.where(advantages < 0, ops.minimum(loss, -bound * advantages), loss)


def _mean_of_rows(loss, mask, max_length, num_tokens):
    return weighted_mean(row_mean(loss, mask), _rows(mask))


def _mean_of_tokens(loss, mask, max_length, num_tokens):
    return weighted_mean(loss, mask)


def _share_of_all_tokens(loss, mask, max_length, num_tokens):
    if num_tokens is None:
        return weighted_mean(loss, mask)
    return ops.sum(loss) / ops.cast(num_tokens, loss.dtype)


def _share_of_longest(loss, mask, max_length, num_tokens):
    if max_length is None:
        raise ValueError("The reduction 'dr_grpo' needs `max_length`. Received: None.")
    rows = ops.maximum(ops.sum(_rows(mask)), 1.0)
    return ops.sum(loss) / (rows * max_length)


def _unreduced(loss, mask, max_length, num_tokens):
    return loss


def _rows(mask):
    """1 for each row in which something counts, (B,)."""
    return ops.max(mask, axis=1)


REDUCTIONS = {
    "grpo": _mean_of_rows,
    "bnpo": _mean_of_tokens,
    "dapo": _share_of_all_tokens,
    "dr_grpo": _share_of_longest,
    "none": _unreduced,
}
MEANS_OVER_ROWS = ("grpo", "dr_grpo")


def reduction_weight(mask, reduction):
    """What a `reduction` is a mean over, a scalar: the rows in which something counts, or tokens.

    The losses of several batches, weighted by it, have the loss of all of them for mean.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.policy import reduction_weight

    mask = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    print(reduction_weight(mask, "grpo"), reduction_weight(mask, "bnpo"))  # 2.0 3.0
    ```
    """
    lookup(REDUCTIONS, reduction, "reduction")
    counts = as_floats(ops.convert_to_tensor(mask) != 0)
    return ops.sum(_rows(counts) if reduction in MEANS_OVER_ROWS else counts)


def reinforce_loss(log_probs, advantages, mask):
    """``-A Σ_t l_t m``, the mean over rows: its gradient is minus the policy gradient.

    A sum over tokens, not a mean: dividing by |y| is another objective, which favours short
    rows among the good ones. `advantages` (B,) or (B, T) are rewards less a baseline.
    """
    mask, log_probs, _, advantages = _counted(mask, log_probs, log_probs, advantages)
    per_row = -ops.sum(advantages * log_probs, axis=1)
    return weighted_mean(per_row, _rows(mask))


# Divergence from a reference. x = l - l_ref


def _k1(x, ratio):
    return x


def _k2(x, ratio):
    return 0.5 * ops.square(x)


def _k3(x, ratio):
    x = ops.clip(x, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    # expm1 keeps the digits that exp(-x) - 1 loses near the reference.
    return ops.expm1(-x) + x


def _k3_is(x, ratio):
    return ratio * _k3(x, ratio)


KL_ESTIMATORS = {"k1": _k1, "k2": _k2, "k3": _k3, "k3_is": _k3_is}


def kl_estimate(log_probs, reference_log_probs, estimator, old_log_probs=None):
    """An estimate of KL(π‖π_ref) from each sampled token, (B, T) in nats, by `KL_ESTIMATORS`.

    With ``x = l - l_ref``: "k1" x, "k2" x²/2, "k3" ``e^-x - 1 + x``, and "k3_is" ρ times k3 with
    ``ρ = exp(l - l_old)``. On the policy's own samples k1 and k3 have the divergence for mean,
    and ρ makes k3 have it on the old policy's as well; k2 is only close to it.

    As a term of a loss what matters is the gradient, on own samples in expectation: of k1 it is
    0, of k2 and k3_is that of KL(π‖π_ref), of k3 that of KL(π_ref‖π). So ρ carries gradient, and
    without `old_log_probs` it is 1 and still does. As a penalty in the reward use k1.

    Only the gradient of l is kept. Exponents stay within ±20. Not masked: mask the result.

    Raises:
        ValueError: for an unknown estimator.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.policy import kl_estimate

    print(kl_estimate(np.log([[0.5]]), np.log([[0.25]]), "k1"))  # [[ln 2]]
    ```
    """
    estimate = lookup(KL_ESTIMATORS, estimator, "KL estimator")
    old_log_probs = log_probs if old_log_probs is None else old_log_probs
    log_probs, reference, old = as_floats(log_probs, reference_log_probs, old_log_probs)
    x = log_probs - ops.stop_gradient(reference)
    return estimate(x, _ratio(log_probs, old))


def adaptive_kl_coeff(kl_coeff, kl, *, target, horizon, num_samples):
    """The next coefficient β of a penalty that keeps the divergence near `target`, a scalar.

    ``β (1 + clip(kl/target - 1, ±0.2) n/horizon)`` after n = `num_samples` samples of mean
    divergence `kl`. 1909.08593 equation 4.
    """
    kl_coeff, kl = as_floats(kl_coeff, kl)
    error = ops.clip(kl / target - 1, -0.2, 0.2)
    return kl_coeff * (1 + error * num_samples / horizon)


# The critic


def value_loss(values, old_values, returns, mask, clip=None):
    """``½ mean max((v - R)², (clip(v, v_old ± ε) - R)²)`` over all that counts, a scalar.

    `clip` is ε in the returns' units; with None the first square stands alone and `old_values` is
    not looked at.
    `returns` are not whitened. 1707.06347; 2403.17031.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.policy import value_loss

    print(value_loss(np.ones((1, 2)), np.ones((1, 2)), np.zeros((1, 2)), np.ones((1, 2))))  # 0.5
    ```
    """
    old_values = values if clip is None else old_values
    mask, values, old, returns = counted(mask, values, old_values, returns)
    old, returns = ops.stop_gradient(old), ops.stop_gradient(returns)
    error = ops.square(values - returns)
    if clip is not None:
        near = old + ops.clip(values - old, -clip, clip)
        error = ops.maximum(error, ops.square(near - returns))
    return 0.5 * weighted_mean(error, mask)


# Diagnostics


def clip_fractions(
    log_probs,
    old_log_probs,
    advantages,
    mask,
    *,
    clip_low=0.2,
    clip_high=None,
    level="token",
    surrogate="ppo",
):
    """The shares of what counts that is clipped from below and from above, two scalars.

    From below where ρ < 1-ε_lo and A < 0, from above where ρ > 1+ε_hi and A > 0: there the
    gradient is gone. With "cispo" whatever A is: there the weight is at its bound. At `level`
    "sequence" every token shares its row's ratio.
    """
    lookup(SURROGATES, surrogate, "surrogate")
    low, high = _bounds(clip_low, clip_high)
    mask, log_probs, old, advantages = _counted(mask, log_probs, old_log_probs, advantages)
    ratio = _ratio(log_probs, old, mask, lookup(LEVELS, level, "level of the ratio"))
    ppo = surrogate == "ppo"
    below = ops.logical_and(ratio < low, advantages < 0 if ppo else mask > 0)
    above = ops.logical_and(ratio > high, advantages > 0 if ppo else mask > 0)
    return weighted_mean(below, mask), weighted_mean(above, mask)


def clip_fraction(log_probs, old_log_probs, advantages, mask, **options):
    """The share of what counts that is clipped, a scalar: the sum of `clip_fractions`."""
    below, above = clip_fractions(log_probs, old_log_probs, advantages, mask, **options)
    return below + above


def approx_kl(log_probs, old_log_probs, mask):
    """How far the policy has moved from the one that sampled: KL(π_old‖π) in nats, a scalar.

    The mean over what counts of ``ρ - 1 - ln ρ``, k3 on the old policy's samples: never negative,
    and without bias. No gradient.
    """
    mask, log_probs, old_log_probs = counted(mask, log_probs, old_log_probs)
    return ops.stop_gradient(weighted_mean(_k3(old_log_probs - log_probs, None), mask))


def explained_variance(values, returns, mask):
    """``1 - Var(R - V) / Var(R)`` over all that counts, a scalar: 1 for a perfect critic, 0 for a
    constant one, negative for worse. 0 if the returns don't vary."""
    mask, values, returns = counted(mask, values, returns)
    total, rest = _variance(returns, mask), _variance(returns - values, mask)
    varies = total > 0
    return ops.where(varies, 1 - rest / ops.where(varies, total, 1.0), ops.zeros_like(total))


def _variance(x, mask):
    return weighted_mean(ops.square(x - weighted_mean(x, mask)), mask)
