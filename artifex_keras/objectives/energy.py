"""The terms of energy-based models, ``p(x) ∝ e^{-E(x)}``, with the score ``s(x) = -∇E(x)``.

All are per example, (B,), and sum over event axes. Scores and their derivatives are arguments: who
has the network differentiates it.
"""

import math

from keras import ops

from artifex_keras.objectives.masks import as_floats, sum_event

__all__ = [
    "contrastive_divergence",
    "denoising_score_matching",
    "effective_temperature",
    "geometric_sigmas",
    "grid_log_partition",
    "label_energy",
    "score_matching",
    "sliced_score_matching",
]


def contrastive_divergence(energy_data, energy_negatives, *, regularization=0.0):
    """``E(x⁺) - E(x⁻) + α (E(x⁺)² + E(x⁻)²)``, (B,), α = `regularization`.

    Its gradient is that of the negative log-likelihood where the negatives x⁻ come from the model.
    They must come without a gradient (`stop_gradient`): one that runs through the chain that drew
    them is another objective. doi:10.1162/089976602760128018, 1903.08689.
    """
    positive, negative = as_floats(energy_data, energy_negatives)
    return positive - negative + regularization * (ops.square(positive) + ops.square(negative))


def score_matching(score, divergence):
    """``½‖s‖² + tr ∇s``, (B,): the Fisher divergence from the data up to a constant.

    `score` (B, ...) at the data, `divergence` (B,), the trace of its Jacobian. At the truth it is
    ``-½ E‖s‖²``. Hyvärinen, JMLR 6, 2005.
    """
    score, divergence = as_floats(score, divergence)
    return 0.5 * sum_event(ops.square(score)) + divergence


def sliced_score_matching(score, product, probe):
    """``½‖s‖² + vᵀ ∇s v``, (B,), the variance-reduced form. 1905.07088 equation 8.

    `product` is ``vᵀ ∇s``, the gradient of ``vᵀ s(x)`` with respect to x, and `probe` v a draw with
    E v vᵀ = I, of signs ±1 or of normals: one of unit length would count the second term 1/D.
    """
    score, product, probe = as_floats(score, product, probe)
    return score_matching(score, sum_event(product * probe))


def denoising_score_matching(score, noise, sigma):
    """``½ Σ (σ s(x + σε) + ε)²``, (B,): the error of the score times σ², so that no σ dominates.

    `score` at the noisy x, `noise` ε ~ N(0, I), `sigma` a number or one per example, (B,).
    Vincent 2011; 1907.05600 equations 5 and 6.
    """
    score, noise, sigma = as_floats(score, noise, sigma)
    if len(sigma.shape):
        sigma = ops.reshape(sigma, (-1,) + (1,) * (len(score.shape) - 1))
    return 0.5 * sum_event(ops.square(sigma * score + noise))


def geometric_sigmas(largest, smallest, count):
    """`count` noise levels from `largest` down to `smallest` with equal ratios, a float32 tensor.

    1907.05600 section 4.2.
    """
    if not 0 < smallest <= largest:
        raise ValueError(
            "`smallest` must be positive and at most `largest`. "
            f"Received: largest={largest}, smallest={smallest}."
        )
    steps = ops.linspace(0.0, 1.0, count)
    return ops.cast(largest * ops.exp(steps * math.log(smallest / largest)), "float32")


def label_energy(logits):
    """``E(x) = -logsumexp_y f(x)[y]``, (B,): a classifier's logits (B, K) as an energy.

    The joint model's energy of x and y is ``-f(x)[y]``. 1912.03263.
    """
    return -ops.logsumexp(as_floats(logits), axis=-1)


def effective_temperature(step_size, noise_scale):
    """``T = noise²/step``: Langevin steps ``x - step/2 ∇E + noise n`` draw from ``e^{-E/T}``.

    1 where `noise_scale` is √step. Decoupled values, as 1903.08689 and 1912.03263 use them,
    sharpen the samples, and a likelihood must then be that of E/T.
    """
    return noise_scale**2 / step_size


def grid_log_partition(energies, cell):
    """``ln Z = ln Σ e^{-E} · cell`` in nats, a scalar, of energies at all points of a grid.

    `cell` is the volume of one of its cells. The mass beyond the grid is not seen.
    """
    energies = as_floats(energies)
    return ops.logsumexp(-energies) + math.log(cell)
