"""Adversarial losses and penalties against closed forms."""

import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import input_gradient
from artifex_keras.objectives import adversarial
from artifex_keras.objectives.adversarial import GAN_LOSSES

REAL = np.array([-5, 1.4, 12.5, 2.7])
FAKE = np.array([10, 4.4, -5.5, 3.6])


def numpy(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize(
    ("name", "generator", "critic"),
    [
        ("vanilla", 1.38582, 5.83387),
        ("lsgan", 17.69625, 41.73375),
        ("wasserstein", -3.125, 0.225),
        ("hinge", -3.125, 6.75),
        ("relativistic", 4.59744, 4.82244),
    ],
)
def test_golden_values(name, generator, critic):
    loss = GAN_LOSSES[name]
    np.testing.assert_allclose(float(loss.critic(REAL, FAKE)), critic, atol=1e-5)
    np.testing.assert_allclose(float(loss.generator(FAKE, REAL)), generator, atol=1e-5)
    if name != "relativistic":
        np.testing.assert_allclose(float(loss.generator(FAKE)), generator, atol=1e-5)


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_logits_of_patches_are_averaged_and_weights_count_examples(name):
    critic, generator = GAN_LOSSES[name]
    real, fake = (x.reshape(2, 2, 1, 1) for x in (REAL, FAKE))
    np.testing.assert_allclose(
        float(critic(real, fake)), float(critic(REAL, FAKE)), rtol=1e-6, atol=1e-6
    )
    assert critic.per_example(real, fake).shape == (2,)
    one = float(generator(FAKE[:2], REAL[:2]))
    np.testing.assert_allclose(float(generator(fake, real, weights=[1, 0])), one, rtol=1e-6)


def test_a_relativistic_generator_needs_real_logits():
    with pytest.raises(ValueError, match="real_logits"):
        GAN_LOSSES["relativistic"].generator(FAKE)


def test_label_smoothing_is_one_sided_and_has_the_finite_optimum_of_the_formula():
    critic = GAN_LOSSES["vanilla"].critic
    optimum = np.log(0.9 / 0.1)
    assert abs(optimum - 2.197) < 1e-3

    def slope(real, fake, s=0.1):
        real, fake = real + 0, fake + 0  # two tensors, of which a tape watches one
        by_real = input_gradient(lambda a: critic(a, fake, label_smoothing=s), real)
        by_fake = input_gradient(lambda b: critic(real, b, label_smoothing=s), fake)
        return float(numpy(by_real)[0]), float(numpy(by_fake)[0])

    at = ops.convert_to_tensor([optimum], dtype="float32")
    assert abs(slope(at, at)[0]) < 1e-6
    assert slope(at - 0.1, at)[0] < -1e-3 and slope(at + 0.1, at)[0] > 1e-3
    # The generated side has no target but zero, whatever the smoothing.
    assert slope(at, at)[1] == slope(at, at, 0.0)[1]
    with pytest.raises(TypeError):
        GAN_LOSSES["hinge"].critic(REAL, FAKE, label_smoothing=0.1)


def test_penalties_of_a_linear_critic_are_exact():
    a = np.array([[1.0, -2.0], [0.5, 4.0]])
    gradient = np.stack([a, 0 * a])
    norm = np.sqrt(21.25)
    np.testing.assert_allclose(numpy(adversarial.gradient_norm(gradient)), [norm, 1e-6], rtol=1e-6)
    np.testing.assert_allclose(
        numpy(adversarial.gradient_penalty(gradient)), [(norm - 1) ** 2, 1], rtol=1e-5
    )
    np.testing.assert_allclose(
        numpy(adversarial.gradient_penalty(gradient, target=0.0)), [21.25, 0], atol=1e-5
    )
    np.testing.assert_allclose(numpy(adversarial.r1_penalty(gradient)), [10.625, 0], rtol=1e-6)


@pytest.mark.parametrize("penalty", [adversarial.gradient_penalty, adversarial.r1_penalty])
def test_penalties_have_a_finite_gradient_at_zero(penalty):
    zero = ops.zeros((2, 3))
    slope = input_gradient(lambda g: ops.sum(penalty(g)), zero)
    np.testing.assert_array_equal(numpy(slope), np.zeros((2, 3)))


def test_lecam_is_zero_inside_the_averages_and_quadratic_outside():
    penalty = adversarial.lecam([1.0, 3.0], [0.5, -2.0], 0.0, 1.5)
    # relu(a - ema_fake)^2 + relu(ema_real - b)^2
    np.testing.assert_allclose(numpy(penalty), [0.0, 1.5**2 + 2.0**2])


def test_interpolation_uses_one_number_per_example():
    real, fake = np.ones((3, 2, 2, 1)), np.zeros((3, 2, 2, 1))
    mixed = numpy(adversarial.interpolate(real, fake, [0.0, 0.25, 1.0]))
    np.testing.assert_allclose(mixed, real * np.reshape([0, 0.25, 1], (3, 1, 1, 1)))
