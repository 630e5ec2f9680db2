"""The probability flow in its angle, exact on Gaussians of any width."""

import numpy as np
import pytest
from keras import ops

from artifex_keras.samplers import angular_flow
from artifex_keras.samplers.noise_schedules import EDMSchedule, NoiseSchedule

MEAN = 0.7
SCHEDULES = {
    "linear": NoiseSchedule("linear", 1000),
    "scaled_linear": NoiseSchedule("scaled_linear", 1000),
    "cosine": NoiseSchedule("cosine", 1000),
    "cosine to pure noise": NoiseSchedule("cosine", 1000, zero_terminal_snr=True),
    "sigmoid": NoiseSchedule("sigmoid", 1000),
    "edm": EDMSchedule(),
    "linear of 200": NoiseSchedule("linear", 200, beta_end=0.1),
    "cosine of 100": NoiseSchedule("cosine", 100),
    "cosine of 30": NoiseSchedule("cosine", 30),
}
# The standard deviation of each row's law, and how many of them its x is from the mean.
WIDTHS, PLACES = (
    part.reshape(-1, 1)
    for part in np.meshgrid([0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0], [-2.0, 0.0, 1.0])
)
X = (MEAN + PLACES * WIDTHS).astype("float32")


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def denoiser(schedule):
    """E[x_0 | x_t] where row i is of the law N(MEAN, WIDTHS[i]²)."""
    variance = (WIDTHS**2).astype("float32")

    def denoise(x, t):
        a, s = schedule.scales(t, x)
        return MEAN + a * variance / (a * a * variance + s * s) * (x - a * MEAN)

    return denoise


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("name", "num_steps", "bits"),
    [(name, 25, 5e-4) for name in SCHEDULES if " of " not in name]
    + [("linear of 200", 25, 5e-4), ("cosine of 100", 25, 1e-3), ("cosine of 30", 30, 2e-2)]
    + [("cosine", 50, 5e-5), ("edm", 50, 5e-5), ("cosine", 100, 3e-5), ("sigmoid", 100, 1e-4)],
)
def test_the_density_of_a_gaussian(name, num_steps, bits):
    """In nats, within so many bits: from a tenth to three times the width of a schedule's noise."""
    schedule = SCHEDULES[name]
    flow = angular_flow.angular_flow(schedule, num_steps)
    assert len(flow.angles) <= (1 if flow.twice else 2) * num_steps
    assert np.all(np.diff(flow.angles) > 0)
    found = numpy(angular_flow.log_likelihood(flow, denoiser(schedule), X))
    exact = (-0.5 * (PLACES**2 + np.log(2 * np.pi * WIDTHS**2)))[:, 0]
    np.testing.assert_allclose(found, exact, atol=bits * np.log(2))


@pytest.mark.parametrize("name", ["cosine", "edm"])
def test_the_noise_of_a_gaussian_is_its_standard_score_and_goes_back(name):
    schedule = SCHEDULES[name]
    flow, denoise = angular_flow.angular_flow(schedule, 30), denoiser(schedule)
    z = angular_flow.to_noise(flow, denoise, X)
    np.testing.assert_allclose(numpy(z), PLACES, atol=1e-3)
    back = angular_flow.from_noise(flow, denoise, z)
    np.testing.assert_allclose((numpy(back) - MEAN) / WIDTHS, PLACES, atol=2e-3)


def test_one_level_is_one_in_the_middle():
    flow = angular_flow.angular_flow(SCHEDULES["linear"], 1)
    assert flow.angles == pytest.approx([np.pi / 4], abs=0.1)
    assert np.isfinite(numpy(angular_flow.log_likelihood(flow, lambda x, t: 0 * x, X))).all()


def test_a_schedule_with_hardly_any_data_keeps_a_level():
    flow = angular_flow.angular_flow(NoiseSchedule([1e-6, 1e-7]), 2)
    assert len(flow.angles) == 1
