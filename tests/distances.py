"""How far two samples of points in the plane are apart."""

import numpy as np


def sliced_wasserstein(a, b, directions=500):
    """The mean over directions of the distance between the sorted projections of two samples."""
    angle = np.random.default_rng(0).uniform(0, np.pi, directions)
    axes = np.stack([np.cos(angle), np.sin(angle)])
    return np.mean(np.abs(np.sort(a @ axes, axis=0) - np.sort(b @ axes, axis=0)))


def mode_shares(samples, centres, radius):
    """The share of all samples that lie nearest to each centre, and within `radius` of it."""
    distances = np.linalg.norm(samples[:, None] - centres, axis=-1)
    nearest = distances.argmin(axis=1)[distances.min(axis=1) < radius]
    return np.bincount(nearest, minlength=len(centres)) / len(samples)


def ring_centres(modes=8, radius=2.0):
    """Where `datasets.toys.ring` has its Gaussians, (modes, 2)."""
    angles = 2 * np.pi * np.arange(modes) / modes
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
