"""How likely data are under a VAE, and how it uses its code."""

import numpy as np
from keras import ops

from artifex_keras.aliases import Data, Tensor
from artifex_keras.arguments import integer
from artifex_keras.backend import compiled
from artifex_keras.models.vae.reconstructions import RECONSTRUCTIONS
from artifex_keras.objectives import elbo

__all__ = ["Likelihood"]

CHUNK = 16  # importance samples decoded at once


class Likelihood:
    """The part of a `VAE` that says how likely data are."""

    def log_likelihood(
        self,
        x: Data,
        num_samples: int = 100,
        *,
        condition: Tensor = None,
        batch_size: int = 256,
        seed: int | None = None,
    ) -> np.ndarray:
        """The importance-weighted bound of ln p(x), nats per example, (B,), float64 NumPy.

        E[logsumexp_k (ln p(x, z_k) - ln q(z_k|x)) - ln K] for K = `num_samples`: it tightens with
        K (1509.00519). For `"mse"` and `"mae"`, whose losses leave out the constants
        ``½ D ln π`` and ``D ln 2`` of their densities, they are added here.

        Example:

        ```python
        import numpy as np

        import artifex_keras as ak

        vae = ak.VAE(ak.networks.mlp_encoder(4, 2, (8,)), ak.networks.mlp_decoder(2, 4, (8,)))
        x = np.zeros((3, 4), "float32")
        nats = vae.log_likelihood(x, num_samples=8)  # (3,)
        ```
        """
        self._check_built("log_likelihood", x, condition)
        num_samples = integer("num_samples", num_samples, minimum=1)
        batch_size = integer("batch_size", batch_size, minimum=1)
        self.check_values(x)
        x = ops.convert_to_numpy(x)
        condition = self._conditions(condition, len(x))
        parts = []
        with self.drawing_from(seed):
            for start in range(0, len(x), batch_size):
                rows = slice(start, start + batch_size)
                given = None if condition is None else condition[rows]
                parts.append(self._bound(x[rows], given, num_samples))
        return np.concatenate(parts)

    def _bound(self, x, condition, num_samples):
        counts = [min(CHUNK, num_samples - done) for done in range(0, num_samples, CHUNK)]
        x = ops.cast(ops.convert_to_tensor(x), "float32")
        logs = [
            ops.convert_to_numpy(self._log_weights(x, condition, count=count)) for count in counts
        ]
        logs = [np.asarray(log, dtype="float64") for log in logs]
        constant = RECONSTRUCTIONS[self.reconstruction].constant * np.prod(self.data_shape)
        return np.logaddexp.reduce(np.concatenate(logs), axis=0) - np.log(num_samples) - constant

    def _importance_terms(
        self, x, mean, log_var, count, training=False, weight=None, condition=None
    ):
        """`(ln p(x|z), ln p(z) - ln q(z|x))`, each (count, B), for draws z from q(z|x)."""

        def repeated(tensor):
            tiled = ops.broadcast_to(tensor[None], (count, *ops.shape(tensor)))
            return ops.reshape(tiled, (-1, *tensor.shape[1:]))

        mean, log_var = repeated(mean), repeated(log_var)
        z = self._draw(mean, log_var)
        weight = weight if weight is None else repeated(weight)
        condition = condition if condition is None else repeated(condition)
        nll = self._nll(repeated(x), self._decoded(z, training, condition), training, weight)
        log_ratio = elbo.log_normal(z) - elbo.log_normal(z, mean, log_var)
        return tuple(ops.reshape(part, (count, -1)) for part in (-nll, log_ratio))

    @compiled
    def _log_weights(self, x, condition, count):
        with self.ema_weights():
            mean, log_var = self._posterior(x, condition=condition)
            return sum(self._importance_terms(x, mean, log_var, count, condition=condition))

    def latent_report(self, x: Data, threshold: float = 0.01, condition: Tensor = None):
        """How the code is used: a dict of `kl_per_dimension` (nats, latent shape), the mean over
        `x`, and `active_units`, the number of dimensions whose posterior mean varies over `x` by
        more than `threshold` (1509.00519)."""
        mean, log_var = self.encode(x, condition)
        kl = ops.mean(elbo.gaussian_kl_per_dimension(mean, log_var), axis=0)
        return {
            "kl_per_dimension": ops.convert_to_numpy(kl),
            "active_units": int(elbo.active_units(mean, threshold)),
        }
