"""A weight that is no number, and what `fit` says of it: for each family and algorithm."""

import numpy as np
import pytest
from keras import ops


def assert_it_stops(model, fit):
    """`fit(model)` ends at its first step, with what helps, once a weight of `model` is NaN."""
    weight = max(model.trainable_variables, key=lambda v: int(np.prod(v.shape)))
    weight.assign(np.full(weight.shape, np.nan, "float32"))
    with pytest.raises(FloatingPointError) as error:
        fit(model)
    message = str(error.value)
    assert "in epoch 1, step 1 `loss` was nan" in message
    assert "are not finite, first" in message
    assert "What usually helps: " in message and "a smaller learning rate (now 0.01)" in message
    assert model.remedies and all(remedy in message for remedy in model.remedies)
    assert len(model.history.epoch) == 0
    ops.convert_to_numpy(model.trainable_variables[0])  # the weights are back
