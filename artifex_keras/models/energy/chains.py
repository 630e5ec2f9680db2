"""Chains of Markov steps on an energy: the negatives of training, and what `sample` gives."""

from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import integer, lookup
from artifex_keras.backend import compiled
from artifex_keras.models.energy.methods import TRAINING_METHODS, Negatives
from artifex_keras.renamed import renamed
from artifex_keras.samplers import langevin

__all__ = ["SAMPLERS", "Chains", "Rule", "Sampler"]

BURN_IN = 10  # times `mcmc_steps`: a chain of `sample` where no length is asked for
CHUNK = 100  # steps of a chain whose noise is sampled at once


class Rule(NamedTuple):
    """How a chain moves: a row of `SAMPLERS` and its settings."""

    sampler: str
    step_size: float
    noise_scale: float | None
    gradient_clipping: float | None
    leapfrog_steps: int
    limits: tuple | None


class ChainSampler(str):
    """The name of a row of `SAMPLERS`; called it gives what `make_sampler()` gives."""

    def __new__(cls, name, make_sampler):
        made = super().__new__(cls, name)
        made._make_sampler = make_sampler
        return made

    def __call__(self):
        return self._make_sampler()


class Chains:
    """The part of an `EnergyModel` that runs chains."""

    def _rule(self, sampler=None):
        sampler = self._chain_sampler if sampler is None else sampler
        row = lookup(SAMPLERS, sampler, "sampler")
        limits = None if self.value_range is None or self.annealed else tuple(self.value_range)
        return Rule(
            sampler,
            self.step_size,
            None if row.exact else self.noise_scale,
            self.gradient_clipping if row.clips_gradients else None,
            self.leapfrog_steps,
            limits,
        )

    @compiled
    def _negatives(self, x, y, training):
        """The `Negatives` of a batch, or None without any. Evaluation moves no chain."""
        start = TRAINING_METHODS[self.training_method].start
        if start is None:
            return None
        y = y if self.conditional else None
        x, y, places = start(self, ops.cast(x, "float32"), y)
        chain = SAMPLERS[self._chain_sampler].run(
            self, lambda x: self._energies(x, y), x, self.mcmc_steps, self._rule()
        )
        if training and places is not None:
            self.buffer.write(places, chain.x, y)
        return Negatives(chain.x, y, chain.acceptance)

    def _fresh(self, rows):
        """Noise to start chains at, (rows, ...)."""
        shape = (rows, *self.data_shape)
        if self.value_range is None:
            return self.normal(shape)
        low, high = self.value_range
        return low + (high - low) * self.uniform(shape)

    @renamed(labels="condition")
    def sample(
        self,
        n: int = 1,
        num_steps: int | None = None,
        *,
        condition: Tensor = None,
        initial: Tensor = None,
        sampler: str | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """`n` states of chains of `num_steps` steps.

        Chains of `"pcd"` go on where training left them, those of `initial` (n, ...) there; others
        start at noise. After denoising at several σ they make `num_steps` steps at each, from the
        largest down (1907.05600 algorithm 1, its last step without noise), of size
        ``step_size σ²/σ_min²``.

        Args:
            n: how many.
            num_steps: by default ten times `mcmc_steps`; `mcmc_steps` at each of several σ.
            condition: one label or n; needed for a network of `[x, labels]`, possible for a
                classifier.
            initial: states to start from.
            sampler: another than the model's.
            seed: the same ones each time; without, the next ones of the model's stream.

        Example:

        ```python
        import keras

        import artifex_keras as ak

        network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        energy = ak.EnergyModel(network, mcmc_steps=5)
        states = energy.sample(4, num_steps=10, seed=0)  # (4, 2)
        ```
        """
        n = integer("n", n, minimum=1)
        self._check_built("sample")
        labels = self._labels(condition, n)
        rule = self._rule(sampler)
        if num_steps is None:
            num_steps = self.mcmc_steps * (1 if self.annealed else BURN_IN)
        num_steps = integer("num_steps", num_steps, minimum=1)
        with self.drawing_from(seed):
            x = self._start(labels, n=n) if initial is None else self._given(initial, n)
            for sigma in self.noise_levels if self.annealed else (1.0,):
                sigma = ops.convert_to_tensor(sigma, dtype="float32")
                for steps in _chunks(num_steps):
                    x = self._advanced(x, labels, sigma, rule=rule, steps=steps)
        return self._denoised(x, labels) if self.annealed else x

    def _given(self, initial, n):
        initial = ops.cast(ops.convert_to_tensor(initial), "float32")
        if tuple(initial.shape) != (n, *self.data_shape):
            raise ValueError(
                f"`initial` must have the shape {(n, *self.data_shape)}. "
                f"Received: shape {tuple(initial.shape)}."
            )
        return initial

    @compiled
    def _start(self, labels, n):
        if self.buffer is not None:
            return self.buffer.chosen(self.uniform((n, self.replay_buffer_size)), labels)
        fresh = self._fresh(n)
        if self.annealed:
            fresh = fresh + self.noise_levels[0] * self.normal(ops.shape(fresh))
        return fresh

    @compiled
    def _advanced(self, x, y, sigma, rule, steps):
        """States after so many steps under the energy at σ, larger steps at a larger one."""
        step_scale = ops.square(sigma / self.noise_levels[-1]) if self.annealed else 1.0
        with self.ema_weights():
            return (
                SAMPLERS[rule.sampler]
                .run(self, lambda x: self._energies(x, y) / sigma, x, steps, rule, step_scale)
                .x
            )

    @compiled
    def _denoised(self, x, y):
        """The mean of the data given x, for noise of the smallest σ: x + σ² s(x)."""
        with self.ema_weights():
            x = x - self.noise_levels[-1] * self._slope(x, y, False)
        return x if self.value_range is None else ops.clip(x, *self.value_range)


def _chunks(steps):
    return [min(CHUNK, steps - done) for done in range(0, steps, CHUNK)]


# Samplers: the `Chain` of some steps from x, with noise of the model's stream


def _langevin(model, energy, x, steps, rule, step_scale=1.0):
    scale = rule.step_size**0.5 if rule.noise_scale is None else rule.noise_scale
    x = langevin.langevin(
        energy,
        x,
        model.normal((steps, *ops.shape(x))),
        step_size=rule.step_size * step_scale,
        noise_scale=scale * step_scale**0.5,
        gradient_clipping=rule.gradient_clipping,
        clip=rule.limits,
    )
    return langevin.Chain(x, None)


def _mala(model, energy, x, steps, rule, step_scale=1.0):
    return langevin.mala(
        energy if rule.limits is None else langevin.within(energy, rule.limits),
        x,
        model.normal((steps, *ops.shape(x))),
        model.uniform((steps, ops.shape(x)[0])),
        step_size=rule.step_size * step_scale,
        gradient_clipping=rule.gradient_clipping,
    )


def _hmc(model, energy, x, steps, rule, step_scale=1.0):
    return langevin.hmc(
        energy if rule.limits is None else langevin.within(energy, rule.limits),
        x,
        model.normal((steps, *ops.shape(x))),
        model.uniform((steps, ops.shape(x)[0])),
        step_size=rule.step_size * step_scale**0.5,
        leapfrog_steps=rule.leapfrog_steps,
    )


class Sampler(NamedTuple):
    """A row of `SAMPLERS`.

    `run(model, energy, x, steps, rule, step_scale)` gives a `langevin.Chain`. `exact` ones leave
    the density as it is for every step size, and take no `noise_scale`; `clips_gradients` says
    whether ∇E may be clipped.
    """

    run: Callable
    exact: bool = True
    clips_gradients: bool = True


SAMPLERS = {
    "langevin": Sampler(_langevin, exact=False),
    "mala": Sampler(_mala),
    "hmc": Sampler(_hmc, clips_gradients=False),
}
