"""Returns, advantages and baselines of actions.

B rows of T steps, rewards in the task's own units. A mask (B, T) is 1 on the steps that count. The
recursions run from one counted step to the next: padding at either end and holes in between (a
tool's answer, another speaker's turn) are skipped, as if the row had been written without them;
their rewards and values are not looked at, and their results are 0.

Groups: G completions of each of P prompts lie side by side, (P·G,), prompt-major, so that
``reshape(rewards, (-1, G))`` has a prompt per row. A reward of NaN means "not applicable": it is
left out of means and spreads and its advantage is 0. Group statistics see the whole group, so take
them before the batch is cut up.

Advantages are constants of the update that uses them; the losses in `policy` see to that.
"""

import operator

from keras import ops

from artifex_keras.arguments import lookup
from artifex_keras.objectives.masks import as_floats, weighted_mean
from artifex_keras.objectives.tokens import counted

__all__ = [
    "SCALES",
    "discounted_returns",
    "gae",
    "group_relative",
    "group_std",
    "groups_with_spread",
    "leave_one_out",
    "moving_mean",
    "reinforce_plus_plus",
    "token_rewards",
    "whiten",
]


# Along a trajectory


def discounted_returns(rewards, mask, gamma):
    """``G_t = r_t + γ G_{t+1}``, (B, T), with t + 1 the next step that counts and 0 after the last.

    `rewards` and `mask` (B, T). γ = 1 with a reward at the end only gives each step that reward.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.advantages import discounted_returns

    rewards = np.array([[0.0, 0.0, 1.0]])
    print(discounted_returns(rewards, np.ones((1, 3)), 0.5))  # [[0.25, 0.5, 1]]
    ```
    """
    mask, rewards = counted(mask, rewards)
    return mask * _from_the_end(1 - mask + gamma * mask, rewards)


def gae(rewards, values, mask, gamma, lam):
    """``(advantages, returns)``, (B, T) each: generalised advantage estimates, not whitened.

    ``δ_t = r_t + γ V_{t+1} - V_t``, ``A_t = δ_t + γλ A_{t+1}``, ``R = A + V``, with t + 1 the next
    step that counts; V and A after the last one are 0. `values` V_t (B, T) are those *before*
    step t. λ = 1 gives ``G - V``, λ = 0 the one-step error δ. 1506.02438 equation 16.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.advantages import gae

    rewards, values = np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]])
    advantages, returns = gae(rewards, values, np.ones((1, 2)), gamma=1.0, lam=1.0)
    print(returns)  # [[1, 1]]
    ```
    """
    mask, rewards, values = counted(mask, rewards, values)
    # The value of the first counted step from t on; moved by one, of the first after t.
    here_or_later = _from_the_end(1.0 - mask, values)
    later = ops.pad(here_or_later[:, 1:], ((0, 0), (0, 1)))
    advantages = discounted_returns(rewards + gamma * later - values, mask, gamma * lam)
    return advantages, advantages + values


def _from_the_end(factors, x):
    """``y_t = x_t + a_t y_{t+1}`` along axis 1, with 0 after the end, in log2 T rounds.

    Each round doubles the number of steps that y_t has gathered; a loop over T would make as many
    small programs, and Keras's own scans don't compile under XLA on TensorFlow.
    """

    def later(values, steps):
        return ops.pad(values[:, steps:], ((0, 0), (0, steps)))

    steps = 1
    while steps < x.shape[1]:
        x = x + factors * later(x, steps)
        factors = factors * later(factors, steps)
        steps *= 2
    return x


def whiten(x, mask):
    """``(x - mean) / √(var + 1e-8)`` over all that counts, (B, T), and 0 elsewhere.

    The variance has n - 1 under it. Equal values give 0, and so does a single one.
    """
    mask, x = counted(mask, x)
    centred, variance = _centred(x, mask)
    return centred / ops.sqrt(variance + 1e-8)


def token_rewards(scores, mask, kl=None, kl_coeff=0.0):
    """``r_t = -β k1_t``, plus the row's score at its last counted step: (B, T).

    `scores` (B,), one per completion; `kl` (B, T) is `kl_estimate(..., "k1")`, β its `kl_coeff`.
    A row in which nothing counts loses its score. 1909.08593 equation 2.

    Raises:
        ValueError: if `scores` isn't one per row.
    """
    scores, mask, kl = as_floats(scores, mask, ops.zeros_like(mask) if kl is None else kl)
    scores = ops.repeat(ops.expand_dims(scores, 1), ops.shape(mask)[-1], axis=1)
    mask, scores, kl = counted(mask, scores, kl)
    position = ops.cumsum(mask, axis=1)
    last = mask * ops.cast(position == position[:, -1:], mask.dtype)
    return last * scores - kl_coeff * kl


def reinforce_plus_plus(scores, mask, kl=None, kl_coeff=0.0, gamma=1.0):
    """The returns-to-go of `token_rewards`, whitened over the batch: (B, T). 2501.03262."""
    return whiten(discounted_returns(token_rewards(scores, mask, kl, kl_coeff), mask, gamma), mask)


# Among completions


def group_relative(rewards, group_size, scale="group", epsilon=1e-4):
    """``(r - mean of the group) / (spread + ε)``, (P·G,), from rewards (P·G,), prompt-major.

    The spread, with n - 1 under it, is by a row of `SCALES` that of the group's rewards
    ("group", 2402.03300), that of all rewards of the batch ("batch"), or the quotient is left
    out ("none", 2503.20783). NaN is left out and gets 0. A group of equal rewards, or with a
    single one, gets exactly 0.

    Raises:
        ValueError: if `group_size` is below 2 or doesn't divide the number of rewards, or for an
            unknown `scale`.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.advantages import group_relative

    rewards = np.array([0.0, 1.0, 3.0, 3.0])
    print(group_relative(rewards, group_size=2, scale="none"))  # [-0.5 0.5 0 0]
    ```
    """
    scale_of = lookup(SCALES, scale, "scale of the advantages")
    rewards, applicable = _grouped(rewards, group_size)
    advantages, _ = _centred(rewards, applicable, axis=1)
    if scale_of is not None:
        advantages = advantages / (scale_of(rewards, applicable) + epsilon)
    return ops.reshape(advantages, (-1,))


def _spread_of_group(rewards, applicable):
    return ops.sqrt(_centred(rewards, applicable, axis=1)[1])


def _spread_of_batch(rewards, applicable):
    return ops.sqrt(_centred(rewards, applicable)[1])


SCALES = {"group": _spread_of_group, "batch": _spread_of_batch, "none": None}


def leave_one_out(rewards, group_size):
    """``r_i`` minus the mean of the others in its group, ``G/(G-1) (r_i - mean)``: (P·G,).

    An unbiased baseline. NaN is left out, gets 0 and makes its group one smaller; so does a
    reward that is alone. 2402.14740.

    Raises:
        ValueError: if `group_size` is below 2 or doesn't divide the number of rewards.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.advantages import leave_one_out

    print(leave_one_out(np.array([0.0, 1.0, 2.0]), group_size=3))  # [-1.5 0 1.5]
    ```
    """
    rewards, applicable = _grouped(rewards, group_size)
    n = ops.sum(applicable, axis=1, keepdims=True)
    centred, _ = _centred(rewards, applicable, axis=1)
    return ops.reshape(centred * n / ops.maximum(n - 1, 1.0), (-1,))


def group_std(rewards, group_size):
    """The spread of each group's rewards, (P,), with n - 1 under it.

    Exactly 0 for a group of equal rewards, which teaches nothing: the share of such groups is
    worth watching.
    """
    return _spread_of_group(*_grouped(rewards, group_size))[:, 0]


def groups_with_spread(rewards, group_size, count):
    """`(rows, share)`: which completions to learn from, int (count·G,), and how many of their
    groups have a spread of rewards, a scalar from 0 to 1.

    The first `count` groups with a spread, of P, in their order; where there are fewer, the first
    groups without one fill up, whose advantages are 0. The dynamic sampling of 2503.14476.

    Raises:
        ValueError: if `group_size` is below 2 or doesn't divide the number of rewards.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.advantages import groups_with_spread

    rewards = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 2.0, 1.0])
    rows, share = groups_with_spread(rewards, group_size=2, count=2)
    print(rows, share)  # [2 3 6 7] 1.0
    ```
    """
    flat = group_std(rewards, group_size) == 0
    number = ops.arange(flat.shape[0], dtype="int32")
    # One key for each group: not all backends sort equal ones in their order.
    order = ops.argsort(number + ops.where(flat, flat.shape[0], 0))[:count]
    rows = ops.cast(order, "int32")[:, None] * group_size
    rows = rows + ops.arange(group_size, dtype="int32")
    share = 1.0 - ops.mean(ops.cast(ops.take(flat, order, axis=0), "float32"))
    return ops.reshape(rows, (-1,)), share


def moving_mean(mean, rewards, count, decay=0.99):
    """The next value of a moving mean of rewards, a scalar: ``d b + (1-d) mean(rewards)``.

    `count` is the number of batches already in it; ``d = min(decay, count/(count+1))`` makes it
    the plain average of the first ones, with no pull towards where it started. NaN is left out.
    As a baseline use the mean of *earlier* batches: it must not know the action it judges.
    """
    mean, rewards, count = as_floats(mean, rewards, count)
    rewards, applicable = _applicable(rewards)
    share = 1 - ops.minimum(decay, count / (count + 1))
    share = ops.where(ops.any(applicable > 0), share, ops.zeros_like(share))
    return mean + share * (weighted_mean(rewards, applicable) - mean)


def _centred(x, mask, axis=None):
    """What counts of x minus its mean, 0 elsewhere, and its variance (ddof 1) with axes kept.

    Taken from distances to the largest value: the rounding of a sum can't pass for a spread, so
    equal values give exactly 0 and 0.
    """
    n = ops.sum(mask, axis=axis, keepdims=True)
    lowest = ops.full_like(x, -float("inf"))
    largest = ops.max(ops.where(mask > 0, x, lowest), axis=axis, keepdims=True)
    distance = ops.where(mask > 0, x - largest, ops.zeros_like(x))
    mean = ops.sum(distance, axis=axis, keepdims=True) / ops.maximum(n, 1.0)
    centred = mask * (distance - mean)
    squares = ops.sum(ops.square(centred), axis=axis, keepdims=True)
    return centred, squares / ops.maximum(n - 1, 1.0)


def _applicable(rewards):
    missing = ops.isnan(rewards)
    rewards = ops.where(missing, ops.zeros_like(rewards), rewards)
    return rewards, 1 - ops.cast(missing, rewards.dtype)


def _grouped(rewards, group_size):
    """Rewards, one group per row, with 0 for NaN, and where they apply: (P, G) each."""
    rewards = as_floats(rewards)
    group_size = operator.index(group_size)
    if group_size < 2:
        raise ValueError(
            "`group_size` must be at least 2: a completion is compared with others of its prompt. "
            f"Received: group_size={group_size}."
        )
    if ops.ndim(rewards) != 1 or (rewards.shape[0] or 0) % group_size:
        raise ValueError(
            "`rewards` must be one per completion, (P·G,), and `group_size` must divide their "
            f"number. Received: group_size={group_size}, rewards of shape {rewards.shape}."
        )
    return _applicable(ops.reshape(rewards, (-1, group_size)))
