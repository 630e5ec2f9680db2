"""Between data and latent codes: encode, decode, reconstruct, interpolate."""

from keras import ops

from artifex_keras.aliases import Data, Tensor
from artifex_keras.arguments import integer
from artifex_keras.backend import compiled
from artifex_keras.models import checks, data_contract

__all__ = ["Codes"]


class Codes:
    """The part of a `VAE` that goes from data to codes and back."""

    def encode(self, x: Data, condition: Tensor = None) -> Tensor:
        """`(mean, log_var)` of q(z|x), each (B, latent...)."""
        self._check_built("encode", x, condition)
        self.check_values(x)
        x = _floats(x)
        return self._encoded_program(x, self._conditions(condition, x.shape[0]))

    @compiled
    def _encoded_program(self, x, condition):
        with self.ema_weights():
            return self._posterior(x, condition=condition)

    def decode(self, z: Tensor, condition: Tensor = None) -> Tensor:
        """The mean of p(x|z) in the data's units: probabilities for `"bce"`, levels for
        `"categorical"`."""
        self._check_built("decode")
        data_contract.check(data_contract.FINITE, z)
        z = _floats(z)
        checks.data_shape(z, self.latent_shape, "Codes")
        return self._decoded_program(z, self._conditions(condition, z.shape[0]))

    @compiled
    def _decoded_program(self, z, condition):
        with self.ema_weights():
            return self._mean_of(self._decoded(z, condition=condition))

    def reconstruct(self, x: Data, condition: Tensor = None) -> Tensor:
        """`decode` of the posterior's mean."""
        return self.decode(self.encode(x, condition)[0], condition)

    def interpolate(self, a: Tensor, b: Tensor, steps: int, condition: Tensor = None) -> Tensor:
        """Decoded codes on the straight line between the posterior means of `a` and `b`.

        `a` and `b` are batches (B, ...); gives (steps, B, ...), the ends included.

        Example:

        ```python
        import numpy as np

        import artifex_keras as ak

        vae = ak.VAE(ak.networks.mlp_encoder(4, 2, (8,)), ak.networks.mlp_decoder(2, 4, (8,)))
        a, b = np.zeros((1, 4), "float32"), np.ones((1, 4), "float32")
        between = vae.interpolate(a, b, steps=5)  # (5, 1, 4)
        ```
        """
        steps = integer("steps", steps, minimum=2)
        start, end = self.encode(a, condition)[0], self.encode(b, condition)[0]
        condition = self._conditions(condition, start.shape[0])
        u = ops.reshape(ops.linspace(0.0, 1.0, steps), (steps,) + (1,) * len(start.shape))
        codes = (1 - u) * start[None] + u * end[None]
        if condition is not None:
            condition = ops.concatenate([condition] * steps)
        images = self.decode(ops.reshape(codes, (-1, *self.latent_shape)), condition)
        return ops.reshape(images, (steps, -1, *self.data_shape))


def _floats(x):
    return ops.cast(ops.convert_to_tensor(x), "float32")
