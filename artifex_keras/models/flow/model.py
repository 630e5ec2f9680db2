"""Normalizing flows: exact likelihood by a change of variables."""

from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.aliases import Data, Tensor
from artifex_keras.arguments import boolean, checked, factor, integer, lookup
from artifex_keras.backend import compiled, processes, when
from artifex_keras.columns import warn_of_constants
from artifex_keras.models.base import GenerativeModel
from artifex_keras.models.first_look import arrays_of, evenly_chosen
from artifex_keras.models.flow.bases import BASES
from artifex_keras.models.flow.inputs import Inputs
from artifex_keras.models.flow.likelihood import Likelihood
from artifex_keras.models.flow.reverse_kl import ReverseKL
from artifex_keras.networks.bijections import Bijection
from artifex_keras.networks.bijections.moments import ROWS
from artifex_keras.objectives import flow

__all__ = ["NormalizingFlow"]

UNBOUNDED = (
    "the likelihood of a continuous flow has no bound there. Leave them out, or say `dequantize` "
    "where the data are whole levels."
)


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(unit_interval=boolean)
class NormalizingFlow(Inputs, Likelihood, ReverseKL, GenerativeModel):
    """A normalizing flow: `fit(x)`, then `log_prob(x)` in nats and `sample(n)`, both exact.

    The loss is the negative log-likelihood in nats per example,

        L = -ln p(x) = -ln p_z(f(x)) - ln|det ∂f/∂x|,

    f the bijection from data to latents (1505.05770). With a conditional bijection,
    `fit(x, condition)` and `condition=` everywhere.

    Args:
        bijection: a `networks.bijections.Bijection`, by its factories or chained by hand.
        base: p_z, `"normal"` or `"logistic"`, independent in each dimension.
        dequantize: Q for data of whole levels 0..Q-1: then the flow sees (x + u)/Q in [0, 1) with
            u uniform, `log_prob` is a lower bound of the log-probability of x, samples are whole
            levels. A `Logit` should come first in the bijection. None for continuous data.
        unit_interval: whether the levels k come as k/(Q-1), as images in [0, 1] do; samples too.
        ema_decay: see `GenerativeModel`.
        seed: makes training and sampling repeatable.

    Metrics: `loss`, `nll` (nats per example, without regularisation), `bits_per_dim`.

    Example:

    ```python
    import numpy as np

    import artifex_keras as ak

    x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
    flow = ak.NormalizingFlow(ak.networks.realnvp(2, num_layers=2, units=(8,)))
    flow.compile("adam")
    flow.fit(x, epochs=1, verbose=0)
    new, nats = flow.sample(3), flow.log_prob(x)  # (3, 2), (64,)
    ```
    """

    served = ("sample", "encode", "log_prob")
    submodels = ("bijection",)
    options = ("base", "dequantize", "unit_interval", "ema_decay", "seed")
    remedies = (
        "columns scaled to a deviation of 1, none of them constant",
        "`dequantize` for whole levels, whose density has no bound",
        "an ActNorm before each coupling",
    )
    wants_scaled = False  # an ActNorm, or a first look at the data, sees to it
    metric_names = {"nll": "min", "bits_per_dim": "min"}

    def __init__(
        self,
        bijection: Bijection,
        *,
        base: str = "normal",
        dequantize: int | None = None,
        unit_interval: bool = False,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        if not isinstance(bijection, Bijection):
            raise ValueError(
                "`bijection` must be a Bijection of `artifex_keras.networks`, for example "
                f"realnvp(shape). Received: {bijection!r} of type {type(bijection).__name__}."
            )
        self.bijection = bijection
        lookup(BASES, base, "base distribution")
        self.base = base
        self.dequantize = (
            dequantize if dequantize is None else integer("dequantize", dequantize, minimum=2)
        )
        self.unit_interval = unit_interval
        if unit_interval and dequantize is None:
            raise ValueError(
                "`unit_interval` says how levels are given, and needs `dequantize`, their number."
            )
        self.condition_spec = None
        self._target = None
        if bijection.built:
            context = bijection.context_shape
            kind = "int32" if context == () else "float32"
            spec = None if context is None else keras.KerasTensor((None, *context), kind)
            self.build((None, *bijection.event_shape), spec)

    # Building and checking

    def build(self, input_shape, condition=None):
        """Builds the bijection for data of this shape and conditions like `condition`, a spec."""
        if self.built:
            return
        self.data_shape = tuple(input_shape[1:])
        self.condition_spec = condition
        if not self.bijection.built:
            context = None if condition is None else (None, *condition.shape[1:])
            self.bijection.build((None, *self.data_shape), context)
        self.finish_build((None, *self.data_shape), condition)

    # The objective

    def objective(self, batch, training):
        if self._target is not None:
            return {"loss": self._divergence(ops.shape(batch.x)[0])}
        self._check_condition(batch.y)
        x, log_det = self._continuous(ops.cast(batch.x, "float32"))
        if training:
            self._initialise(x, batch.y, batch.weight)
        nll = -(self._log_prob(x, batch.y, training) + log_det)
        bits = flow.bits_per_dim(nll, int(np.prod(self.data_shape)))
        return {"loss": nll, "nll": nll, "bits_per_dim": bits}

    def _continuous(self, x):
        """The data as the bijection sees them, and the log-determinant of that step, (B,)."""
        if self.dequantize is None:
            return x, 0.0
        if self.unit_interval:
            x = ops.round(x * (self.dequantize - 1))
        return flow.dequantized(x, self.uniform(ops.shape(x)), self.dequantize)

    def _log_prob(self, x, condition=None, training=False):
        z, log_det = self.bijection.to_latent(x, self._context(condition), training)
        return flow.change_of_variables(z, log_det, BASES[self.base].log_prob(z))

    def _context(self, condition):
        if condition is None or self.condition_spec.dtype != "float32":
            return condition
        return ops.cast(condition, "float32")

    def _initialise(self, x, condition, weight):
        """Shows the bijection its first batch, before the first update."""
        done = self.bijection.initialised
        if done is None:
            return

        def look():
            context = self._context(condition)
            return ops.sum(self.bijection.initialise(ops.stop_gradient(x), context, weight)) * 0

        when(ops.less(done, 1), look, lambda: ops.zeros((), "float32"))

    def look_at(self, x, y, weight):
        """Initialises the bijection by rows of all of the data, where they are arrays."""
        arrays = arrays_of(x, y, weight)
        if arrays is None:
            return
        x, y, weight = arrays
        self.build_from_batch(lambda: (x[:256], y[:256]) if y is not None else x[:256])
        if self.dequantize is None:
            warn_of_constants(ops.convert_to_numpy(x), UNBOUNDED)
        done = self.bijection.initialised
        if done is None or float(done) >= 1 or processes.count() > 1:
            return
        with self.drawing_from(0):
            for rows in evenly_chosen((x, y if self.conditional else None, weight), ROWS):
                self._look(*rows)

    @compiled
    def _look(self, x, condition, weight):
        """One look of `initialise`, without a step."""
        x, _ = self._continuous(ops.cast(x, "float32"))
        self._initialise(x, condition, weight)
        return ops.zeros(())

    # Use

    def call(self, inputs, training=False):
        """ln p(x) of `x` or `[x, condition]`, (B,): what `predict` gives."""
        x, *condition = inputs if isinstance(inputs, (list, tuple)) else (inputs,)
        x, log_det = self._continuous(ops.cast(x, "float32"))
        if training:
            return self._log_prob(x, *condition, training=True) + log_det
        with self.ema_weights():
            return self._log_prob(x, *condition) + log_det

    def encode(self, x: Data, condition: Tensor = None) -> Tensor:
        """The latents z = f(x) of continuous data."""
        x, condition = self._given("encode", x, condition)
        return self._encoded(x, condition)

    @compiled
    def _encoded(self, x, condition):
        with self.ema_weights():
            return self.bijection.to_latent(x, self._context(condition))[0]

    def sample(
        self,
        n: int = 1,
        *,
        condition: Tensor = None,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> Tensor:
        """`n` examples, (n, ...): latents from the base distribution, sent back to data.

        Args:
            n: how many.
            condition: one or `n` of them, where the bijection takes one.
            temperature: scales the latents; below 1 the samples are more typical, and no longer
                from p.
            seed: with one the same examples each time.

        Example:

        ```python
        import artifex_keras as ak

        flow = ak.NormalizingFlow(ak.networks.realnvp(2, num_layers=2, units=(8,)))
        points = flow.sample(4, temperature=0.7, seed=0)  # (4, 2)
        ```
        """
        self._check_built("sample")
        n = integer("n", n, minimum=1)
        temperature = factor("temperature", temperature, zero=True)
        condition = self._repeated(condition, n)
        with self.drawing_from(seed):
            return self._sampled(condition, ops.convert_to_tensor(temperature, "float32"), n=n)

    @compiled
    def _sampled(self, condition, temperature, n):
        z = temperature * BASES[self.base].draw(self, (n, *self.bijection.latent_shape))
        with self.ema_weights():
            x = self.bijection.to_data(z, self._context(condition))[0]
        if self.dequantize is None:
            return x
        levels = ops.clip(ops.floor(x * self.dequantize), 0, self.dequantize - 1)
        return levels / (self.dequantize - 1) if self.unit_interval else levels
