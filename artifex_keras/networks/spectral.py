"""Spectral normalization that is the same function on every backend."""

from typing import Any

import keras
from keras import ops

from artifex_keras.arguments import checked, count
from artifex_keras.networks.rules import network

__all__ = ["SpectralNormalization"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(layer=network, power_iterations=count())
class SpectralNormalization(keras.layers.SpectralNormalization):
    """A layer whose kernel is used as ``W/σ(W)``, σ its largest singular value. 1802.05957.

    ``σ ≈ v W uᵀ`` with ``v = u Wᵀ / ‖u Wᵀ‖``. The vector u is a weight: a call with
    `training=True` improves it by `power_iterations` steps, other calls leave it alone and use
    the same σ. The optimizer sees the raw W, through whose σ gradients flow, u and v being
    constants. A kernel of more than two axes is flattened to (-1, its last axis).

    Keras's own layer overwrites W instead: persistently on TensorFlow and torch, where it thus
    projects, and for the one call on JAX, where evaluation then uses W as it is.

    `layer` is linear in its `kernel` before bias and activation (dense, convolutions) or has
    `embeddings`.

    Example:

    ```python
    import keras
    import artifex_keras as ak

    layer = ak.networks.SpectralNormalization(keras.layers.Dense(8))
    print(layer(keras.Input((4,))).shape)  # (None, 8)
    ```
    """

    def __init__(self, layer: keras.layers.Layer, power_iterations: int = 1, **kwargs: Any):
        super().__init__(layer, power_iterations, **kwargs)

    def call(self, inputs, training=False):
        if training:
            self.vector_u.assign(self._improved_u())
        divisor = self._divisor()
        if hasattr(self.layer, "kernel"):
            # The layer is linear in its kernel: a scaled input is a scaled kernel.
            return self.layer(inputs / ops.cast(divisor, inputs.dtype))
        output = self.layer(inputs)
        return output / ops.cast(divisor, output.dtype)

    def _matrix(self):
        return ops.reshape(self.kernel, (-1, self.kernel_shape[-1]))

    def _improved_u(self):
        matrix, kept = ops.stop_gradient(self._matrix()), ops.convert_to_tensor(self.vector_u)
        u = kept
        for _ in range(self.power_iterations):
            v = _unit(ops.matmul(u, ops.transpose(matrix)))
            u = _unit(ops.matmul(v, matrix))
        # A kernel of zeros has no direction to offer.
        return ops.where(ops.any(matrix != 0), u, kept)

    def _divisor(self):
        matrix = self._matrix()
        u = _unit(ops.convert_to_tensor(self.vector_u))
        v = ops.stop_gradient(_unit(ops.matmul(u, ops.transpose(matrix))))
        sigma = ops.squeeze(ops.matmul(ops.matmul(v, matrix), ops.transpose(u)))
        return ops.where(sigma == 0, ops.ones_like(sigma), sigma)


def _unit(vector):
    return vector / ops.maximum(ops.norm(vector), 1e-12)
