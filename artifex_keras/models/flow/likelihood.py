"""How likely data are under a flow."""

import numpy as np
from keras import ops

from artifex_keras.aliases import Data, Tensor
from artifex_keras.arguments import integer
from artifex_keras.backend import compiled
from artifex_keras.objectives.elbo import importance_weighted_bound

__all__ = ["Likelihood"]

CHUNK = 16  # draws of the dequantisation noise looked at together


class Likelihood:
    """The part of a `NormalizingFlow` that says how likely data are."""

    def log_prob(self, x: Data, condition: Tensor = None, *, seed: int | None = None) -> Tensor:
        """ln p(x) in nats, (B,).

        With `dequantize` a lower bound of the log-probability, by one draw of the noise from
        `seed`; `bits_per_dim` with more of them tightens it.
        """
        x, condition = self._given("log_prob", x, condition)
        with self.drawing_from(seed):
            return self._log_prob_program(x, condition)

    @compiled
    def _log_prob_program(self, x, condition):
        x, log_det = self._continuous(x)
        with self.ema_weights():
            return self._log_prob(x, condition) + log_det

    def bits_per_dim(
        self,
        x: Data,
        num_samples: int = 1,
        *,
        condition: Tensor = None,
        batch_size: int = 256,
        seed: int | None = None,
    ):
        """``-ln p(x)/(D ln 2)``, (B,), float64 NumPy: exact for continuous data.

        With `dequantize` it is an upper bound of the code length, by `num_samples` draws of the
        noise: ``-logsumexp_k ln p(x + u_k) + ln K`` tightens with K (1511.01844, 1509.00519).
        """
        num_samples = integer("num_samples", num_samples, minimum=1)
        batch_size = integer("batch_size", batch_size, minimum=1)
        if self.dequantize is None and num_samples > 1:
            raise ValueError(
                "`num_samples` are draws of the dequantisation noise, and this flow has none: its "
                f"likelihood is exact. Received: num_samples={num_samples}."
            )
        x, condition = self._given("bits_per_dim", x, condition)
        parts = []
        with self.drawing_from(seed):
            for start in range(0, x.shape[0], batch_size):
                rows = slice(start, start + batch_size)
                part = None if condition is None else condition[rows]
                parts.append(self._bound(x[rows], part, num_samples))
        return -np.concatenate(parts) / (np.prod(self.data_shape) * np.log(2))

    def _bound(self, x, condition, num_samples):
        """The bound of ln p(x) by that many draws, (B,)."""
        counts = [min(CHUNK, num_samples - done) for done in range(0, num_samples, CHUNK)]
        logs = [
            np.asarray(ops.convert_to_numpy(self._chunk(x, condition, count=count)), "float64")
            + np.log(count)
            for count in counts
        ]
        return np.logaddexp.reduce(logs, axis=0) - np.log(num_samples)

    @compiled
    def _chunk(self, x, condition, count):
        def tiled(part):
            return ops.concatenate([part] * count)

        rows = ops.shape(x)[0]
        x, log_det = self._continuous(tiled(x))
        with self.ema_weights():
            log_p = self._log_prob(x, None if condition is None else tiled(condition)) + log_det
        return importance_weighted_bound(ops.reshape(log_p, (count, rows)))
