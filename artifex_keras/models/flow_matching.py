"""Flow matching: data from noise along the velocity that a network learns by regression."""

from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.aliases import Data, Shape, Tensor
from artifex_keras.arguments import (
    boolean,
    bounded,
    checked,
    integer,
    lookup,
    number,
    optional,
    share,
    sizes,
)
from artifex_keras.backend import compiled
from artifex_keras.models import checks
from artifex_keras.models.base import GenerativeModel
from artifex_keras.models.conditioning import Conditioning, condition_input, network_inputs
from artifex_keras.objectives import flow
from artifex_keras.objectives.diffusion import stratified_times
from artifex_keras.samplers import ode

COUPLINGS = ("independent", "ot")
ADAPTIVE = "dopri5"  # the solver that chooses its own steps


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    bridge=boolean,
    input_shape=optional(sizes),
    sigma=bounded(minimum=0.0),
    condition_dropout=share,
)
class FlowMatching(Conditioning, GenerativeModel):
    """Flow matching: `fit(x)`, then `sample(n)`; `fit(x, condition)` with a condition.

    Noise x_0 and data x_1 are joined by a path ``x_t = α(t) x_1 + β(t) x_0`` and the network v
    learns the velocity along it, averaged over event dimensions (2210.02747):

        L = E_t mean (α' x_1 + β' x_0 - v(x_t, t))²,    noise at t = 0, data at t = 1.

    Samples are noise carried along v from t = 0 to 1. Validation sees each part of time equally
    often and the same noise every epoch.

    Args:
        network: of the list `[x_t, t]` or `[x_t, t, condition]`, with t (B,) in [0, 1], to a
            velocity of the shape of x_t; `networks.timed_mlp(..., time_scale=1000)`, say. For how
            labels and vectors condition it see `condition_dropout`.
        path: `"linear"` (rectified flow), `"ot"` (the same, with `sigma_min` 1e-4 of noise left on
            the data), `"trigonometric"` or `"vp"` (a diffusion's).
        time_sampling: the density of t in training: `"uniform"`, `"logit_normal"` (2403.03206) or
            `"u_shaped"` (2405.20320).
        sigma: σ of further noise on x_t (I-CFM, 2302.00482).
        bridge: lets σ follow a Schrödinger bridge, ``σ √(t(1-t))``.
        coupling: which noise goes with which data: `"independent"`, or `"ot"` for the pairs of
            entropic optimal transport within each batch (2302.00482). The noise is moved, so that
            labels and weights stay with their data; noise drawn beside one condition goes to data
            of another one at a price only, or conditional models were skewed (2503.10636).
        condition_dropout: how often training replaces a condition by a learned null, for guidance:
            the last row of the network's `Embedding` for labels, a weight for vectors.
        null_label: the label that stands for none, where it isn't the last row.
        ema_decay: see `GenerativeModel`.
        input_shape: of an example, where the network doesn't say.
        seed: makes training and sampling repeatable.

    Metrics: `loss`.

    Example:

    ```python
    import numpy as np

    import artifex_keras as ak

    x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
    flow = ak.FlowMatching(ak.networks.timed_mlp(2, units=(16,)))
    flow.compile("adam")
    flow.fit(x, epochs=1, verbose=0)
    new = flow.sample(3, num_steps=5)  # (3, 2)
    ```
    """

    remedies = ("data of a deviation near 1, as the noise has",)
    unbounded = {"network": "velocities"}
    wants_centred = True
    served = ("sample", "encode", "decode")
    submodels = ("network",)
    options = (
        "path",
        "time_sampling",
        "sigma",
        "bridge",
        "coupling",
        "condition_dropout",
        "null_label",
        "ema_decay",
        "seed",
    )
    live_options = zero_options = ("sigma", "condition_dropout")

    def __init__(
        self,
        network: keras.layers.Layer,
        *,
        path: str = "linear",
        time_sampling: str = "uniform",
        sigma: float = 0.0,
        bridge: bool = False,
        coupling: str = "independent",
        condition_dropout: float = 0.1,
        null_label: int | None = None,
        ema_decay: float | None = None,
        input_shape: Shape | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.make_conditioning(network, condition_dropout, null_label)
        self.path = path
        self.time_sampling = time_sampling
        self.sigma = sigma
        self.bridge = bridge
        self.coupling = coupling
        self.check_options()
        if input_shape is None and network_inputs(network):
            input_shape = network_inputs(network)[0].shape[1:]
        if input_shape is not None and None not in input_shape:
            self.build((None, *input_shape), condition_input(network))

    @property
    def path(self):
        """The path from noise to data, a row of `objectives.flow.PATHS`.

        Of a Keras layer `path` is its place in a model; a model has none.
        """
        return self._probability_path

    @path.setter
    def path(self, value):
        self._probability_path = value

    # Building and checking

    def build(self, input_shape, condition=None):
        """Builds the network for data of this shape, for `condition` the spec of the condition."""
        if self.built:
            return
        self.build_conditioning(input_shape, condition)
        self.finish_build(input_shape, self.condition_spec)

    def check_options(self):
        """Raises a ValueError for options that don't exist or don't go together."""
        lookup(flow.PATHS, self.path, "path")
        lookup(flow.TIME_SAMPLINGS, self.time_sampling, "time sampling")
        lookup(dict.fromkeys(COUPLINGS), self.coupling, "coupling")
        if self.bridge and not self.sigma:
            raise ValueError("A `bridge` needs a `sigma` above 0. Received: bridge=True, sigma=0.")

    def check_batch(self, x, y):
        self.check_options()
        if self.built:
            checks.data_shape(x, self.data_shape)
            self.check_condition(y)

    def get_config(self):
        shape = list(self.data_shape) if self.built else None
        return {**super().get_config(), "input_shape": shape}

    # The objective

    def objective(self, batch, training):
        self.check_condition(batch.y)
        x = ops.cast(batch.x, "float32")
        t = self._times(ops.shape(x)[0], training)
        noise = self._paired_noise(x, batch.y)
        further = self.normal(ops.shape(x)) if self.uses("sigma") else None
        condition = self.conditioned(batch.y, training)
        return {"loss": self.errors(x, t, noise, condition, further=further, training=training)}

    def errors(self, x, t, noise, condition=None, *, further=None, training=False):
        """``mean (α' x_1 + β' x_0 - v)²`` of each example, (B,), with noise x_0 at times t (B,).

        `further` is the noise that `sigma` scales, None without. With the weights of the moment.
        """
        more = {} if further is None else {"noise": further, "bridge": self.bridge}
        x_t, velocity = flow.interpolation(noise, x, t, self.path, sigma=self.sigma, **more)
        return flow.velocity_error(self.predicted(x_t, t, condition, training), velocity)

    def _times(self, rows, training):
        u = self.uniform((rows,))
        # Validation: of the density of training, but one in each part.
        return flow.times(u if training else stratified_times(u), self.time_sampling)

    def _paired_noise(self, x, condition):
        """Noise for each row of `x`."""
        noise = self.normal(ops.shape(x))
        if self.coupling == "independent":
            return noise
        rows = ops.shape(x)[0]
        conditions = condition if self.conditional else None
        u = self.uniform((rows, rows))
        return ops.take(noise, flow.ot_assignment(x, noise, u, conditions=conditions), axis=0)

    # Use

    def data_of_inputs(self, inputs):
        x_t, _, *condition = inputs
        return (x_t, *condition)

    def call_signature(self):
        return self.timed_signature("float32")

    def call(self, inputs, training=False):
        """The velocity at `[x_t, t]` or `[x_t, t, condition]`."""
        x_t, t, *condition = inputs
        if training:
            return self.predicted(x_t, t, *condition, training=True)
        with self.ema_weights():
            return self.predicted(ops.cast(x_t, "float32"), t, *condition)

    def velocity(self, condition: Tensor = None, scale: float | None = None):
        """``v(x, t)`` for the functions of `samplers.ode`, with the weights of the moment;
        `condition` and `scale` as `guiding` gives them."""
        return lambda x, t: self.guided(x, t, condition, scale)

    def _over_clock(self, condition=None, scale=None):
        """The `velocity` over the path's clock u, dx/du, and the clock."""
        clock, velocity = flow.CLOCKS.get(self.path, flow.TIME), self.velocity(condition, scale)

        def field(x, u):
            t, rate = clock.at(u)
            return velocity(x, t) * ops.reshape(rate, (-1,) + (1,) * (len(x.shape) - 1))

        return (velocity if clock is flow.TIME else field), clock

    def _carried(self, x, condition=None, scale=None, *, start=0.0, end=1.0, solver, **steps):
        """x carried along the velocity from the time `start` to `end`."""
        field, clock = self._over_clock(condition, scale)
        steps |= {"start": clock.of(start), "end": clock.of(end)}
        if solver == ADAPTIVE:
            return ode.adaptive(field, x, **steps).x
        return ode.integrate(field, x, solver=solver, **steps)

    def sample(
        self,
        n: int = 1,
        num_steps: int = 50,
        solver: str = "euler",
        guidance_scale: float = 1.0,
        condition: Tensor = None,
        *,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        seed: int | None = None,
    ) -> Tensor:
        """`n` examples, (n, ...): noise carried along the velocity, in one compiled loop.

        Args:
            n: how many.
            num_steps: steps of equal length; "dopri5" has no use for it.
            solver: "euler" asks the network once a step, "midpoint" and "heun" twice, "rk4" four
                times; "dopri5" chooses its own steps by `rtol` and `atol`.
            guidance_scale: w in ``u + w (c - u)``: 1 is the conditional velocity c, 0 the
                unconditional one u, which needs no condition.
            condition: one or `n` of them, where the network takes one.
            rtol, atol: of "dopri5", from 1e-7 to 1.
            seed: with one the same examples each time.

        Example:

        ```python
        import artifex_keras as ak

        flow = ak.FlowMatching(ak.networks.timed_mlp(2, units=(16,)))
        points = flow.sample(4, num_steps=5, seed=0)  # (4, 2)
        ```
        """
        self._check_built("sample")
        n = integer("n", n, minimum=1)
        condition, scale = self.guiding(n, condition, guidance_scale)
        with self.drawing_from(seed):
            return self._sampled(
                condition, scale, n=n, **_checked_steps(solver, num_steps, rtol, atol)
            )

    @compiled
    def _sampled(self, condition, scale, n, **steps):
        noise = self.normal((n, *self.data_shape))
        with self.ema_weights():
            return self._carried(noise, condition, scale, **steps)

    def decode(
        self,
        noise: Tensor,
        num_steps: int = 50,
        solver: str = "euler",
        *,
        condition: Tensor = None,
        end: float = 1.0,
    ) -> Tensor:
        """Noise (B, ...) carried along the velocity to time `end`: at 1 examples."""
        return self._integrated("decode", noise, condition, num_steps, solver, 0.0, end)

    def encode(
        self, x: Data, num_steps: int = 50, solver: str = "rk4", *, condition: Tensor = None
    ) -> Tensor:
        """The noise (B, ...) that is carried to x."""
        return self._integrated("encode", x, condition, num_steps, solver, 1.0, 0.0)

    def _integrated(self, method, x, condition, num_steps, solver, start, end):
        self._check_built(method, x, condition)
        x = self._data(x)
        condition, _ = self.guiding(x.shape[0], condition, 1.0)
        steps = _checked_steps(solver, num_steps)
        end = share("end", end)
        return self._moved_program(x, condition, start=float(start), end=float(end), **steps)

    @compiled
    def _moved_program(self, x, condition, **steps):
        with self.ema_weights():
            return self._carried(x, condition, **steps)

    def denoising(
        self,
        n: int = 1,
        frames: int = 10,
        num_steps: int = 50,
        condition: Tensor = None,
        *,
        seed: int | None = None,
    ) -> Tensor:
        """`n` examples on their way from noise: (frames, n, ...), the first noise, the last done.

        In `num_steps` steps of Euler's method, seen at equal distances in time.

        Example:

        ```python
        import artifex_keras as ak

        flow = ak.FlowMatching(ak.networks.timed_mlp(2, units=(16,)))
        frames = flow.denoising(2, frames=3, num_steps=6)  # (3, 2, 2)
        ```
        """
        self._check_built("denoising")
        n = integer("n", n, minimum=1)
        frames = integer("frames", frames, minimum=2)
        num_steps = integer("num_steps", num_steps, minimum=1)
        condition, _ = self.guiding(n, condition, 1.0)
        with self.drawing_from(seed):
            return self._denoising(condition, n=n, frames=frames, num_steps=num_steps)

    @compiled
    def _denoising(self, condition, n, frames, num_steps):
        noise, times = self.normal((n, *self.data_shape)), np.linspace(0, 1, num_steps + 1)
        with self.ema_weights():
            field, clock = self._over_clock(condition)
            states = ode.trajectory(field, noise, times=[clock.of(t) for t in times])
        seen = np.round(np.linspace(0, num_steps, frames)).astype("int32")
        return ops.take(states, ops.convert_to_tensor(seen), axis=0)

    def log_prob(
        self,
        x: Data,
        condition: Tensor = None,
        *,
        num_steps: int = 50,
        solver: str = "rk4",
        num_probes: int | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        seed: int | None = None,
    ) -> Tensor:
        """ln p(x) in nats, (B,): ``ln p_0(x_0) - ∫ div v dt`` along the way back to noise x_0.

        1806.07366.

        Args:
            x: data, (B, ...).
            condition: one or B of them, where the network takes one.
            num_steps, solver, rtol, atol: as for `sample`.
            num_probes: None for the exact divergence, which takes as many backward passes as there
                are dimensions; or the number of random signs of Hutchinson's estimate (1810.01367).
            seed: of these.

        Example:

        ```python
        import numpy as np

        import artifex_keras as ak

        flow = ak.FlowMatching(ak.networks.timed_mlp(2, units=(16,)))
        nats = flow.log_prob(np.zeros((3, 2), "float32"), num_steps=5)  # (3,)
        ```
        """
        self._check_built("log_prob", x, condition)
        x = self._data(x)
        condition, _ = self.guiding(x.shape[0], condition, 1.0)
        if num_probes is not None:
            num_probes = integer("num_probes", num_probes, minimum=1)
        steps = _checked_steps(solver, num_steps, rtol, atol)
        with self.drawing_from(seed):
            return self._log_prob_program(x, condition, num_probes=num_probes, **steps)

    @compiled
    def _log_prob_program(self, x, condition, num_probes, **steps):
        probes = None
        if num_probes is not None:
            u = self.uniform((num_probes, *ops.shape(x)), rows=1)
            probes = ops.where(u < 0.5, -1.0, 1.0)
        with self.ema_weights():
            field, clock = self._over_clock(condition)
            steps |= {"start": clock.of(1.0), "end": clock.of(0.0)}
            return ode.log_likelihood(field, x, probes=probes, **steps)[0]

    def bits_per_dim(self, x: Data, condition: Tensor = None, **options: Any):
        """``-ln p(x)/(D ln 2)``, (B,), of continuous data; `options` as for `log_prob`."""
        return flow.bits_per_dim(-self.log_prob(x, condition, **options), int(np.prod(x.shape[1:])))


def _checked_steps(solver, num_steps, rtol=1e-5, atol=1e-5):
    """What the solver needs to know, as keyword arguments of `_carried`."""
    if solver == ADAPTIVE:
        tolerances = {
            name: number(name, value, minimum=1e-7, maximum=1.0)
            for name, value in (("rtol", rtol), ("atol", atol))
        }
        return {"solver": solver, **tolerances}
    lookup({**ode.SOLVERS, ADAPTIVE: None}, solver, "solver")
    return {"solver": solver, "num_steps": integer("num_steps", num_steps, minimum=1)}
