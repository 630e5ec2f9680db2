"""Arrays of two runs, held against each other."""

import numpy as np


def assert_same(first, second, atol=0.0, rtol=0.0):
    """Raises unless both have as many arrays, and each is that of the other: to the bit, if no
    tolerance is given."""
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=rtol)
