"""The likelihood of data under a diffusion model: a bound by its steps, a value by its flow."""

import numpy as np
from keras import ops

from artifex_keras.aliases import Data, Tensor
from artifex_keras.arguments import integer
from artifex_keras.backend import compiled
from artifex_keras.objectives import diffusion as terms
from artifex_keras.objectives.elbo import log_normal
from artifex_keras.samplers import angular_flow

__all__ = ["Likelihood"]

CHUNK = 16  # terms of the bound computed at once


class Likelihood:
    """The part of a `Diffusion` that says how likely data are."""

    # The variational bound

    def bits_per_dim(
        self,
        x: Data,
        *,
        condition: Tensor = None,
        levels: int = 256,
        num_terms: int | None = None,
        batch_size: int = 64,
        seed: int | None = None,
    ):
        """The variational bound on -ln p(x) in bits per dimension, (B,), float64 NumPy.

        KL(q(x_T|x_0) ‖ prior) + Σ_t KL(q(x_{t-1}|x_t, x_0) ‖ p(x_{t-1}|x_t)) + the decoder's term,
        over D ln 2 (2006.11239). One draw of noise for each term.

        Args:
            x: data, (B, ...), in the units of training.
            condition: one or B of them.
            levels: how many equally spaced values from -1 to 1 the data have: 256 for 8-bit
                images scaled to [-1, 1]. None for continuous data, whose bits may be negative.
            num_terms: None for all of the sum; or how many of its terms, drawn one from each
                of as many equal parts, an unbiased estimate.
            batch_size: examples at a time.
            seed: of the draws.

        Example:

        ```python
        import numpy as np

        import artifex_keras as ak

        diffusion = ak.Diffusion(ak.networks.timed_mlp(2, units=(16,)), num_timesteps=50)
        x = np.zeros((3, 2), "float32")
        bits = diffusion.bits_per_dim(x, levels=None, num_terms=4)  # (3,)
        ```
        """
        self._check_built("bits_per_dim", x, condition)
        batch_size = integer("batch_size", batch_size, minimum=1)
        x = ops.convert_to_numpy(self._data(x))
        condition, _ = self.guiding(len(x), condition, 1.0)
        nats = []
        with self.drawing_from(seed):
            for start in range(0, len(x), batch_size):
                rows = slice(start, start + batch_size)
                part = None if condition is None else condition[rows]
                nats.append(self._bound(ops.convert_to_tensor(x[rows]), part, levels, num_terms))
        return np.concatenate(nats) / (np.prod(self.data_shape) * np.log(2))

    def _bound(self, x, condition, levels, num_terms):
        """Nats (B,) of the bound."""
        timesteps, a, s = self._levels()
        snr = (a / s) ** 2
        chosen, share = self._chosen_terms(len(timesteps) - 1, num_terms)
        total = _numpy(self._ends(x, condition, levels=levels))
        for start in range(0, len(chosen), CHUNK):
            index = np.resize(chosen[start : start + CHUNK], CHUNK)
            # What fills the last chunk up has no weight.
            before = np.where(np.arange(CHUNK) < len(chosen) - start, snr[index - 1], snr[index])
            table = (timesteps[index], before.astype("float32"), snr[index].astype("float32"))
            table = map(ops.convert_to_tensor, table)
            total = total + share * _numpy(self._inner(x, condition, *table))
        return total

    def _chosen_terms(self, count, num_terms):
        """The numbers of the terms, from 1 to `count`, and how many each stands for."""
        if num_terms is None:
            return np.arange(1, count + 1), 1.0
        num_terms = integer("num_terms", num_terms, minimum=1)
        u = _numpy(terms.stratified_times(self.uniform((num_terms,))))
        return 1 + np.minimum(u * count, count - 1).astype(int), count / num_terms

    @compiled
    def _ends(self, x, condition, levels):
        """The prior's and the decoder's terms, (B,)."""
        timesteps, a, s = self._levels()
        # Where the data keep their scale the prior is N(0, σ_max²): in its units.
        unit = s[-1] if self.preconditioned else 1.0
        prior = terms.prior_kl(x, float(a[-1] / unit), float(s[-1] / unit))
        t = ops.full((ops.shape(x)[0],), timesteps[0], dtype=str(timesteps.dtype))
        with self.ema_weights():
            x_t = self.schedule.add_noise(x, self.normal(ops.shape(x)), t)
            mean = self.denoiser(condition)(x_t, t)
        log_var = ops.full_like(x, 2 * np.log(s[0] / a[0]))
        if levels is None:
            return prior - log_normal(x, mean, log_var)
        return prior + terms.discretized_gaussian_nll(x, mean, log_var, levels=levels)

    @compiled
    def _inner(self, x, condition, timesteps, before, snr):
        """The sum over the given levels (K,) of the sum's terms, (B,)."""
        rows, count = ops.shape(x)[0], timesteps.shape[0]

        def tiled(part):
            return ops.concatenate([part] * count)

        x = tiled(x)
        condition = condition if condition is None else tiled(condition)
        t, before, snr = (ops.repeat(part, rows) for part in (timesteps, before, snr))
        with self.ema_weights():
            x_t = self.schedule.add_noise(x, self.normal(ops.shape(x)), t)
            x_start = self.denoiser(condition)(x_t, t)
        nats = terms.diffusion_kl(x, x_start, before, snr)
        return ops.sum(ops.reshape(nats, (count, rows)), axis=0)

    # The probability flow

    def log_likelihood(
        self,
        x: Data,
        num_steps: int | None = None,
        *,
        condition: Tensor = None,
        num_probes: int | None = None,
        seed: int | None = None,
    ):
        """ln p(x) in nats, (B,), by the probability-flow ODE (2011.13456 appendix D).

        The density of clean data, by `samplers.angular_flow`. On exact Gaussians from a tenth to
        three times as wide as the schedule's noise 25 steps are within 1e-3 bits per dimension, for
        all schedules. Where a density is as narrow as the least level's noise it is a rough value.

        Args:
            x: data, (B, ...).
            num_steps: at most the schedule's levels; None is 100, or all of a shorter one. Two
                evaluations of the network for each: at two levels, or twice at one where the
                schedule has no more.
            condition: one or B of them.
            num_probes: None for the exact divergence, which takes as many backward passes as there
                are dimensions; or the number of random signs of Hutchinson's estimate.
            seed: of these.

        Example:

        ```python
        import numpy as np

        import artifex_keras as ak

        diffusion = ak.Diffusion(ak.networks.timed_mlp(2, units=(16,)), num_timesteps=50)
        x = np.zeros((3, 2), "float32")
        nats = diffusion.log_likelihood(x, num_steps=5)  # (3,)
        ```
        """
        self._check_built("log_likelihood", x, condition)
        num_steps = self.steps_or_default(num_steps, 100)
        x = self._data(x)
        condition, _ = self.guiding(x.shape[0], condition, 1.0)
        probes = None if num_probes is None else integer("num_probes", num_probes, minimum=1)
        with self.drawing_from(seed):
            return self._flow_likelihood(x, condition, num_steps=num_steps, num_probes=probes)

    @compiled
    def _flow_likelihood(self, x, condition, num_steps, num_probes):
        probes = None
        if num_probes is not None:
            u = self.uniform((num_probes, *ops.shape(x)), rows=1)
            probes = ops.where(u < 0.5, -1.0, 1.0)
        flow = angular_flow.angular_flow(self.schedule, num_steps)
        with self.ema_weights():
            return angular_flow.log_likelihood(flow, self.denoiser(condition), x, probes=probes)


def _numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")
