"""The memory it is chosen for, and its rates."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.optimizers import create_optimizer


def test_the_state_of_a_matrix_is_a_row_and_a_column():
    variables = [
        keras.Variable(np.ones((300, 200)), name="kernel"),
        keras.Variable(np.ones((3, 3, 40, 50)), name="kernel"),
        keras.Variable(np.ones(7), name="bias"),
    ]
    optimizer = create_optimizer("adafactor", weight_decay=0.1)
    optimizer.build(variables)
    sizes = [np.prod(v.shape, dtype=int) for v in optimizer.variables[2:]]  # iteration and rate
    assert sizes == [300, 200, 9 * 40, 9 * 50, 7]


@pytest.mark.parametrize(("relative_step", "moved"), [(True, 1 / 11), (False, 0.5)])
def test_the_relative_step_bounds_a_constant_rate(relative_step, moved):
    """At t = 121 of a constant gradient the clipped direction is 1 and the rate min(0.5, 1/√t)."""
    v = keras.Variable(np.zeros(2), name="bias")
    optimizer = create_optimizer(
        "adafactor", 0.5, relative_step=relative_step, scale_parameter=False
    )
    optimizer.build([v])
    optimizer._iterations.assign(120)
    optimizer.apply([ops.ones(2)], [v])
    np.testing.assert_allclose(ops.convert_to_numpy(v), -moved, rtol=1e-5)
