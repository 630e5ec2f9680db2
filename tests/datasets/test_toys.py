"""Two-dimensional data: supports, moments and repeatability."""

import numpy as np
import pytest

from artifex_keras.datasets import checkerboard, gaussians, moons, ring, standardise, swiss_roll
from artifex_keras.datasets.toys import TOYS


@pytest.mark.parametrize("name", TOYS)
def test_points_are_repeatable_float32_and_centred_near_the_origin(name):
    points = TOYS[name](4000, 3)
    assert points.shape == (4000, 2) and points.dtype == "float32"
    np.testing.assert_array_equal(points, TOYS[name](4000, 3))
    assert (points != TOYS[name](4000, 4)).any()
    assert abs(points).max() < 4
    # In random order: both halves are samples of the same distribution.
    halves = points[:2000].mean(0) - points[2000:].mean(0)
    assert abs(halves).max() < 6 * points.std() / np.sqrt(1000)


def test_the_ring_has_equal_modes_of_the_given_width():
    points = ring(40_000)
    centres = 2 * np.stack([np.cos(a := np.arange(8) * np.pi / 4), np.sin(a)], -1)
    distances = np.linalg.norm(points[:, None] - centres, axis=-1)
    nearest = distances.argmin(1)
    shares = np.bincount(nearest, minlength=8) / len(points)
    np.testing.assert_allclose(shares, 1 / 8, atol=0.01)
    np.testing.assert_allclose((points - centres[nearest]).std(0), 0.1, rtol=0.02)


def test_gaussians_form_a_grid():
    points = gaussians(50_000)
    cells = points.round()
    assert len(np.unique(cells, axis=0)) == 25 and abs(cells).max() == 2
    np.testing.assert_allclose((points - cells).std(0), 0.05, rtol=0.02)
    assert abs(gaussians(1000, side=2, std=0.0)).max() == 0.5


def test_the_checkerboard_is_uniform_on_one_colour():
    points = checkerboard(40_000)
    cells = np.floor(points).astype(int)
    assert ((cells.sum(1) % 2) == 0).all()
    counts = np.unique(cells, axis=0, return_counts=True)[1]
    assert len(counts) == 8 and abs(counts / 5000 - 1).max() < 0.1


def test_moons_without_noise_are_two_half_circles():
    points = moons(1000, noise=0.0)
    upper = abs(np.linalg.norm(points, axis=1) - 1) < 1e-6
    lower = abs(np.linalg.norm(points - [1, 0.5], axis=1) - 1) < 1e-6
    assert (upper | lower).all() and 400 < upper.sum() < 600
    assert points[upper, 1].min() >= 0 and points[lower, 1].max() <= 0.5


def test_the_entropy_of_standardised_moons():
    # A nearest-neighbour estimate against 1.132 nats; the noise of the moons decides it.
    points = standardise(moons(20_000, noise=0.05)).astype("float64")
    from scipy.spatial import cKDTree

    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    entropy = np.log(nearest**2).mean() + np.log(np.pi * (len(points) - 1)) + np.euler_gamma
    assert abs(entropy - 1.132) < 0.03


def test_the_swiss_roll_widens_with_its_angle():
    radius = np.linalg.norm(swiss_roll(5000, noise=0.0), axis=1)
    assert abs(radius.min() - 2 / 3) < 0.01 and abs(radius.max() - 2) < 0.01


@pytest.mark.filterwarnings("ignore:Column 1")
def test_standardise_uses_the_statistics_of_the_first():
    train, test = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[5.0, 6.0]])
    standard = standardise(train, test)
    np.testing.assert_array_equal(standard[0], [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(standard[1], [[3, 1]])
    np.testing.assert_array_equal(standardise(train), standard[0])
