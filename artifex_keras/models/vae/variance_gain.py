"""The learned variance of p(x|z): a weight that Adam moves fast enough."""

import keras
from keras import ops

__all__ = ["VarianceGain"]

GAIN = 20.0


@keras.saving.register_keras_serializable(package="artifex_keras")
class VarianceGain(keras.layers.Layer):
    """ln σ² as `gain` times a weight, and its gradient divided by the gain.

    Adam moves each weight by about its learning rate, whatever the gradient: ln σ² itself would
    take thousands of steps to its optimum. So ln σ² moves `gain` times as far. As the gradient is
    divided where the chain rule multiplies, plain SGD moves ln σ² as if there were no gain, and
    clipping by the norm isn't ruled by this one weight.

    The gain is 1 for files that were written before there was one: those go on as they were.
    """

    def build(self, input_shape=None):
        self.gain = self.add_weight(
            name="gain",
            shape=(),
            initializer=keras.initializers.Constant(GAIN),
            dtype="float32",
            trainable=False,
        )
        self.gain.value_if_unsaved = 1.0
        self.built = True

    def call(self, weight):
        weight, gain = ops.convert_to_tensor(weight), ops.convert_to_tensor(self.gain)
        scaled = weight / gain
        return scaled + ops.stop_gradient(weight * gain - scaled)

    def load_own_variables(self, store):
        if store.keys():
            super().load_own_variables(store)
        else:
            self.gain.assign(1.0)
