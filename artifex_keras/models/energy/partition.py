"""The partition function of an energy, ln Z, and densities by it."""

import math
from typing import Any

import numpy as np
from keras import ops

from artifex_keras.aliases import Data, Tensor
from artifex_keras.arguments import integer, lookup, number
from artifex_keras.backend import compiled
from artifex_keras.objectives import energy as energies
from artifex_keras.renamed import renamed
from artifex_keras.samplers import langevin

__all__ = ["PARTITIONS", "Partition", "plane_grid"]


class Partition:
    """The part of an `EnergyModel` that estimates ln Z."""

    @renamed(label="condition")
    def log_partition(
        self,
        method: str = "ais",
        *,
        condition: Tensor = None,
        seed: int | None = None,
        **options: Any,
    ):
        """ln Z = ln ∫ e^{-E/T} in nats, T being the model's `temperature`, a float.

        `"ais"` anneals from N(0, `base_scale`² I), or from the uniform distribution in
        `value_range`, to the model by `num_steps` Hamiltonian proposals of `leapfrog_steps` steps
        of `step_size`, in `num_chains` chains; the exponential is unbiased. Its noise takes memory
        for `num_steps * num_chains` examples. `"grid"` is exact for
        two dimensions but for what lies outside `bounds`, `(low, high)` of both axes, and between
        `size` cells an axis.

        Args:
            method: a row of `PARTITIONS`.
            condition: a label, for a network of `[x, labels]`, whose Z has one value for each.
            seed: of the chains.
            **options: those named above.

        Example:

        ```python
        import keras

        import artifex_keras as ak

        network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        energy = ak.EnergyModel(network, mcmc_steps=5)
        nats = energy.log_partition("grid", bounds=(-3, 3), size=16)  # a float
        ```
        """
        self._check_built("log_partition")
        label = None
        if condition is not None or self.conditional:
            label = self._labels(condition, 1)
        partition = lookup(PARTITIONS, method, "method")
        with self.drawing_from(seed):
            return partition(self, label, **options)

    @renamed(labels="condition")
    def log_prob(
        self,
        x: Data,
        condition: Tensor = None,
        *,
        log_partition: float | None = None,
        **options: Any,
    ) -> Tensor:
        """ln p(x) = -E(x)/T - ln Z in nats, (B,).

        Give `log_partition` where it is known; else it is estimated here with `options`.
        """
        if self.conditional:
            raise ValueError(
                "ln p(x|y) needs a ln Z for each label: subtract `log_partition(condition=y)` "
                "from `-energy(x, condition=y)`."
            )
        self._check_built("log_prob", x)
        if log_partition is None:
            log_partition = self.log_partition(**options)
        return -self.energy(x, condition) / self.temperature - log_partition

    @compiled
    def _annealed_weights(self, y, chains, steps, leapfrog_steps, step_size, base_scale, scale):
        """The logarithms of the weights of annealed importance sampling, (chains,)."""
        limits = None if self.value_range is None else tuple(self.value_range)
        x = self._fresh(chains) if limits else base_scale * self.normal((chains, *self.data_shape))
        labels = None if y is None else ops.repeat(y, chains, axis=0)
        noise = self.normal((steps, chains, *self.data_shape), rows=1)
        uniforms = self.uniform((steps, chains), rows=1)
        with self.ema_weights():
            return langevin.annealed_importance(
                lambda x: self._energies(x, labels) / scale,
                x,
                noise,
                uniforms,
                step_size=step_size,
                leapfrog_steps=leapfrog_steps,
                base_scale=base_scale,
                limits=limits,
            ).log_weights


def _annealed_partition(
    model, label, *, num_chains=256, num_steps=500, leapfrog_steps=10, step_size=0.1, base_scale=1.0
):
    weights = model._annealed_weights(
        label,
        chains=integer("num_chains", num_chains, minimum=1),
        steps=integer("num_steps", num_steps, minimum=1),
        leapfrog_steps=integer("leapfrog_steps", leapfrog_steps, minimum=1),
        step_size=number("step_size", step_size, above=0.0),
        base_scale=number("base_scale", base_scale, above=0.0),
        scale=model.temperature * model._level(None),
    )
    weights = ops.convert_to_numpy(weights).astype("float64")
    return float(np.logaddexp.reduce(weights)) - math.log(len(weights))


def _grid_partition(model, label, *, bounds=None, size=256):
    points, cell = plane_grid(model, bounds, size)
    labels = None if label is None else ops.repeat(label, len(points), axis=0)
    values = model.energy(points, labels) / model.temperature
    return float(ops.convert_to_numpy(energies.grid_log_partition(values, cell)))


def plane_grid(model, bounds=None, size=256):
    """The centres of the cells of a grid, (size², 2), and the area of one."""
    if model.data_shape != (2,):
        raise ValueError(
            "A grid is for points in the plane, data of shape (2,). "
            f"Received: data of shape {model.data_shape}."
        )
    bounds = model.value_range if bounds is None else bounds
    low, high = (-5.0, 5.0) if bounds is None else bounds
    size = integer("size", size, minimum=2)
    width = (high - low) / size
    axis = low + width * (np.arange(size) + 0.5)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return points.astype("float32"), width**2


PARTITIONS = {"ais": _annealed_partition, "grid": _grid_partition}
