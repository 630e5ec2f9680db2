"""Likelihoods of whole levels 0..L-1, as pixels have them: categorical, mixture of logistics.

Each is a function ``log_prob(parameters, levels, num_levels)`` of parameters (..., P) and levels of
a shape that broadcasts against (...), and gives nats of that shape.
"""

import numpy as np
from keras import ops

__all__ = [
    "PIXEL_LIKELIHOODS",
    "categorical_log_prob",
    "level_log_probs",
    "logistic_mixture_log_prob",
]

SMALLEST_LOG_SCALE = -7.0


def categorical_log_prob(parameters, levels, num_levels):
    """``ln softmax(z)[x]`` for logits z (..., L)."""
    log_p = ops.log_softmax(ops.cast(parameters, "float32"), axis=-1)
    chosen = ops.one_hot(ops.cast(levels, "int32"), num_levels, dtype="float32")
    return ops.sum(ops.where(chosen > 0, log_p, 0.0), axis=-1)


def logistic_mixture_log_prob(parameters, levels, num_levels):
    """The log-probability of levels under a discretised mixture of logistics (1701.05517, 2).

    ``ln Σ_m π_m [σ((x + h - μ_m)/s_m) - σ((x - h - μ_m)/s_m)]`` with x = 2·level/(L-1) - 1 and half
    a bin h = 1/(L-1). The outermost bins reach to ±∞, so that the L probabilities add up to 1.
    `parameters` (..., 3M) are logits of π, then μ, then ln s, which is kept ≥ -7.
    """
    logits, mean, log_scale = ops.split(ops.cast(parameters, "float32"), 3, axis=-1)
    half = 1.0 / (num_levels - 1)
    levels = ops.expand_dims(ops.cast(levels, "float32"), -1)
    centred = 2.0 * half * levels - 1.0 - mean
    inverse = ops.exp(-ops.maximum(log_scale, SMALLEST_LOG_SCALE))
    below_top = ops.log_sigmoid((centred + half) * inverse)  # ln of the mass under the bin's top
    above_bottom = ops.log_sigmoid(-(centred - half) * inverse)
    # σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b-a)): no difference of near numbers.
    inside = below_top + above_bottom + ops.log(-ops.expm1(-2.0 * half * inverse))
    log_p = ops.where(levels < 0.5, below_top, inside)
    log_p = ops.where(levels > num_levels - 1.5, above_bottom, log_p)
    return ops.logsumexp(ops.log_softmax(logits, axis=-1) + log_p, axis=-1)


# Name: (parameters per dimension of L levels and M components, log-probability)
PIXEL_LIKELIHOODS = {
    "categorical": (lambda num_levels, num_mixtures: num_levels, categorical_log_prob),
    "logistic_mixture": (lambda num_levels, num_mixtures: 3 * num_mixtures,
                         logistic_mixture_log_prob),
}  # fmt: skip


def level_log_probs(parameters, likelihood, num_levels):
    """The log-probability of every level, (..., L), for parameters (..., P)."""
    log_prob = PIXEL_LIKELIHOODS[likelihood][1]
    levels = ops.convert_to_tensor(np.arange(num_levels), "int32")
    return log_prob(ops.expand_dims(parameters, -2), levels, num_levels)
