"""The terms of diffusion models: regression losses and their weights, and the variational bound.

``x_t = a x_0 + s ε`` with ``SNR = a²/s²``. Regression losses average over event axes; the terms of
the bound are nats, summed over them. All are per example, (B,).
"""

import math
from typing import NamedTuple

from keras import ops

from artifex_keras.arguments import lookup
from artifex_keras.objectives.elbo import gaussian_kl
from artifex_keras.objectives.masks import as_floats, mean_event, sum_event

__all__ = [
    "LOSS_WEIGHTINGS",
    "TIMESTEP_SAMPLINGS",
    "Preconditioning",
    "bits_per_dim",
    "diffusion_kl",
    "discretized_gaussian_nll",
    "edm_preconditioning",
    "log_normal_sigma",
    "logit_normal_times",
    "loss_weight",
    "mode_times",
    "prediction_error",
    "prior_kl",
    "stratified_times",
    "times",
    "uniform_times",
]


# Regression


def prediction_error(prediction, target, weight=None):
    """``w · mean (target - prediction)²`` over event axes, (B,); `weight` (B,), 1 if left out."""
    prediction, target = as_floats(prediction, target)
    error = mean_event(ops.square(target - prediction))
    return error if weight is None else ops.cast(weight, error.dtype) * error


# Weights of ‖x_0 - x̂_0‖². In each, SNR = 0 stands for pure noise.


def snr_weight(snr, gamma=5.0, sigma_data=0.5):
    """``SNR``: the plain error of ε, in every form. 2006.11239."""
    return snr


def min_snr_weight(snr, gamma=5.0, sigma_data=0.5):
    """``min(SNR, γ)``. 2303.09556."""
    return ops.minimum(snr, gamma)


def edm_weight(snr, gamma=5.0, sigma_data=0.5):
    """``(σ² + σ_d²)/(σ σ_d)²`` with σ² = 1/SNR: the plain error of F in EDM's x̂_0 = c_skip x +
    c_out F. 2206.00364 table 1."""
    return snr + 1 / sigma_data**2


LOSS_WEIGHTINGS = {
    "uniform": None,
    "snr": snr_weight,
    "min_snr": min_snr_weight,
    "edm": edm_weight,
}

# ‖x_0 - x̂_0‖² times this is the squared error of the prediction: 2202.00512 section 4.
ERROR_RATIOS = {
    "x_start": ops.ones_like,
    "epsilon": lambda snr: snr,
    "v_prediction": lambda snr: snr + 1,
}


def loss_weight(snr, prediction_type, weighting="uniform", *, gamma=5.0, sigma_data=0.5):
    """The factor of a prediction's squared error, shaped like `snr`.

    "uniform" is 1 for whatever is predicted. Each other row of `LOSS_WEIGHTINGS` is a weight of
    ``‖x_0 - x̂_0‖²``, divided here by what makes the prediction's error of it (1, SNR or SNR + 1
    for x_0, ε or v), and is so the same objective in all three forms.

    Args:
        snr: the ratio at the timesteps drawn, (B,).
        prediction_type: "epsilon", "v_prediction" or "x_start".
        weighting: a row of `LOSS_WEIGHTINGS`.
        gamma: where "min_snr" stops to grow.
        sigma_data: the data's standard deviation, for "edm".

    Raises:
        ValueError: for an unknown name.
    """
    weight = lookup(LOSS_WEIGHTINGS, weighting, "loss weighting")
    ratio = lookup(ERROR_RATIOS, prediction_type, "prediction type")
    snr = as_floats(snr)
    if weight is None:
        return ops.ones_like(snr)
    return weight(snr, gamma, sigma_data) / ratio(snr)


class Preconditioning(NamedTuple):
    """``D(x; σ) = c_skip x + c_out F(c_in x, c_noise)``, each shaped like σ."""

    c_skip: object
    c_out: object
    c_in: object
    c_noise: object


def edm_preconditioning(sigma, sigma_data=0.5):
    """The `Preconditioning` that keeps a network's input and target at variance 1. 2206.00364.

    ``c_skip = σ_d²/(σ² + σ_d²)``, ``c_out = σ σ_d/√(σ² + σ_d²)``, ``c_in = 1/√(σ² + σ_d²)``,
    ``c_noise = ln(σ)/4`` (table 1).
    """
    sigma = as_floats(sigma)
    square = ops.square(sigma) + sigma_data**2
    root = ops.sqrt(square)
    return Preconditioning(
        sigma_data**2 / square, sigma * sigma_data / root, 1 / root, ops.log(sigma) / 4
    )


# Times to train at, in [0, 1], of the shape of the uniform draws u in [0, 1)


def uniform_times(u):
    """u."""
    return as_floats(u)


def logit_normal_times(u, mean=0.0, std=1.0):
    """``sigmoid(m + s n)``, n the normal quantile of u: most often in the middle.

    2403.03206 section 3.1.
    """
    return ops.sigmoid(mean + std * _normal_quantile(u))


def mode_times(u, scale=1.29):
    """``1 - u - s (cos²(πu/2) - 1 + u)``; a positive s favours the middle. 2403.03206 eq. 20.

    A density for s in [-1, 2/(π-2)].

    Raises:
        ValueError: for a `scale` outside that range, where the map is not monotone.
    """
    if not -1 <= scale <= 2 / (math.pi - 2):
        raise ValueError(f"`scale` must be in [-1, 2/(π-2)]. Received: scale={scale}.")
    u = as_floats(u)
    return 1 - u - scale * (ops.square(ops.cos(math.pi / 2 * u)) - 1 + u)


def stratified_times(u):
    """``(i + u_i)/B`` for row i of B: one draw in each of B equal parts, in rising order.

    Uniform over the batch with less noise; feed it to another row for that row's density. With u
    fixed it covers the whole range the same way each time, as a validation loss should.
    """
    u = as_floats(u)
    rows = ops.arange(u.shape[0] or ops.shape(u)[0], dtype=u.dtype)
    rows = ops.reshape(rows, (-1,) + (1,) * (len(u.shape) - 1))
    return (rows + u) / ops.cast(ops.shape(u)[0], u.dtype)


TIMESTEP_SAMPLINGS = {
    "uniform": uniform_times,
    "logit_normal": logit_normal_times,
    "mode": mode_times,
    "stratified": stratified_times,
}


def times(u, sampling="uniform", **options):
    """Times in [0, 1] of that density, a row of `TIMESTEP_SAMPLINGS`, from uniform draws `u`.

    Raises:
        ValueError: for an unknown name.
    """
    return lookup(TIMESTEP_SAMPLINGS, sampling, "timestep sampling")(u, **options)


def log_normal_sigma(u, mean=-1.2, std=1.2):
    """``σ = e^{m + s n}``, n the normal quantile of u. 2206.00364 table 1."""
    return ops.exp(mean + std * _normal_quantile(u))


def _normal_quantile(u):
    # Float32 draws do reach 0, whose quantile is infinite.
    return math.sqrt(2) * ops.erfinv(2 * ops.clip(as_floats(u), 1e-6, 1 - 1e-6) - 1)


# The variational bound: -ln p(x_0) ≤ prior + Σ_t KL_t + decoder


def prior_kl(x, signal, noise_scale):
    """KL(q(x_T|x_0) ‖ N(0, I)) in nats, (B,), for the last level's factors a and s."""
    x, signal, noise_scale = as_floats(x, signal, noise_scale)
    return gaussian_kl(signal * x, 2 * ops.log(noise_scale * ops.ones_like(x)))


def diffusion_kl(x, x_start, snr_before, snr):
    """``½ (SNR_{t-1} - SNR_t) Σ (x_0 - x̂_0)²`` in nats, (B,): one step's term of the bound.

    It is KL(q(x_{t-1}|x_t, x_0) ‖ p(x_{t-1}|x_t)) where p has the posterior's variance.
    2107.00630. `snr_before`, `snr` are (B,), of the level before t and of t.
    """
    x, x_start, snr_before, snr = as_floats(x, x_start, snr_before, snr)
    return 0.5 * (snr_before - snr) * sum_event(ops.square(x - x_start))


def discretized_gaussian_nll(x, mean, log_var, *, levels=256):
    """Minus ln of the mass that N(mean, σ²) gives to each value's bin, (B,) in nats.

    `x` holds `levels` equally spaced values from -1 to 1; the outer bins reach to infinity, so
    that the masses of all levels sum to 1. 2006.11239 equation 13.
    """
    x, mean, log_var = as_floats(x, mean, log_var)
    half, infinity = 1 / (levels - 1), 1e4 * ops.ones_like(x)
    scale = ops.exp(-0.5 * log_var)
    low = ops.where(x < half - 1, -infinity, scale * (x - half - mean))
    high = ops.where(x > 1 - half, infinity, scale * (x + half - mean))
    # Mirrored, so that the bin lies to the right: the mass there is a difference of small tails.
    mirrored = low + high < 0
    return -sum_event(
        _log_normal_mass(ops.where(mirrored, -high, low), ops.where(mirrored, -low, high))
    )


def _log_normal_mass(low, high):
    """ln of the standard normal's mass between `low` and `high`, where low + high >= 0."""
    mass = 0.5 * (ops.erf(high / math.sqrt(2)) - ops.erf(low / math.sqrt(2)))
    # From 2 on the difference loses its digits, and the tails' continued fraction has them.
    near, far = ops.maximum(low, 2.0), ops.maximum(high, 2.0)
    decay = ops.exp(-0.5 * (far - near) * (far + near))
    tails = ops.maximum(_mills_ratio(near) - _mills_ratio(far) * decay, 1e-30)
    log_tail = -0.5 * (ops.square(near) + math.log(2 * math.pi)) + ops.log(tails)
    return ops.where(low > 2, log_tail, ops.log(ops.maximum(mass, 1e-30)))


def _mills_ratio(z):
    """``(1 - Φ(z))/φ(z)`` by its continued fraction, to 1e-5 for z >= 2."""
    ratio = z
    for k in range(12, 0, -1):
        ratio = z + k / ratio
    return 1 / ratio


def bits_per_dim(nats, dims):
    """``nats / (D ln 2)``: nats per example as bits for each of its `dims` values."""
    return as_floats(nats) / (dims * math.log(2))
