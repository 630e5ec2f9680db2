"""The terms of variational autoencoders: likelihoods, divergences, weights and bounds.

Everything is in nats and per example, (B,), summed over event axes, unless a docstring says
otherwise; the caller averages over the batch. B is the first axis throughout.
"""

import math

from keras import ops

from artifex_keras.arguments import lookup
from artifex_keras.objectives.masks import as_floats, sum_event, weighted_mean

__all__ = [
    "KL_SCHEDULES",
    "RECONSTRUCTIONS",
    "absolute_error",
    "active_units",
    "bernoulli_nll",
    "beta_tc",
    "bounded_log_var",
    "capacity_penalty",
    "capacity_schedule",
    "categorical_nll",
    "constant_weight",
    "cyclical_weight",
    "free_bits",
    "gaussian_kl",
    "gaussian_kl_per_dimension",
    "gaussian_nll",
    "importance_weighted_bound",
    "kl_weight",
    "linear_weight",
    "log_normal",
    "mmd",
    "optimal_gaussian_nll",
    "optimal_log_var",
    "sigmoid_weight",
    "squared_error",
]

LOG_TWO_PI = math.log(2 * math.pi)
LOG_VAR_RANGE = (-30.0, 20.0)  # σ from 3e-7 to 2e4


def bounded_log_var(log_var):
    """ln σ² as it is within [-30, 20]; beyond by how much it exceeds that, ``ln(1 + excess)``.

    A network that sees large numbers gives a ln σ² of hundreds, whose exponential no float holds.
    Here it stays one, and its gradient still leads back.
    """
    log_var = as_floats(log_var)
    low, high = LOG_VAR_RANGE
    above = high + ops.log(1.0 + ops.maximum(log_var - high, 0.0))
    below = low - ops.log(1.0 + ops.maximum(low - log_var, 0.0))
    return ops.where(log_var > high, above, ops.where(log_var < low, below, log_var))


# Divergence from the prior


def gaussian_kl_per_dimension(mean, log_var):
    """``½(μ² + σ² - 1 - ln σ²)``, shaped like `mean`: KL(N(μ, σ²) ‖ N(0, 1)) of each dimension.

    1312.6114 appendix B.
    """
    mean, log_var = as_floats(mean, log_var)
    # expm1 keeps the digits that exp(log_var) - 1 loses near the prior.
    return 0.5 * (ops.square(mean) + ops.expm1(log_var) - log_var)


def gaussian_kl(mean, log_var):
    """KL(N(μ, σ²) ‖ N(0, I)) in nats, (B,), summed over latent axes. 1312.6114 appendix B.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.elbo import gaussian_kl

    print(gaussian_kl(np.array([[1.0, 0.0]]), np.zeros((1, 2))))  # [0.5]
    ```
    """
    return sum_event(gaussian_kl_per_dimension(mean, log_var))


def log_normal(z, mean=0.0, log_var=0.0):
    """``-½ Σ [(z-μ)²/σ² + ln σ² + ln 2π]``: ln N(z; μ, σ²) in nats, (B,).

    `mean` and `log_var` broadcast against `z`; left out, the density is the standard normal's.
    """
    return sum_event(_log_normal_elements(*as_floats(z, mean, log_var)))


def _log_normal_elements(z, mean, log_var):
    return -0.5 * (ops.square(z - mean) * ops.exp(-log_var) + log_var + LOG_TWO_PI)


# Reconstruction: minus the log-likelihood of x under the decoder


def squared_error(x, reconstruction):
    """``Σ (x - x̂)²``, (B,): minus the log-likelihood of a Gaussian of variance ½, up to the
    constant ``½ D ln π`` for D event dimensions."""
    x, reconstruction = as_floats(x, reconstruction)
    return sum_event(ops.square(x - reconstruction))


def absolute_error(x, reconstruction):
    """``Σ |x - x̂|``, (B,): a Laplace density of scale 1, up to the constant ``D ln 2``."""
    x, reconstruction = as_floats(x, reconstruction)
    return sum_event(ops.abs(x - reconstruction))


def bernoulli_nll(x, logits):
    """``Σ sp(l) - x l``, (B,): cross-entropy of x in [0, 1] with Bernoulli logits l.

    A likelihood, and comparable in nats, only where x is 0 or 1. ``sp(l) = ln(1 + eˡ)``.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.elbo import bernoulli_nll

    print(bernoulli_nll(np.ones((1, 2)), np.zeros((1, 2))))  # [2 ln 2] = [1.386]
    ```
    """
    x, logits = as_floats(x, logits)
    return sum_event(ops.softplus(logits) - x * logits)


def gaussian_nll(x, mean, log_var):
    """``½ Σ [(x-μ)²/σ² + ln σ² + ln 2π]``, (B,), with all its constants.

    `log_var` broadcasts against `x`: a number, a learned scalar or one value per element.
    """
    return -log_normal(x, mean, log_var)


def optimal_log_var(x, mean, weights=None):
    """The scalar ln σ² at which `gaussian_nll` is least: ``σ² = mean of (x-μ)²`` over everything.

    With `weights` (B,) the mean is weighted. Never below ln 1e-12, so that a perfect
    reconstruction stays finite. 2006.13202.
    """
    x, mean = as_floats(x, mean)
    return ops.log(ops.maximum(weighted_mean(ops.square(x - mean), weights), 1e-12))


def optimal_gaussian_nll(x, reconstruction, weights=None):
    """`gaussian_nll`, (B,), at the variance that is best for this batch (σ-VAE, 2006.13202)."""
    return gaussian_nll(x, reconstruction, optimal_log_var(x, reconstruction, weights))


def categorical_nll(x, logits):
    """``-Σ ln softmax(logits)[x]``, (B,), for integer levels x in [0, K) and logits (..., K).

    `x` has the shape of the logits without their last axis; a trailing axis of length 1, as of
    grey images (B, H, W, 1) with logits (B, H, W, K), is also understood.
    """
    logits = as_floats(logits)
    x = ops.convert_to_tensor(x)
    if ops.ndim(x) == ops.ndim(logits) and x.shape[-1] == 1:
        x = ops.squeeze(x, -1)
    chosen = ops.one_hot(ops.cast(x, "int32"), logits.shape[-1], dtype="bool")
    # Selected, not multiplied: a forbidden level's logit of -inf must not spoil the others.
    picked = ops.sum(ops.where(chosen, logits, ops.zeros_like(logits)), axis=-1)
    return sum_event(ops.logsumexp(logits, axis=-1) - picked)


RECONSTRUCTIONS = {
    "mse": squared_error,
    "mae": absolute_error,
    "bce": bernoulli_nll,
    "gaussian": optimal_gaussian_nll,
    "categorical": categorical_nll,
}


# Weight of the divergence. `step` counts the updates already made: 0 at the first.


def constant_weight(step, warmup_steps=0, period=None):
    """1 at every step."""
    return ops.ones_like(as_floats(step))


def linear_weight(step, warmup_steps, period=None):
    """``min(1, t/T)`` for T `warmup_steps`. 1602.02282."""
    if not warmup_steps:
        return constant_weight(step)
    return ops.clip(as_floats(step) / warmup_steps, 0.0, 1.0)


def sigmoid_weight(step, warmup_steps, period=None):
    """``½ (1 + tanh(5r - 2.5) / tanh 2.5)`` with ``r = min(1, t/T)``: from 0 to 1 in T steps.

    A logistic curve in r of slope 10, stretched to start at 0 and to arrive at 1. 1511.06349.
    """
    ramp = linear_weight(step, warmup_steps)
    curve = 0.5 * (1 + ops.tanh(5 * ramp - 2.5) / math.tanh(2.5))
    # Rounding must leave no weight at the start and none missing at the end.
    inside = ops.where(ramp <= 0, ops.zeros_like(ramp), curve)
    return ops.where(ramp >= 1, ops.ones_like(ramp), inside)


def cyclical_weight(step, warmup_steps=0, period=None):
    """``min(1, τ/R)``, ``τ = mod(t, P)/P``: a linear ramp at the start of each of many periods P.

    R, the share of a period that ramps, is ½ if only one of `period` and `warmup_steps` is
    given, else ``warmup_steps / period``. 1903.10145, whose t starts at 1.

    Raises:
        ValueError: if neither is given, or the ramp is longer than the period.
    """
    period = period or 2 * warmup_steps
    ramp = warmup_steps or period / 2
    if not 0 < ramp <= period:
        raise ValueError(
            "The cyclical schedule needs a positive `period`, not shorter than `warmup_steps`. "
            f"Received: period={period}, warmup_steps={warmup_steps}."
        )
    return ops.minimum(ops.mod(as_floats(step), float(period)) / ramp, 1.0)


KL_SCHEDULES = {
    "none": constant_weight,
    "linear": linear_weight,
    "sigmoid": sigmoid_weight,
    "cyclical": cyclical_weight,
}


def kl_weight(step, schedule="linear", warmup_steps=0, period=None):
    """The weight of the KL term at `step`, in [0, 1], by a row of `KL_SCHEDULES`.

    `step` counts updates from 0 and may be traced; the rest are Python numbers. Validation uses
    the final weight, 1, and not this one.

    Raises:
        ValueError: for a `schedule` that is not in the table.

    Example:

    ```python
    from artifex_keras.objectives.elbo import kl_weight

    print(float(kl_weight(50, "linear", warmup_steps=100)))  # 0.5
    ```
    """
    weight = lookup(KL_SCHEDULES, schedule, "KL schedule")
    return weight(step, warmup_steps, period)


# Other treatments of the divergence


def free_bits(kl_per_dimension, floor, weights=None):
    """``Σ_g max(λ, mean over the batch of KL_g)`` in nats: a scalar, not a value per example.

    `kl_per_dimension` is (B, ...), each element of an event one group g; `floor` is λ, nats per
    group; `weights` (B,) weight the mean. The mean comes first: a floor under each example would
    count easy examples as if they cost λ and take their gradient away. 1606.04934 appendix C.8.
    """
    kl = as_floats(kl_per_dimension)
    rows = ops.reshape(kl, (-1, math.prod(kl.shape[1:])))
    if weights is None:
        means = ops.mean(rows, axis=0)
    else:
        weights = ops.reshape(ops.cast(weights, rows.dtype), (-1, 1))
        total = ops.sum(weights)
        kept = ops.where(weights == 0, ops.zeros_like(rows), rows)
        means = ops.sum(weights * kept, axis=0) / ops.where(total == 0, 1.0, total)
    return ops.sum(ops.maximum(means, floor))


def capacity_penalty(kl, capacity, gamma):
    """``γ |KL - C|`` in nats, shaped like `kl`: give it the batch mean. 1804.03599."""
    kl, capacity = as_floats(kl, capacity)
    return gamma * ops.abs(kl - capacity)


def capacity_schedule(step, final, steps):
    """``C(t) = final · min(1, t/steps)`` in nats. 1804.03599."""
    return final * linear_weight(step, steps)


def beta_tc(z, mean, log_var, dataset_size):
    """``(mutual information, total correlation, dimension-wise KL)``, each (B,) in nats.

    The batch, M examples of the data set's N, estimates the aggregate posterior by the paper's
    stratified estimator: ``q(z_i) ≈ q(z_i|x_i)/N + (N-1)/(N (M-1)) Σ_{j≠i} q(z_i|x_j)``, and the
    same for each dimension. The paper gives one of the others the weight that is left over, at
    random; this is the mean over which one. It is unbiased, and exact at M = N. The sum of the
    three is ``ln q(z|x) - ln p(z)``, exactly. Minimise MI + β TC + KL.
    `z` (M, ...) is drawn from N(mean, exp(log_var)). 1802.04942 appendix C.2.
    """
    z, mean, log_var = (_rows(part) for part in as_floats(z, mean, log_var))
    log_weights = _stratified_log_weights(ops.shape(z)[0], dataset_size, z.dtype)
    pairs = _log_normal_elements(z[:, None], mean[None], log_var[None])
    log_q = ops.logsumexp(ops.sum(pairs, axis=-1) + log_weights, axis=1)
    log_q_factors = ops.sum(ops.logsumexp(pairs + log_weights[..., None], axis=1), axis=-1)
    log_q_given_x = log_normal(z, mean, log_var)
    return log_q_given_x - log_q, log_q - log_q_factors, log_q_factors - log_normal(z)


def _stratified_log_weights(rows, dataset_size, dtype):
    """ln of the weight of row j in the estimate of q(z_i), (M, M); each row of them sums to 1."""
    others = ops.maximum(ops.cast(rows, dtype) - 1, 1.0)
    own = 1.0 / dataset_size
    # A batch of one example knows no other: q(z|x) is its estimate.
    own_weight = ops.where(ops.cast(rows, dtype) > 1, own, 1.0)
    place = ops.arange(rows)
    other_weight = ops.maximum((1.0 - own) / others, 1e-30)
    return ops.log(ops.where(place[:, None] == place[None], own_weight, other_weight))


def mmd(z, prior, *, scale=None):
    """An unbiased estimate of the squared maximum mean discrepancy of two samples: a scalar.

    ``mean_{i≠j} k(z_i, z_j) + mean_{i≠j} k(p_i, p_j) - 2 mean k(z_i, p_j)`` with the inverse
    multiquadric ``k(a, b) = C / (C + ‖a-b‖²)``, C = `scale`, by default twice the number of
    dimensions: the expected squared distance of two draws from N(0, I). It may be negative.
    `z` (N, ...), `prior` (M, ...). 1711.01558, 1706.02262.
    """
    z, prior = (_rows(part) for part in as_floats(z, prior))
    scale = 2.0 * z.shape[-1] if scale is None else scale
    within = [_mean_off_diagonal(_multiquadric(x, x, scale)) for x in (z, prior)]
    return within[0] + within[1] - 2 * ops.mean(_multiquadric(z, prior, scale))


def _multiquadric(a, b, scale):
    squares = ops.sum(ops.square(a), -1)[:, None] + ops.sum(ops.square(b), -1)[None]
    return scale / (scale + ops.maximum(squares - 2 * ops.matmul(a, ops.transpose(b)), 0.0))


def _mean_off_diagonal(kernel):
    count = ops.cast(ops.shape(kernel)[0], kernel.dtype)
    return (ops.sum(kernel) - ops.sum(ops.diagonal(kernel))) / (count * (count - 1))


def _rows(x):
    return ops.reshape(x, (-1, math.prod(x.shape[1:])))


# Bounds and diagnostics


def importance_weighted_bound(log_weights, axis=0):
    """``logsumexp_k ln w_k - ln K`` over `axis`, ``ln w = ln p(x, z) - ln q(z|x)``, in nats.

    A lower bound of ln p(x) that tightens with K. One value per example where `axis` runs over
    the K samples of each. 1509.00519.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.elbo import importance_weighted_bound

    print(importance_weighted_bound(np.log([[0.1], [0.3]])))  # [ln 0.2] = [-1.609]
    ```
    """
    log_weights = as_floats(log_weights)
    return ops.logsumexp(log_weights, axis=axis) - math.log(log_weights.shape[axis])


def active_units(means, threshold=0.01):
    """How many latent dimensions are in use: those where the variance over the data of the
    posterior mean exceeds `threshold`. `means` (N, D); a float scalar. 1509.00519."""
    means = as_floats(means)
    return ops.sum(ops.cast(ops.var(means, axis=0) > threshold, means.dtype))
