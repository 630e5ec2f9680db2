"""Normalizing flows: exact likelihood by a change of variables."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import boolean, checked, factor, integer, lookup
from artifex_keras.backend import compiled, keras_internals, processes, when
from artifex_keras.columns import warn_of_constants
from artifex_keras.models import checks, data_contract
from artifex_keras.models.base import GenerativeModel
from artifex_keras.models.batch import as_tensor
from artifex_keras.models.first_look import arrays_of, evenly_chosen
from artifex_keras.networks.bijections import Bijection, Chain, Logit
from artifex_keras.networks.bijections.moments import ROWS
from artifex_keras.objectives import flow
from artifex_keras.objectives.elbo import importance_weighted_bound, log_normal
from artifex_keras.objectives.masks import sum_event

UNBOUNDED = (
    "the likelihood of a continuous flow has no bound there. Leave them out, or say `dequantize` "
    "where the data are whole levels."
)
CHUNK = 16  # draws of the dequantisation noise looked at together


class Base(NamedTuple):
    """A distribution of latents: ln p(z) in nats, (B,), and draws of a shape from a model's noise.

    A `temperature` below 1 narrows the draws.
    """

    log_prob: Callable
    draw: Callable


def logistic_log_prob(z):
    """``-Σ z + 2 ln(1 + e^{-z})``, (B,): the standard logistic density, heavier in its tails."""
    return -sum_event(z + 2 * ops.softplus(-z))


def _logistic_draw(model, shape):
    u = ops.clip(model.uniform(shape), 1e-7, 1 - 1e-7)
    return ops.log(u) - ops.log1p(-u)


BASES = {
    "logistic": Base(logistic_log_prob, _logistic_draw),
    "normal": Base(log_normal, lambda model, shape: model.normal(shape)),
}


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(unit_interval=boolean)
class NormalizingFlow(GenerativeModel):
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
        bijection,
        *,
        base="normal",
        dequantize=None,
        unit_interval=False,
        ema_decay=None,
        seed=None,
        **kwargs,
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

    @property
    def conditional(self):
        """Whether the bijection depends on a condition; known once the model is built."""
        return self.condition_spec is not None

    def check_batch(self, x, y):
        if self.built:
            self._check_event(x)
            self._check_condition(y)

    def data_contract(self):
        data, condition = self._data_values(), self._condition_values()
        return data_contract.Contract(x=data, y=condition, inputs=(data, condition))

    def _data_values(self):
        """What values data may have."""
        if self.dequantize is not None:
            return self._levels()
        if not self._begins_with_logit():
            return data_contract.FINITE
        return data_contract.Values(
            "A bijection that begins with `Logit` needs data in [0, 1].",
            low=0.0,
            high=1.0,
            cure="Scale the data: images of bytes divided by 255.",
        )

    def _levels(self):
        top, unit = self.dequantize - 1, self.unit_interval
        form = f"k/{top} of whole levels k" if unit else "of whole levels"
        return data_contract.Values(
            f"dequantize={self.dequantize} needs data {form}, 0..{top}.",
            low=0,
            high=1 if unit else top,
            integral=True,
            top=top if unit else 1,
            cure=(
                f"Levels 0..{top} themselves need unit_interval=False; "
                if unit
                else "For images in [0, 1] say unit_interval=True; "
            )
            + "for continuous data leave `dequantize` out.",
        )

    def _condition_values(self):
        """What values a condition may have."""
        spec = self.condition_spec
        rows = getattr(getattr(self.bijection, "context_network", None), "input_dim", None)
        if spec is None or (rows is None and "int" not in spec.dtype):
            return data_contract.FINITE
        return data_contract.labels(rows)

    def _begins_with_logit(self):
        first = self.bijection
        while isinstance(first, Chain) and first.bijections:
            first = first.bijections[0]
        return isinstance(first, Logit)

    def _check_event(self, x):
        if tuple(x.shape[1:]) != self.data_shape:
            raise ValueError(
                f"This flow is for data of shape {self.data_shape} per example. Received: shape "
                f"{tuple(x.shape[1:])}."
            )

    def _check_condition(self, condition):
        if not self.conditional:
            checks.unconditional(
                "NormalizingFlow",
                condition,
                "Build its bijection with a context, by `context_dim` or `num_classes`.",
            )
            return
        expected = tuple(self.condition_spec.shape[1:])
        if condition is None or tuple(condition.shape[1:]) != expected:
            received = "none" if condition is None else f"shape {tuple(condition.shape[1:])}"
            raise ValueError(
                f"This flow needs a condition of shape {expected} per example. "
                f"Received: {received}."
            )

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

    def log_prob(self, x, condition=None, *, seed=None):
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

    def encode(self, x, condition=None):
        """The latents z = f(x) of continuous data."""
        x, condition = self._given("encode", x, condition)
        return self._encoded(x, condition)

    @compiled
    def _encoded(self, x, condition):
        with self.ema_weights():
            return self.bijection.to_latent(x, self._context(condition))[0]

    def bits_per_dim(self, x, num_samples=1, *, condition=None, batch_size=256, seed=None):
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

    def sample(self, n=1, *, condition=None, temperature=1.0, seed=None):
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
        self._check_condition(condition)
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

    def _repeated(self, condition, n):
        """`n` conditions from one or from `n`."""
        if condition is None:
            return None
        data_contract.check(self._condition_values(), condition)
        condition = as_tensor(condition)
        if not self.conditional:
            return condition
        shape = tuple(self.condition_spec.shape[1:])
        if tuple(condition.shape) == shape:
            return ops.broadcast_to(condition, (n, *shape))
        if condition.shape[0] != n:
            raise ValueError(
                "`condition` must be one of them or as many as there are samples. Received: a "
                f"condition of shape {tuple(condition.shape)} for {n} samples."
            )
        return condition

    def _given(self, method, x, condition):
        """Data and conditions as tensors, checked."""
        self._check_built(method, x, condition)
        data_contract.check(self._data_values(), x)
        x = ops.cast(ops.convert_to_tensor(x), "float32")
        self._check_event(x)
        condition = self._repeated(condition, x.shape[0])
        self._check_condition(condition)
        return x, condition

    # Without data

    def fit_to(
        self, log_density, *, epochs=1, steps_per_epoch=100, batch_size=256, verbose="auto", **fit
    ):
        """Trains the flow towards an unnormalised density instead of data. Gives the `History`.

        The loss is the divergence ``E_{x~p}[ln p(x) - log_density(x)]`` = KL(p ‖ target) - ln Z,
        by samples of the flow itself (1505.05770). At the optimum it is -ln Z. It prefers missing a
        mode to covering what lies between modes.

        Args:
            log_density: a function in `keras.ops` from x (B, ...) to ln of the density up to a
                constant, (B,).
            epochs, steps_per_epoch, batch_size: how long, and samples per step.
            fit: further arguments of `keras.Model.fit`, such as `callbacks`.

        Raises:
            ValueError: for a conditional flow or one with `dequantize`.
        """
        keras_internals.require_compiled(self, "fit_to")
        self._check_built("fit_to")
        if self.conditional or self.dequantize is not None:
            raise ValueError(
                "`fit_to` is for flows of continuous data without a condition. Received: "
                f"a flow with {'a condition' if self.conditional else '`dequantize`'}."
            )
        rows = np.zeros((batch_size * steps_per_epoch, 0), "float32")
        self._target = log_density
        self.train_function = None
        try:
            return keras.Model.fit(
                self, rows, batch_size=batch_size, epochs=epochs, verbose=verbose, **fit
            )
        finally:
            self._target = self.train_function = None

    def _divergence(self, rows):
        """``ln p(x) - log_density(x)`` of `rows` samples, (rows,)."""
        base = BASES[self.base]
        z = base.draw(self, (rows, *self.bijection.latent_shape))
        self._initialise(base.draw(self, (rows, *self.data_shape)), None, None)
        x, log_det = self.bijection.to_data(z)
        target = ops.cast(self._target(x), "float32")
        if len(target.shape) != 1:
            raise ValueError(
                "`log_density` must give one number per example, (B,). Received: shape "
                f"{tuple(target.shape)}."
            )
        return base.log_prob(z) - log_det - target
