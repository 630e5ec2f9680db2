"""Old names of arguments still work, and say what they are called now."""

import numpy as np
import pytest
from families import FAMILIES
from keras import ops

from artifex_keras.renamed import renamed

ROWS = {family.name: family for family in FAMILIES}


def test_labels_are_a_condition():
    model = ROWS["gan-conditional"].make()
    y = np.array([0, 1, 2])
    expected = ops.convert_to_numpy(model.sample(3, y, seed=0))
    with pytest.warns(
        FutureWarning, match="`labels` of `sample` is called `condition` now"
    ) as said:
        found = ops.convert_to_numpy(model.sample(3, labels=y, seed=0))
    np.testing.assert_array_equal(found, expected)
    assert said[0].filename == __file__  # the line of the one who calls


def test_a_method_with_an_old_name():
    class Model:
        @renamed(label="condition", solver="sampler")
        def sample(self, n, condition=None, *, sampler="euler"):
            "The docstring."
            return n, condition, sampler

    assert Model().sample(2, 3) == (2, 3, "euler")
    with pytest.warns(FutureWarning, match="`solver` of `sample` is called `sampler`"):
        assert Model().sample(2, solver="heun") == (2, None, "heun")
    with pytest.raises(TypeError, match="Received: both. Leave `label` out"):
        Model().sample(2, condition=1, label=1)
    assert Model.sample.__doc__ == "The docstring."


def test_a_class_with_an_old_name():
    @renamed(labels="condition")
    class Callback:
        def __init__(self, folder, *, condition=None):
            self.condition = condition

    assert Callback("pictures", condition=3).condition == 3
    with pytest.warns(FutureWarning, match="`labels` of `Callback` is called `condition`") as said:
        assert Callback("pictures", labels=4).condition == 4
    assert said[0].filename == __file__
    with pytest.raises(TypeError, match="Received: both"):
        Callback("pictures", condition=1, labels=1)
