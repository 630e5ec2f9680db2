"""Losses of generative adversarial networks.

`real_logits` and `fake_logits` are the critic's raw outputs a = D(x) and b = D(G(z)), of shape
(B,), (B, 1) or, for a critic of patches, (B, H, W, 1). ``sp(x) = ln(1 + eˣ)``.

Each loss is written per example, (B,), as the mean over the logits of one example; a row of
`GAN_LOSSES` is its mean over the batch. Everything here is minimised. Losses of logits that come
from `stop_gradient(G(z))` belong to the critic's step; that is the caller's business.
"""

from typing import NamedTuple

from keras import ops

from artifex_keras.objectives.masks import as_floats, mean_event, sum_event, weighted_mean

__all__ = [
    "GAN_LOSSES",
    "AdversarialLoss",
    "BatchMean",
    "gradient_norm",
    "gradient_penalty",
    "hinge_critic",
    "hinge_generator",
    "interpolate",
    "lecam",
    "lsgan_critic",
    "lsgan_generator",
    "r1_penalty",
    "relativistic_critic",
    "relativistic_generator",
    "vanilla_critic",
    "vanilla_generator",
    "wasserstein_critic",
    "wasserstein_generator",
]


def vanilla_critic(real_logits, fake_logits, *, label_smoothing=0.0):
    """``(1-s) sp(-a) + s sp(a) + sp(b)`` per example: cross-entropy, real against generated.

    `label_smoothing` s is one-sided: real examples are labelled 1-s, and the best critic answers
    them with the finite logit ``ln((1-s)/s)`` where it is otherwise certain. 1406.2661, 1606.03498.
    """
    a, b = as_floats(real_logits, fake_logits)
    s = label_smoothing
    return mean_event((1 - s) * ops.softplus(-a) + s * ops.softplus(a) + ops.softplus(b))


def vanilla_generator(fake_logits, real_logits=None):
    """``sp(-b)`` per example, the non-saturating loss. 1406.2661 section 3."""
    return mean_event(ops.softplus(-as_floats(fake_logits)))


def wasserstein_critic(real_logits, fake_logits):
    """``b - a`` per example; its negative mean estimates the distance. 1701.07875."""
    a, b = as_floats(real_logits, fake_logits)
    return mean_event(b - a)


def wasserstein_generator(fake_logits, real_logits=None):
    """``-b`` per example. 1701.07875."""
    return mean_event(-as_floats(fake_logits))


def hinge_critic(real_logits, fake_logits):
    """``relu(1 - a) + relu(1 + b)`` per example. 1705.02894, 1802.05957 equation 16."""
    a, b = as_floats(real_logits, fake_logits)
    return mean_event(ops.relu(1 - a) + ops.relu(1 + b))


def hinge_generator(fake_logits, real_logits=None):
    """``-b`` per example. 1802.05957 equation 17."""
    return mean_event(-as_floats(fake_logits))


def lsgan_critic(real_logits, fake_logits):
    """``½(a - 1)² + ½b²`` per example. 1611.04076 equation 9."""
    a, b = as_floats(real_logits, fake_logits)
    return mean_event(0.5 * ops.square(a - 1) + 0.5 * ops.square(b))


def lsgan_generator(fake_logits, real_logits=None):
    """``½(b - 1)²`` per example. 1611.04076 equation 9."""
    return mean_event(0.5 * ops.square(as_floats(fake_logits) - 1))


def relativistic_critic(real_logits, fake_logits):
    """``sp(-(a - b))`` per example: each real one is to look more real than its generated partner.

    Meant to be used with the zero-centred penalties on both real (R1) and generated (R2)
    examples. 1807.00734, 2501.05441.
    """
    a, b = as_floats(real_logits, fake_logits)
    return mean_event(ops.softplus(b - a))


def relativistic_generator(fake_logits, real_logits=None):
    """``sp(-(b - a))`` per example; needs the logits of real examples too. 2501.05441.

    Raises:
        ValueError: without `real_logits`.
    """
    if real_logits is None:
        raise ValueError("The relativistic generator's loss needs `real_logits`. Received: None.")
    a, b = as_floats(real_logits, fake_logits)
    return mean_event(ops.softplus(a - b))


class BatchMean:
    """The mean over the batch of a loss that is written per example.

    `per_example` is that loss. The keyword `weights` (B,) makes the mean ``Σ w l / Σ w``.
    """

    def __init__(self, per_example, *, compares=False, smooths=False):
        self.per_example = per_example
        self.compares, self.smooths = compares, smooths
        self.__doc__ = per_example.__doc__

    def __call__(self, *logits, weights=None, **options):
        return weighted_mean(self.per_example(*logits, **options), weights)

    def __repr__(self):
        return f"BatchMean({self.per_example.__name__})"


class AdversarialLoss(NamedTuple):
    """The two sides of a game: ``critic(real_logits, fake_logits)`` and
    ``generator(fake_logits, real_logits=None)``, both scalars to be minimised.

    What differs between losses stands at the side that it is about: `generator.compares`, it needs
    the real logits; `critic.smooths`, it takes `label_smoothing`.
    """

    critic: BatchMean
    generator: BatchMean


GAN_LOSSES = {
    "vanilla": AdversarialLoss(
        BatchMean(vanilla_critic, smooths=True), BatchMean(vanilla_generator)
    ),
    "wasserstein": AdversarialLoss(BatchMean(wasserstein_critic), BatchMean(wasserstein_generator)),
    "hinge": AdversarialLoss(BatchMean(hinge_critic), BatchMean(hinge_generator)),
    "lsgan": AdversarialLoss(BatchMean(lsgan_critic), BatchMean(lsgan_generator)),
    "relativistic": AdversarialLoss(
        BatchMean(relativistic_critic), BatchMean(relativistic_generator, compares=True)
    ),
}


def gradient_norm(gradient, *, epsilon=1e-12):
    """``√(Σ g² + ε)`` over all axes but the first: (B,).

    ε stands inside the root, where the derivative is finite also for a gradient of zero.
    """
    return ops.sqrt(sum_event(ops.square(as_floats(gradient))) + epsilon)


def gradient_penalty(gradient, *, target=1.0, epsilon=1e-12):
    """``(‖g‖ - target)²`` per example, (B,), of the critic's gradient with respect to its input.

    Taken between real and generated examples (`interpolate`) it is WGAN-GP's, 1704.00028
    equation 3, where the caller multiplies by λ.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.adversarial import gradient_penalty

    print(gradient_penalty(np.array([[3.0, 4.0]])))  # (5 - 1)² = 16
    ```
    """
    return ops.square(gradient_norm(gradient, epsilon=epsilon) - target)


def r1_penalty(gradient):
    """``½ Σ g²`` per example, (B,): times γ it is R1 on real, R2 on generated examples.

    Published values of γ include this half. 1801.04406 equation 9.
    """
    return 0.5 * sum_event(ops.square(as_floats(gradient)))


def lecam(real_logits, fake_logits, ema_real, ema_fake):
    """``relu(a - EMA_b)² + relu(EMA_a - b)²`` per example, (B,).

    `ema_real` and `ema_fake` are moving averages of the critic's mean logits, scalars which the
    caller keeps as weights and starts to use after a warm-up. 2104.03310.
    """
    a, b, ema_real, ema_fake = as_floats(real_logits, fake_logits, ema_real, ema_fake)
    return mean_event(ops.square(ops.relu(a - ema_fake)) + ops.square(ops.relu(ema_real - b)))


def interpolate(real, fake, u):
    """``u x + (1 - u) G(z)``, with one `u` (B,) in [0, 1] for each example. 1704.00028."""
    real, fake, u = as_floats(real, fake, u)
    u = ops.reshape(u, (-1,) + (1,) * (ops.ndim(real) - 1))
    return u * real + (1 - u) * fake
