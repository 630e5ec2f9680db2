"""Diffusion models: data from noise, by a network that separates them at every level."""

import functools
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
    known_name,
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
from artifex_keras.models.diffusion.likelihood import Likelihood
from artifex_keras.models.diffusion.sampling import Sampling
from artifex_keras.objectives import diffusion as terms
from artifex_keras.samplers.noise_schedules import (
    NOISE_SCHEDULES,
    PREDICTION_TYPES,
    EDMSchedule,
    NoiseSchedule,
    noise_schedule,
)

__all__ = ["Diffusion"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    zero_terminal_snr=boolean,
    input_shape=optional(sizes),
    snr_gamma=bounded(above=0.0),
    condition_dropout=share,
)
class Diffusion(Sampling, Likelihood, Conditioning, GenerativeModel):
    """A diffusion model: `fit(images)`, then `sample(n)`; `fit(images, labels)` with a condition.

    Data are mixed with noise, ``x_t = a_t x_0 + s_t ε``, at a level t drawn for each example, and
    the network says what was mixed: the loss is

        L = w(t) · mean (target - network([x_t, t]))²,

    the mean over event dimensions, then over the batch (2006.11239). With the schedule "edm" the
    network F sits in ``x̂_0 = c_skip x_t + c_out F(c_in x_t, c_noise)`` and the error is F's own
    (2206.00364). Scale the data to a spread of about 1, images to [-1, 1] or σ_d as below.

    Validation sees the same levels and noise each time, one level in each of B equal parts of the
    range for a batch of B, and the averaged weights: its curve is smooth.

    Args:
        network: of one list, `[x_t, t]` or `[x_t, t, condition]`, to the shape of x. t is (B,): the
            integer timestep, 0 being the least noise; ``ln(σ)/4`` for "edm".
        noise_schedule: "cosine", "linear", "scaled_linear", "sigmoid", "edm", or a `NoiseSchedule`.
        num_timesteps: T, the levels of a discrete schedule.
        prediction_type: the target: "epsilon", "v_prediction" (a ε - s x_0) or "x_start". The
            schedule "edm" has its own and needs this left alone.
        timestep_sampling: density of the levels in training: "uniform" (for "edm", ln σ normal),
            "logit_normal", "mode", or "stratified", uniform with one draw in each of B parts.
        loss_weighting: w: "uniform", 1 for whatever is predicted; "snr", "min_snr" or "edm", the
            same objective whatever is predicted.
        snr_gamma: γ of "min_snr", min(SNR, γ) times the error of x_0 (2303.09556).
        ema_decay: decay of the averaged weights, which sample and validate.
        condition_dropout: the share of examples that train without their condition, for guidance.
        null_label: the label that then stands for none; found in the network by itself where its
            labels go straight into an `Embedding`: the last row.
        zero_terminal_snr: let the last level be pure noise (2305.08891); not with "epsilon".
        sigma_data: σ_d, the data's standard deviation, for the schedule or the weighting "edm".
            None is the schedule's own, .5.
        input_shape: of one example, where the network doesn't say; None then waits for `fit`.
        seed: makes training and sampling repeatable.

    Metrics: `loss`, `loss_unweighted`.

    Raises:
        ValueError: for unknown names, combinations without a meaning, a network of another shape.

    Example:

    ```python
    import numpy as np

    import artifex_keras as ak

    x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
    diffusion = ak.Diffusion(ak.networks.timed_mlp(2, units=(16,)), num_timesteps=50)
    diffusion.compile("adam")
    diffusion.fit(x, epochs=1, verbose=0)
    new = diffusion.sample(3, num_steps=5, sampler="ddim")  # (3, 2)
    ```
    """

    served = ("sample", "encode", "decode")
    submodels = ("network",)
    options = (
        "noise_schedule",
        "num_timesteps",
        "prediction_type",
        "timestep_sampling",
        "loss_weighting",
        "snr_gamma",
        "ema_decay",
        "condition_dropout",
        "null_label",
        "zero_terminal_snr",
        "sigma_data",
        "seed",
    )
    remedies = (
        "data of a deviation near 1, such as images in [-1, 1]",
        "a loss weighting that is bounded (`loss_weighting='min_snr'`)",
    )
    live_options = ("snr_gamma", "condition_dropout")
    zero_options = ("condition_dropout",)
    metric_names = {"loss_unweighted": "min"}

    def __init__(
        self,
        network: keras.layers.Layer,
        *,
        noise_schedule: str = "cosine",
        num_timesteps: int = 1000,
        prediction_type: str = "epsilon",
        timestep_sampling: str = "uniform",
        loss_weighting: str = "uniform",
        snr_gamma: float = 5.0,
        ema_decay: float = 0.9999,
        condition_dropout: float = 0.1,
        null_label: int | None = None,
        zero_terminal_snr: bool = False,
        sigma_data: float | None = None,
        input_shape: Shape | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.make_conditioning(network, condition_dropout, null_label)
        self.noise_schedule = noise_schedule
        self.num_timesteps = integer("num_timesteps", num_timesteps, minimum=2)
        self.prediction_type = prediction_type
        self.timestep_sampling = timestep_sampling
        self.loss_weighting = loss_weighting
        self.snr_gamma = snr_gamma
        self.zero_terminal_snr = zero_terminal_snr
        self.sigma_data = number("sigma_data", sigma_data, above=0.0, optional=True)
        self.check_options()
        if input_shape is None and network_inputs(network):
            input_shape = network_inputs(network)[0].shape[1:]
        if input_shape is not None and None not in input_shape:
            self.build((None, *input_shape), condition_input(network))

    # Building and checking

    def build(self, input_shape, condition=None):
        """Builds the network for data of this shape, for `condition` the spec of the condition."""
        if self.built:
            return
        time = "float32" if self.preconditioned else "int32"
        self.build_conditioning(input_shape, condition, time)
        self.finish_build(input_shape, self.condition_spec)

    @property
    def unbounded(self):
        if self.prediction_type == "x_start" and not self.preconditioned:
            return {}
        return {"network": "values of noise"}

    @property
    def wants_scaled(self):
        return self.sigma_data is None

    wants_centred = wants_scaled

    @property
    def schedule(self):
        """The `NoiseSchedule`."""
        if isinstance(self.noise_schedule, NoiseSchedule):
            return self.noise_schedule
        sigma_data = self.sigma_data if self.noise_schedule == "edm" else None
        return _schedule(
            self.noise_schedule, self.num_timesteps, self.zero_terminal_snr, sigma_data
        )

    @property
    def preconditioned(self):
        """Whether the network is EDM's F."""
        return isinstance(self.schedule, EDMSchedule)

    def check_options(self):
        """Raises a ValueError for options that don't exist or don't go together."""
        lookup(PREDICTION_TYPES, self.prediction_type, "prediction type")
        lookup(terms.TIMESTEP_SAMPLINGS, self.timestep_sampling, "timestep sampling")
        lookup(terms.LOSS_WEIGHTINGS, self.loss_weighting, "loss weighting")
        given = isinstance(self.noise_schedule, NoiseSchedule)
        if not given:
            known_name(self.noise_schedule, NOISE_SCHEDULES, "noise schedule")
        if given and self.num_timesteps not in (1000, self.schedule.num_timesteps):
            raise ValueError(
                "A `NoiseSchedule` brings its own `num_timesteps`. Received: num_timesteps="
                f"{self.num_timesteps}, a schedule of {self.schedule.num_timesteps}."
            )
        if self.zero_terminal_snr and (given or self.preconditioned):
            raise ValueError(
                "`zero_terminal_snr` is for a discrete schedule given by its name. Received: "
                f"zero_terminal_snr=True, noise_schedule={self.noise_schedule!r}."
            )
        if self.preconditioned and self.prediction_type != "epsilon":
            raise ValueError(
                "The schedule 'edm' preconditions the network, which then has its own target: "
                "leave `prediction_type` alone. Received: prediction_type="
                f"{self.prediction_type!r}."
            )
        if not self.preconditioned:
            self.schedule.prediction(self.prediction_type)
        self._check_sigma_data(given)

    def _check_sigma_data(self, given):
        used = self.loss_weighting == "edm" or (self.preconditioned and not given)
        if self.sigma_data is not None and not used:
            raise ValueError(
                "`sigma_data` is for the schedule 'edm' by its name and the weighting 'edm'. "
                f"Received: sigma_data={self.sigma_data}, noise_schedule={self.noise_schedule!r}, "
                f"loss_weighting={self.loss_weighting!r}."
            )

    def check_batch(self, x, y):
        self.check_options()
        if self.built:
            checks.data_shape(x, self.data_shape)
            self.check_condition(y)

    def get_config(self):
        shape = list(self.data_shape) if self.built else None
        return {**super().get_config(), "input_shape": shape}

    # The denoiser, the same for the loss and for sampling

    def _answer(self, x_t, t, condition=None, scale=None, *, rescale=0.0, training=False):
        """What the network says at x_t, guided if there is a scale."""
        x_t = x_t * self._precondition(t, x_t).c_in if self.preconditioned else x_t
        if scale is None:
            return self.predicted(x_t, t, condition, training)
        return self.guided(x_t, t, condition, scale, rescale=rescale)

    def _target(self, x, noise, t):
        """What the network should say there."""
        if not self.preconditioned:
            return self.schedule.target(x, noise, t, self.prediction_type)
        # (x_0 - c_skip x_t)/c_out, without the difference that loses its digits at small σ.
        sigma, sigma_data = self.schedule.scales(t, x)[1], self.schedule.sigma_data
        root = ops.sqrt(ops.square(sigma) + sigma_data**2)
        return (sigma / sigma_data * x - sigma_data * noise) / root

    def _x_start(self, answer, x_t, t):
        """x̂_0 of the network's answer."""
        if not self.preconditioned:
            return self.schedule.x_start(answer, x_t, t, self.prediction_type)
        scaling = self._precondition(t, x_t)
        return scaling.c_skip * x_t + scaling.c_out * answer

    def _precondition(self, t, like):
        sigma = self.schedule.scales(t, like)[1]
        return terms.edm_preconditioning(sigma, self.schedule.sigma_data)

    def denoiser(self, condition=None, scale=None, *, rescale=0.0):
        """``denoise(x_t, t) -> x̂_0`` for the functions of `samplers.diffusion`, with the weights
        of the moment; `condition` and `scale` as `guiding` gives them."""

        def denoise(x_t, t):
            answer = self._answer(x_t, t, condition, scale, rescale=rescale)
            return self._x_start(answer, x_t, t)

        return denoise

    # The objective

    def objective(self, batch, training):
        self.check_condition(batch.y)
        x = ops.cast(batch.x, "float32")
        t = self._sampled_timesteps(ops.shape(x)[0], training)
        noise = self.normal(ops.shape(x))
        condition = self.conditioned(batch.y, training)
        error = self.errors(x, t, noise, condition, training=training)
        return {"loss": self._weight(t) * error, "loss_unweighted": error}

    def errors(self, x, t, noise, condition=None, *, training=False):
        """``mean (target - network)²`` of each example, (B,), with this noise at levels t (B,).

        With the weights of the moment, unweighted.
        """
        x_t = self.schedule.add_noise(x, noise, t)
        answer = self._answer(x_t, t, condition, training=training)
        return terms.prediction_error(answer, self._target(x, noise, t))

    def _sampled_timesteps(self, rows, training):
        u = self.uniform((rows,))
        if not training:
            u = terms.stratified_times(u)  # of the density of training, but one in each part
            if self.timestep_sampling == "stratified":
                return self.schedule.timestep(u)
        return self.schedule.timestep(terms.times(u, self.timestep_sampling))

    def _weight(self, t):
        """w(t), (B,)."""
        snr = self.schedule.snr(t)
        if not self.preconditioned:
            options = {"gamma": self.snr_gamma, "sigma_data": self.sigma_data or 0.5}
            return terms.loss_weight(snr, self.prediction_type, self.loss_weighting, **options)
        if self.loss_weighting == "uniform":
            return ops.ones_like(snr)
        options = {"gamma": self.snr_gamma, "sigma_data": self.schedule.sigma_data}
        weight = terms.loss_weight(snr, "x_start", self.loss_weighting, **options)
        return weight / terms.loss_weight(snr, "x_start", "edm", **options)

    # Use

    def data_of_inputs(self, inputs):
        x_t, _, *condition = inputs
        return (x_t, *condition)

    def call_signature(self):
        dtype = "float32" if self.preconditioned else "int32"
        return self.timed_signature(dtype)

    def call(self, inputs, training=False):
        """x̂_0 of `[x_t, t]` or `[x_t, t, condition]`."""
        x_t, t, *condition = inputs
        if training:
            answer = self._answer(x_t, t, *condition, training=True)
            return self._x_start(answer, x_t, t)
        with self.ema_weights():
            return self.denoiser(*condition)(ops.cast(x_t, "float32"), t)

    def denoise(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Tensor = None,
        guidance_scale: float = 1.0,
        *,
        guidance_rescale: float = 0.0,
    ) -> Tensor:
        """x̂_0, the network's mean of the clean data behind x_t (B, ...) at level t, one or (B,)."""
        self._check_built("denoise", x_t, condition)
        x_t = self._data(x_t)
        condition, scale = self.guiding(x_t.shape[0], condition, guidance_scale)
        t = self._known_timesteps(t, x_t.shape[0])
        return self._denoised(x_t, t, condition, scale, rescale=guidance_rescale)

    @compiled
    def _denoised(self, x_t, t, condition, scale, rescale):
        with self.ema_weights():
            return self.denoiser(condition, scale, rescale=rescale)(x_t, t)

    def noise(self, x: Data, t: Tensor, *, noise: Tensor = None, seed: int | None = None) -> Tensor:
        """``x_t = a_t x + s_t ε`` for data x (B, ...) and the level t, one or (B,).

        `noise` is ε; drawn where it isn't given.

        Raises:
            ValueError: for timesteps outside the schedule.
        """
        x = ops.cast(ops.convert_to_tensor(x), "float32")
        t = self._known_timesteps(t, x.shape[0])
        if noise is None:
            with self.drawing_from(seed):
                noise = self.normal(tuple(x.shape))
        return self.schedule.add_noise(x, noise, t)

    def _known_timesteps(self, t, rows):
        """`t` for each row, if it lies in the schedule."""
        values = ops.convert_to_numpy(t)
        if not self.preconditioned and np.any(values % 1):
            raise ValueError(
                "Timesteps are the whole numbers of a discrete schedule's levels. Received: "
                f"{t!r}. The level at a share u of them is `model.schedule.timestep(u)`."
            )
        if values.shape not in ((), (1,), (rows,)):
            raise ValueError(
                f"`t` must be one timestep, or one for each of {rows} rows. Received: t of shape "
                f"{values.shape}."
            )
        t = ops.convert_to_tensor(values)
        self.schedule.scales(ops.reshape(t, (-1,)))
        t = ops.cast(t, "float32" if self.preconditioned else "int32")
        return ops.broadcast_to(t, (rows,))


@functools.lru_cache(maxsize=32)
def _schedule(name, num_timesteps, zero_terminal_snr, sigma_data):
    options = {"zero_terminal_snr": True} if zero_terminal_snr and name != "edm" else {}
    if sigma_data is not None:
        options["sigma_data"] = sigma_data
    return noise_schedule(name, num_timesteps, **options)
