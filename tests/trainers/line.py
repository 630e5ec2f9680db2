"""A family of one number, whose training can be followed with pencil and paper."""

import keras
import numpy as np
from keras import ops

from artifex_keras.models import GenerativeModel


@keras.saving.register_keras_serializable(package="tests")
class Line(GenerativeModel):
    """Learns the mean of x: (w - x)² per example. `noise` adds that much to each x."""

    options = ("noise", "ema_decay", "seed")

    def __init__(self, noise=0.0, **kwargs):
        super().__init__(**kwargs)
        self.noise = noise
        self.w = self.add_weight(name="w", shape=(), initializer="zeros")
        self.dropout = keras.layers.Dropout(0.5)
        self.finish_build((None, 1))

    def objective(self, batch, training):
        x = ops.reshape(ops.cast(batch.x, "float32"), (-1,))
        if self.noise:
            x = x + self.noise * self.normal(ops.shape(x))
            x = self.dropout(x, training=training)
        return {"loss": ops.square(self.w - x)}

    def position(self):
        return float(ops.convert_to_numpy(self.w))

    def steps(self):
        return int(ops.convert_to_numpy(self.step))


def ones(rows):
    return np.ones((rows, 1), "float32")


def descent(rates, target=1.0, start=0.0):
    """Where gradient descent on (w - target)² arrives with these rates."""
    w = start
    for rate in rates:
        w -= rate * 2 * (w - target)
    return w


def sgd(rate=0.1):
    return {"type": "sgd", "learning_rate": rate}
