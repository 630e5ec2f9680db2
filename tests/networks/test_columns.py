"""Some tokens of all rows at a time: the numbers of all at once, and their gradients."""

import keras
import numpy as np
import pytest
from keras import ops
from one_program import in_one_program

from artifex_keras.networks.columns import over_columns


@pytest.mark.parametrize("shards, columns", [(1, 3), (1, 20), (4, 8), (3, 2), (4, 1)])
def test_parts_are_put_together_again(shards, columns):
    x = np.random.default_rng(0).normal(size=(2, 13, 3)).astype("float32")
    places = np.arange(13, dtype="int32")[None]

    def fn(x, places):
        return x * ops.cast(places, x.dtype)[..., None], ops.sum(ops.square(x), axis=-1)

    found = in_one_program(
        lambda: over_columns(fn, (ops.convert_to_tensor(x), places), columns, shards)
    )
    for a, b in zip(found, fn(ops.convert_to_tensor(x), places), strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b), rtol=1e-6
        )
