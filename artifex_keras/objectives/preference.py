"""Losses of pairs of answers, of which one was preferred, and of single answers judged.

`chosen` and `rejected` (B,) are log-probabilities of whole completions: *sums* over their tokens,
prompt left out, end token included. `reference_chosen` and `reference_rejected` are the
reference's, constants, dropout off. Losses come per pair, (B,); the mean is the caller's. With
``h = (chosen - reference_chosen) - (rejected - reference_rejected)``.
"""

import math
import operator
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from artifex_keras.arguments import lookup
from artifex_keras.objectives.masks import as_floats

__all__ = [
    "PREFERENCE_LOSSES",
    "PreferenceLoss",
    "bradley_terry",
    "hinge_preference",
    "implicit_rewards",
    "ipo_preference",
    "kto_loss",
    "kto_reference_point",
    "log1mexp",
    "orpo_preference",
    "preference_loss",
    "robust_preference",
    "sigmoid_preference",
    "simpo_preference",
]


# One pair. `chosen` and `rejected` are what `preference_loss` makes of log-probabilities by the
# row's columns: divided by the length or not, less the reference's or not.


def sigmoid_preference(chosen, rejected, beta, label_smoothing=0.0):
    """``-(1-ε) ln σ(βh) - ε ln σ(-βh)``: DPO, and for ε > 0 its conservative form (cDPO).

    With ε, the share of labels that are wrong, the least loss is at ``βh = ln((1-ε)/ε)``.
    2305.18290 equation 7.
    """
    _check_smoothing(label_smoothing, operator.le, "at most 0.5")
    z = beta * (chosen - rejected)
    return (1 - label_smoothing) * ops.softplus(-z) + label_smoothing * ops.softplus(z)


def robust_preference(chosen, rejected, beta, label_smoothing=0.0):
    """``[-(1-ε) ln σ(βh) + ε ln σ(-βh)] / (1-2ε)``: its mean over labels of which a share ε is
    flipped is the loss of the true ones. May be negative. 2403.00409."""
    _check_smoothing(label_smoothing, operator.lt, "below 0.5")
    z = beta * (chosen - rejected)
    true = (1 - label_smoothing) * ops.softplus(-z) - label_smoothing * ops.softplus(z)
    return true / (1 - 2 * label_smoothing)


def _check_smoothing(value, fits, limit):
    if isinstance(value, int | float) and (value < 0 or not fits(value, 0.5)):
        raise ValueError(
            f"`label_smoothing` must not be negative and must be {limit} here. Received: {value}."
        )


def hinge_preference(chosen, rejected, beta):
    """``relu(1 - βh)``. 2305.10425."""
    return ops.relu(1 - beta * (chosen - rejected))


def ipo_preference(chosen, rejected, beta):
    """``(h_avg - 1/(2β))²`` with each log-ratio divided by its own length. 2310.12036."""
    return ops.square(chosen - rejected - 1 / (2 * beta))


def simpo_preference(chosen, rejected, beta, gamma=0.0):
    """``-ln σ(β(l_w/|w| - l_l/|l|) - γ)``, without a reference. 2405.14734 equation 6."""
    return ops.softplus(gamma - beta * (chosen - rejected))


def orpo_preference(chosen, rejected, beta):
    """``-a_w - β ln σ(o_w - o_l)``, ``a = l/|y|``, log odds ``o = a - ln(1 - e^a)``, no reference.

    The first term is the negative log-likelihood of the chosen answer *per token*, as the odds
    are. An average above -1e-7, a certain answer, counts as -1e-7. 2403.07691 equations 6 and 7.
    """
    log_odds_ratio = _log_odds(chosen) - _log_odds(rejected)
    return -chosen + beta * ops.softplus(-log_odds_ratio)


def _log_odds(log_prob):
    log_prob = ops.minimum(log_prob, -1e-7)
    return log_prob - log1mexp(log_prob)


class PreferenceLoss(NamedTuple):
    """A row of `PREFERENCE_LOSSES`: the function of a pair and what it is given."""

    function: Callable
    per_token: bool = False  # log-probabilities are divided by the length of their answer
    reference: bool = True  # and taken relative to the reference
    options: tuple = ()


PREFERENCE_LOSSES = {
    "sigmoid": PreferenceLoss(sigmoid_preference, options=("label_smoothing",)),
    "ipo": PreferenceLoss(ipo_preference, per_token=True),
    "hinge": PreferenceLoss(hinge_preference),
    "robust": PreferenceLoss(robust_preference, options=("label_smoothing",)),
    "simpo": PreferenceLoss(simpo_preference, True, reference=False, options=("gamma",)),
    "orpo": PreferenceLoss(orpo_preference, True, reference=False),
}


def preference_loss(
    chosen,
    rejected,
    reference_chosen,
    reference_rejected,
    *,
    loss_type,
    beta,
    label_smoothing=0.0,
    chosen_length=None,
    rejected_length=None,
    gamma=0.0,
):
    """The loss of each pair, (B,), by a row of `PREFERENCE_LOSSES`.

    References of None are zeros: a loss free of reference. `chosen_length` and `rejected_length`
    (B,) are the numbers of tokens summed over; "ipo", "simpo" and "orpo" need them. References
    and lengths are left alone where a row has no use for them.

    Raises:
        ValueError: for an unknown `loss_type`, log-probabilities that are not (B,), one reference
            without the other, a missing length, a `beta` that is not positive, a
            `label_smoothing` out of range, or one or a `gamma` that the loss would ignore.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.preference import preference_loss

    chosen, rejected = np.array([-1.0]), np.array([-2.0])
    loss = preference_loss(chosen, rejected, chosen, rejected, loss_type="sigmoid", beta=0.1)
    print(loss)  # ln 2 = 0.693, for the policy is the reference
    ```
    """
    row = lookup(PREFERENCE_LOSSES, loss_type, "preference loss")
    options = _options(row, loss_type, label_smoothing=label_smoothing, gamma=gamma)
    if isinstance(beta, int | float) and beta <= 0:
        raise ValueError(f"`beta` must be positive. Received: beta={beta}.")
    if (reference_chosen is None) != (reference_rejected is None):
        raise ValueError("Give the reference's log-probabilities of both answers or of neither.")
    chosen = _side("chosen", row, chosen, reference_chosen, chosen_length)
    rejected = _side("rejected", row, rejected, reference_rejected, rejected_length)
    return row.function(*as_floats(chosen, rejected), beta, **options)


def _options(row, loss_type, **given):
    for name, value in given.items():
        if name not in row.options and value:
            raise ValueError(
                f"The preference loss {loss_type!r} has no `{name}`. Received: {name}={value}."
            )
    return {name: given[name] for name in row.options}


def _side(name, row, log_probs, reference, length):
    """One answer of each pair as its row wants it, (B,)."""
    log_probs = as_floats(log_probs)
    if ops.ndim(log_probs) != 1:
        raise ValueError(
            f"`{name}` must be the log-probabilities of whole completions, (B,). "
            f"Received: shape {log_probs.shape}."
        )
    if row.reference and reference is not None:
        log_probs = implicit_rewards(log_probs, reference)
    if not row.per_token:
        return log_probs
    if length is None:
        raise ValueError(f"A loss per token needs `{name}_length`. Received: None.")
    return log_probs / ops.maximum(ops.cast(length, log_probs.dtype), 1.0)


def implicit_rewards(log_probs, reference_log_probs, beta=1.0):
    """``β (l - l_ref)``, (B,): the reward whose best policy this one would be. 2305.18290."""
    log_probs, reference = as_floats(log_probs, reference_log_probs)
    return beta * (log_probs - ops.stop_gradient(reference))


def bradley_terry(chosen, rejected, margin=0.0, centering=0.0):
    """The loss of a reward model on each pair of answers, (B,) in nats:

        -ln σ(r_w - r_l - m) + c (r_w + r_l)²,

    for rewards r_w of the `chosen` and r_l of the `rejected` answers, both (B,). `margin` m, a
    number or (B,), is by how much the chosen one should win at least; `centering` c draws the
    rewards of a pair towards a mean of 0, which the first term leaves open. A pair that is
    preferred 80 % of the time ends at r_w - r_l = ln 4. 1706.03741, 2307.09288 (margin),
    2312.09244 (centering).

    Raises:
        ValueError: for rewards that are not (B,), a `margin` of another shape, and a negative
            `centering`.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.preference import bradley_terry

    print(bradley_terry(np.array([1.0]), np.array([1.0])))  # ln 2 = 0.693
    ```
    """
    chosen, rejected, margin = as_floats(chosen, rejected, margin)
    if ops.ndim(chosen) != 1 or tuple(chosen.shape) != tuple(rejected.shape):
        raise ValueError(
            "`chosen` and `rejected` must be one reward for each answer, (B,). Received: shapes "
            f"{tuple(chosen.shape)} and {tuple(rejected.shape)}."
        )
    if ops.ndim(margin) and tuple(margin.shape) != tuple(chosen.shape):
        raise ValueError(
            "`margin` must be a number or one for each pair, (B,). Received: shape "
            f"{tuple(margin.shape)} for {tuple(chosen.shape)} pairs."
        )
    if isinstance(centering, int | float) and centering < 0:
        raise ValueError(f"`centering` must not be negative. Received: centering={centering}.")
    loss = ops.softplus(margin - (chosen - rejected))
    return loss + centering * ops.square(chosen + rejected)


# One answer


def kto_loss(
    log_probs,
    reference_log_probs,
    desirable,
    reference_point,
    *,
    beta,
    desirable_weight=1.0,
    undesirable_weight=1.0,
):
    """``w_D (1 - σ(β(r - z)))`` or ``w_U (1 - σ(β(z - r)))`` with ``r = l - l_ref``: (B,).

    The first where `desirable` (B,) is true. `reference_point` is z, see `kto_reference_point`.
    2402.01306 equation 8.
    """
    r, z = as_floats(implicit_rewards(log_probs, reference_log_probs), reference_point)
    desirable = ops.cast(desirable, "bool")
    distance = beta * (r - ops.stop_gradient(z))
    good = desirable_weight * ops.sigmoid(-distance)
    return ops.where(desirable, good, undesirable_weight * ops.sigmoid(distance))


def kto_reference_point(log_probs, reference_log_probs):
    """``max(0, mean(l - l_ref))``, a scalar without gradient, from *mismatched* answers: (B,)
    log-probabilities of completions that belong to other prompts of the batch. 2402.01306."""
    r = implicit_rewards(log_probs, reference_log_probs)
    return ops.stop_gradient(ops.maximum(ops.mean(r), 0.0))


def log1mexp(x):
    """``ln(1 - e^x)`` for x < 0, exact near 0 and far from it, where the plain formula
    loses digits; -inf at 0."""
    x = as_floats(x)
    near = x > -math.log(2)
    halfway = ops.full_like(x, -math.log(2))
    small = ops.log(-ops.expm1(ops.where(near, x, halfway)))
    large = ops.log1p(-ops.exp(ops.where(near, halfway, x)))
    return ops.where(near, small, large)
