"""What tests of environments play: a guessing game, and a policy that knows where it is."""

import keras
import numpy as np
from algorithms import bigrams
from keras import ops

BEGIN, RIGHT, HIGHER, LOWER, NO_NUMBER = 8, 9, 10, 11, 0  # ids 1 to 7 are the numbers


class HigherLower:
    """Guess a number from 1 to 7. Each guess costs 1."""

    def reset(self, number):
        self.number = int(number)
        return []

    def step(self, ids):
        (guess,) = ids
        if guess == self.number:
            return [RIGHT], -1.0, True
        if not 1 <= guess <= 7:
            return [NO_NUMBER], -1.0, False
        return [HIGHER if guess < self.number else LOWER], -1.0, False


def numbers(times):
    """Each number so many times, one after the other."""
    return {"prompt": np.full((7 * times, 1), BEGIN), "number": np.tile(np.arange(1, 8), times)}


@keras.saving.register_keras_serializable(package="tests")
class Places(keras.layers.Layer):
    """Adds a number for each place and id."""

    def build(self, shape):
        self.table = self.add_weight(shape=(24, shape[-1]), initializer="zeros", name="table")

    def compute_output_shape(self, shape):
        return shape

    def call(self, logits):
        return logits + self.table[: ops.shape(logits)[1]]


def placed():
    base = bigrams()
    return keras.Model(base.input, Places(name="places")(base.output))
