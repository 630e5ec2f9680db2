"""Numbers that a compiled step is given at each call, beside its state and its batch."""

from typing import Any, NamedTuple

import keras
import numpy as np

__all__ = ["Fed", "LiveValues", "fed_pairs"]


class Fed(NamedTuple):
    """A batch as a compiled step is given it on JAX: with the live numbers, an array (K,)."""

    data: Any
    numbers: Any


class LiveValues:
    """Numbers by name, and the variables that stand for them within a step.

    The variables, `made`, are no weights of a model: it keeps this object, which Keras doesn't look
    into. `backend.live_value` gives what a step was given for one.
    """

    def __init__(self):
        self.numbers, self.made, self._array = {}, {}, None

    def set(self, name, number):
        """Sets a number, or None: the next call of a compiled step is given it."""
        self.numbers[name], self._array = number, None
        if name in self.made:
            self.made[name].assign(number or 0.0)

    def variables(self):
        """The variables, in the order of the names; made here, outside of any program."""
        for name, number in self.numbers.items():
            if name not in self.made:
                self.made[name] = keras.Variable(
                    number or 0.0, dtype="float32", trainable=False, autocast=False, name=name
                )
        return [self.made[name] for name in self.numbers]

    def array(self):
        """The numbers as float32, (K,)."""
        if self._array is None:
            self._array = np.array([n or 0.0 for n in self.numbers.values()], "float32")
        return self._array


def fed_pairs(model, data):
    """`(data, pairs)`: the batch alone, and the live variables with what they were given."""
    if not isinstance(data, Fed):
        return data, []
    variables = model.live_values.variables()
    return data.data, [(v, data.numbers[i]) for i, v in enumerate(variables)]
