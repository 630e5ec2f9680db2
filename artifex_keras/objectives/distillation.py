"""The divergence between a teacher's and a student's distributions of the next token."""

import math

from keras import ops

from artifex_keras.arguments import integer, share
from artifex_keras.objectives.masks import as_floats
from artifex_keras.objectives.preference import log1mexp

__all__ = ["generalized_jsd", "top_k_and_rest"]

EPSILON = 1e-7  # the least share of probability that is left for other tokens
NOTHING = -1e4  # below the log-probability of anything: e^-10000 is 0 in float64 too


def generalized_jsd(teacher_log_probs, student_log_probs, beta):
    """The generalised Jensen-Shannon divergence of student Q from teacher P, (..., V) -> (...):

        JSD_β(P‖Q) = β KL(P‖M) + (1-β) KL(Q‖M),    M = β P + (1-β) Q,

    in nats, float32 or float64. The two ends are the divergences themselves: β = 0 is KL(P‖Q),
    forward, which covers all that the teacher does; β = 1 is KL(Q‖P), reverse, which keeps to what
    the teacher does most. Between them the formula is used as it is written, and falls to 0 towards
    both ends: close to them it is β KL(P‖Q) and (1-β) KL(Q‖P), so .001 is no substitute for 0.
    2306.13649 equation 1; 0.1, 0.5 and 0.9 are what people use.

    A log-probability of -inf is a token that is ruled out. Where both rule it out it adds
    nothing. Where only one does, the formula between the ends stays below ln 2; at an end the
    divergence can be infinite, which is then the value, and the gradient of that place is 0.

    Args:
        teacher_log_probs: ln P, normalised.
        student_log_probs: ln Q, normalised, of the same shape.
        beta: β, a Python number from 0 to 1.

    Raises:
        ValueError: for shapes that differ, and a β outside of [0, 1].

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.distillation import generalized_jsd

    teacher, student = np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]])
    print(generalized_jsd(teacher, student, 0.5))  # [0.101749]
    ```
    """
    beta = share("beta", beta)
    p, q = as_floats(teacher_log_probs, student_log_probs)
    if tuple(p.shape) != tuple(q.shape):
        raise ValueError(
            "Teacher and student must give log-probabilities (..., V) of one shape, over one "
            f"vocabulary. Received: shapes {tuple(p.shape)} and {tuple(q.shape)}."
        )
    if beta == 0:
        return _exact_kl(p, q)
    if beta == 1:
        return _exact_kl(q, p)
    p, q = _floored(p), _floored(q)
    mixture = ops.logaddexp(p + math.log(beta), q + math.log1p(-beta))
    return beta * _kl(p, mixture) + (1 - beta) * _kl(q, mixture)


def top_k_and_rest(teacher_log_probs, student_log_probs, k, num_shards=1):
    """Both distributions (..., V) over the teacher's `k` likeliest tokens and one class of all the
    others: two of log-probabilities (..., k + 1).

    A divergence of these is never more than that of all tokens, and equal for k = V - 1. Where the
    vocabulary lies over several devices, their number as `num_shards` has each choose `k` of its
    own tokens first, which sends no more than these; the result is the same.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.distillation import top_k_and_rest

    teacher, student = np.log([0.7, 0.2, 0.1]), np.log([0.3, 0.3, 0.4])
    print(np.exp(top_k_and_rest(teacher, student, 1)[1]))  # [0.3 0.7]
    ```
    """
    p, q = as_floats(teacher_log_probs, student_log_probs)
    best, ids = _top_k(p, integer("k", k, minimum=1), integer("num_shards", num_shards, minimum=1))
    return _with_rest(best), _with_rest(ops.take_along_axis(q, ids, axis=-1))


def _top_k(x, k, num_shards):
    """The `k` largest entries of the last axis and their places, of equal ones the first."""
    size = x.shape[-1]
    if num_shards == 1 or size % num_shards:
        best, places = ops.top_k(x, k)
        return best, ops.cast(places, "int32")
    # By sorting: XLA gives each device all rows of what it takes the top k of.
    part, ahead = size // num_shards, ops.shape(x)[:-1]
    best, places = _first(ops.reshape(x, (*ahead, num_shards, part)), min(k, part))
    places += ops.arange(num_shards, dtype="int32")[:, None] * part
    best, places = (ops.reshape(each, (*ahead, -1)) for each in (best, places))
    best, chosen = _first(best, k)
    return best, ops.take_along_axis(places, chosen, axis=-1)


def _first(x, k):
    order = ops.cast(ops.argsort(-x, axis=-1)[..., :k], "int32")
    return ops.take_along_axis(x, order, axis=-1), order


def _with_rest(log_probs):
    """ln p of some tokens, and behind them of all others together."""
    known = ops.minimum(ops.logsumexp(log_probs, axis=-1, keepdims=True), -EPSILON)
    return ops.concatenate([log_probs, log1mexp(known)], axis=-1)


def _exact_kl(p, q):
    """KL(P‖Q), infinite where P has a token that Q rules out."""
    missing = ops.any(ops.logical_and(p > NOTHING, q == -float("inf")), axis=-1)
    return ops.where(missing, float("inf"), _kl(_floored(p), _floored(q)))


def _kl(p, q):
    return ops.sum(ops.exp(p) * (p - q), axis=-1)


def _floored(log_probs):
    """Finite log-probabilities: 0 times one of these is 0, in the gradient too."""
    return ops.maximum(log_probs, NOTHING)
