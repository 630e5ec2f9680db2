"""Diffusion models: data from noise, by a network that tells them apart at every level."""

import functools
import inspect

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import integer, lookup, number, unknown_name
from artifex_keras.backend import compiled
from artifex_keras.models import checks
from artifex_keras.models.base import GenerativeModel
from artifex_keras.models.conditioning import Conditioning, condition_input, network_inputs
from artifex_keras.objectives import diffusion as terms
from artifex_keras.objectives.elbo import log_normal
from artifex_keras.samplers import ode
from artifex_keras.samplers.diffusion import (
    SAMPLERS,
    ddim_coefficients,
    inpainted,
    probability_flow,
    sample,
    slerp,
    trajectory,
)
from artifex_keras.samplers.noise_levels import trailing_timesteps
from artifex_keras.samplers.noise_schedules import (
    PREDICTION_TYPES,
    EDMSchedule,
    NoiseSchedule,
    noise_schedule,
)

CHUNK = 16  # terms of the bound computed at once
LEAST_SNR = 2e-5  # below it a predicted noise or a path tells too little of the data to go by


@keras.saving.register_keras_serializable(package="artifex_keras")
class Diffusion(Conditioning, GenerativeModel):
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
        input_shape: of one example, where the network doesn't tell; None then waits for `fit`.
        seed: makes training and sampling repeatable.

    Metrics: `loss`, `loss_unweighted`.

    Raises:
        ValueError: for unknown names, combinations without a meaning, a network of another shape.
    """

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
    metric_names = ("loss_unweighted",)

    def __init__(
        self,
        network,
        *,
        noise_schedule="cosine",
        num_timesteps=1000,
        prediction_type="epsilon",
        timestep_sampling="uniform",
        loss_weighting="uniform",
        snr_gamma=5.0,
        ema_decay=0.9999,
        condition_dropout=0.1,
        null_label=None,
        zero_terminal_snr=False,
        sigma_data=None,
        input_shape=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.make_conditioning(network, condition_dropout, null_label)
        self.noise_schedule = noise_schedule
        self.num_timesteps = integer("num_timesteps", num_timesteps, minimum=2)
        self.prediction_type = prediction_type
        self.timestep_sampling = timestep_sampling
        self.loss_weighting = loss_weighting
        self.snr_gamma = number("snr_gamma", snr_gamma, above=0.0)
        self.zero_terminal_snr = bool(zero_terminal_snr)
        self.sigma_data = (
            None if sigma_data is None else number("sigma_data", sigma_data, above=0.0)
        )
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
            checks.same_event_shape("network", (None, *self.data_shape), x.shape)
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
        t = self._drawn_timesteps(ops.shape(x)[0], training)
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

    def _drawn_timesteps(self, rows, training):
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

    def call(self, inputs, training=False):
        """x̂_0 of `[x_t, t]` or `[x_t, t, condition]`."""
        x_t, t, *condition = inputs
        if training:
            answer = self._answer(x_t, t, *condition, training=True)
            return self._x_start(answer, x_t, t)
        with self.ema_weights():
            return self.denoiser(*condition)(ops.cast(x_t, "float32"), t)

    def denoise(self, x_t, t, condition=None, guidance_scale=1.0, *, guidance_rescale=0.0):
        """x̂_0, the network's mean of the clean data behind x_t (B, ...) at level t, one or (B,)."""
        self._check_built("denoise")
        x_t = self._data(x_t)
        condition, scale = self.guiding(x_t.shape[0], condition, guidance_scale)
        t = self._known_timesteps(t, x_t.shape[0])
        return self._denoised(x_t, t, condition, scale, rescale=guidance_rescale)

    @compiled
    def _denoised(self, x_t, t, condition, scale, rescale):
        with self.ema_weights():
            return self.denoiser(condition, scale, rescale=rescale)(x_t, t)

    def noise(self, x, t, *, noise=None, seed=None):
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

    def sample(
        self,
        n=1,
        num_steps=50,
        sampler="ddpm",
        guidance_scale=1.0,
        condition=None,
        *,
        guidance_rescale=0.0,
        clip=None,
        spacing=None,
        seed=None,
        **options,
    ):
        """`n` examples, (n, ...), in one compiled loop over `num_steps` levels.

        Args:
            n: how many.
            num_steps: levels visited, at most the schedule's; "heun" asks the network twice at each
                but the last.
            sampler: a row of `samplers.diffusion.SAMPLERS`: "ddpm", "ddim", "euler",
                "euler_ancestral", "heun", "dpm++".
            guidance_scale: w in ``u + w (c - u)``: 1 is the conditional prediction c, 0 the
                unconditional one u, which needs no condition.
            condition: one or `n` of them, where the network takes one.
            guidance_rescale: φ of `samplers.diffusion.guidance`, against overexposure.
            clip: `(low, high)`, the range of the data, to which x̂_0 is held at each step.
            spacing: which levels: "trailing", "linspace" or "leading"; None is the schedule's own,
                but for levels of an SNR below 2e-5 where ε is predicted.
            seed: with one the same examples each time.
            options: the sampler's own: `eta`, `variance`, `churn`, `churn_range`, `churn_noise`.

        Raises:
            ValueError: for an unknown sampler or option, more steps than the schedule has levels,
                guidance without a condition, a condition that is missing.
        """
        self._check_built("sample")
        return self._drawn(
            (n, num_steps, sampler, guidance_scale, condition),
            (None, None),
            seed,
            rescale=guidance_rescale,
            clip=clip,
            spacing=spacing,
            options=options,
        )

    def inpaint(
        self,
        known,
        mask,
        num_steps=50,
        sampler="ddpm",
        guidance_scale=1.0,
        condition=None,
        *,
        guidance_rescale=0.0,
        clip=None,
        spacing=None,
        seed=None,
        **options,
    ):
        """Examples that are `known` (B, ...) where `mask` is true, the rest drawn to fit.

        `mask` broadcasts against `known`. An approximation: see `samplers.diffusion.inpainted`.
        The other arguments are those of `sample`.
        """
        self._check_built("inpaint")
        known = self._data(known)
        mask = ops.cast(ops.convert_to_tensor(mask), "bool")
        if len(mask.shape) < len(known.shape):
            mask = mask[None]
        return self._drawn(
            (known.shape[0], num_steps, sampler, guidance_scale, condition),
            (known, ops.broadcast_to(mask, known.shape)),
            seed,
            rescale=guidance_rescale,
            clip=clip,
            spacing=spacing,
            options=options,
        )

    def _drawn(self, request, given, seed, *, rescale, clip, spacing, options):
        n, num_steps, sampler, guidance_scale, condition = request
        n = integer("n", n, minimum=1)
        row = lookup(SAMPLERS, sampler, "sampler")
        _check_sampler_options(sampler, row.sample, options)
        self.sampling_timesteps(num_steps, spacing)  # raises here what it refuses
        condition, scale = self.guiding(n, condition, guidance_scale)
        with self.drawing_from(seed):
            return self._sampled(
                condition,
                scale,
                *given,
                n=n,
                num_steps=num_steps,
                sampler=sampler,
                rescale=number("guidance_rescale", rescale, minimum=0.0, maximum=1.0),
                clip=None if clip is None else tuple(map(float, clip)),
                spacing=spacing,
                options=tuple(sorted(options.items())),
            )

    @compiled
    def _sampled(
        self, condition, scale, known, mask, n, num_steps, sampler, rescale, clip, spacing, options
    ):
        options, shape = dict(options), (n, *self.data_shape)
        timesteps = self.sampling_timesteps(num_steps, spacing)
        x = self.normal(shape) * float(self.schedule.levels(timesteps)[1][0])
        stochastic = SAMPLERS[sampler].stochastic
        if options.get("eta", options.get("churn", stochastic)):
            options["noise"] = self.normal((num_steps, *shape), rows=1)
        elif stochastic:
            options["noise"] = None
        with self.ema_weights():
            denoise = self.denoiser(condition, scale, rescale=rescale)
            denoise = denoise if known is None else inpainted(denoise, known, mask)
            return sample(
                denoise, x, self.schedule, timesteps, sampler=sampler, clip=clip, **options
            )

    def denoising(self, n=1, frames=10, num_steps=50, condition=None, *, seed=None):
        """`n` examples on their way from noise: (frames, n, ...), the first noise, the last done.

        The deterministic way ("ddim") in `num_steps` steps, seen at equal distances.
        """
        self._check_built("denoising")
        n = integer("n", n, minimum=1)
        frames = integer("frames", frames, minimum=2)
        self.sampling_timesteps(num_steps, None)
        condition, _ = self.guiding(n, condition, 1.0)
        with self.drawing_from(seed):
            return self._denoising(condition, n=n, frames=frames, num_steps=num_steps)

    @compiled
    def _denoising(self, condition, n, frames, num_steps):
        timesteps = self.sampling_timesteps(num_steps, None)
        x = self.normal((n, *self.data_shape)) * float(self.schedule.levels(timesteps)[1][0])
        with self.ema_weights():
            states = trajectory(
                ddim_coefficients(self.schedule, timesteps), self.denoiser(condition), x
            )
        seen = np.round(np.linspace(0, num_steps, frames)).astype("int32")
        return ops.take(states, ops.convert_to_tensor(seen), axis=0)

    def sampling_timesteps(self, num_steps, spacing=None):
        """The levels that a sampler visits, falling.

        Where ε is predicted they begin, unless a `spacing` is asked for, at the first level with
        an SNR worth the name: at the cosine's last one an error of ε̂ counts ten thousandfold.
        """
        timesteps = self.schedule.timesteps(num_steps, spacing)
        if spacing is not None or self.preconditioned or self.prediction_type != "epsilon":
            return timesteps
        _, a, s = self._levels()
        levels = int(np.sum((a / s) ** 2 >= LEAST_SNR))
        if levels < num_steps:
            return timesteps
        return trailing_timesteps(levels, num_steps).astype(timesteps.dtype)

    def encode(self, x, num_steps=50, *, condition=None):
        """The noise (B, ...) of which the probability-flow ODE makes x: near N(0, 1) for data.

        2010.02502 section 4.3, by Heun's method in `num_steps` levels; `decode` goes back.
        """
        self._check_built("encode")
        x = self._data(x)
        condition, _ = self.guiding(x.shape[0], condition, 1.0)
        return self._encoded(x, condition, num_steps=num_steps)

    def decode(self, noise, num_steps=50, *, condition=None):
        """The examples that the probability-flow ODE makes of noise (B, ...)."""
        self._check_built("decode")
        noise = self._data(noise)
        condition, _ = self.guiding(noise.shape[0], condition, 1.0)
        return self._decoded(noise, condition, num_steps=num_steps)

    @compiled
    def _encoded(self, x, condition, num_steps):
        sigmas, signal, noise = self._flow_levels(num_steps)
        with self.ema_weights():
            field = probability_flow(self.denoiser(condition), self.schedule)
            end = ode.integrate(field, x, times=sigmas[::-1], solver="heun")
        return end * (signal[0] / noise[0])

    @compiled
    def _decoded(self, noise, condition, num_steps):
        sigmas, signal, scale = self._flow_levels(num_steps)
        with self.ema_weights():
            field = probability_flow(self.denoiser(condition), self.schedule)
            start = noise * (scale[0] / signal[0])
            return ode.integrate(field, start, times=sigmas, solver="heun")

    def _flow_levels(self, num_steps):
        """``s/a``, a and s along the levels of the ODE, falling, while there is any data."""
        spacing = None if self.preconditioned else "linspace"
        timesteps = self.schedule.timesteps(num_steps, spacing)
        a, s = (level[:-1] for level in self.schedule.levels(timesteps))
        kept = (a / s) ** 2 >= LEAST_SNR
        return s[kept] / a[kept], a[kept], s[kept]

    def interpolate(self, a, b, steps, num_steps=50, *, condition=None):
        """What lies between `a` and `b`, each (B, ...): (steps, B, ...), both ends included.

        Their noise by `encode`, great circles from one to the other, `decode`.
        """
        steps = integer("steps", steps, minimum=2)
        start, end = (self.encode(x, num_steps, condition=condition) for x in (a, b))
        path = [slerp(start, end, share) for share in np.linspace(0, 1, steps)]
        if condition is not None:
            condition = self.repeated_condition(condition, start.shape[0])
            condition = ops.concatenate([condition] * steps)
        made = self.decode(ops.concatenate(path), num_steps, condition=condition)
        return ops.reshape(made, (steps, -1, *self.data_shape))

    # Likelihood

    def bits_per_dim(
        self, x, *, condition=None, levels=256, num_terms=None, batch_size=64, seed=None
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
        """
        self._check_built("bits_per_dim")
        x = np.asarray(ops.convert_to_numpy(x), "float32")
        checks.same_event_shape("network", (None, *self.data_shape), x.shape)
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

    def _levels(self):
        """All timesteps, rising, with their a and s in float64."""
        falling = self.schedule.timesteps(self.schedule.num_timesteps)
        a, s = (level[:-1][::-1] for level in self.schedule.levels(falling))
        kind = "float32" if self.preconditioned else "int32"
        return falling[::-1].astype(kind), a, s

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

    def log_likelihood(self, x, num_steps=100, *, condition=None, num_probes=None, seed=None):
        """ln p(x) in nats, (B,), by the probability-flow ODE (2011.13456 appendix D).

        The density of data with the least level's noise, by Heun's method over `num_steps` levels.

        Args:
            x: data, (B, ...).
            num_steps: levels, at most the schedule's.
            condition: one or B of them.
            num_probes: None for the exact divergence, which takes as many backward passes as there
                are dimensions; or the number of random signs of Hutchinson's estimate.
            seed: of these.
        """
        self._check_built("log_likelihood")
        x = self._data(x)
        condition, _ = self.guiding(x.shape[0], condition, 1.0)
        probes = None if num_probes is None else integer("num_probes", num_probes, minimum=1)
        with self.drawing_from(seed):
            return self._flow_likelihood(x, condition, num_steps=num_steps, num_probes=probes)

    @compiled
    def _flow_likelihood(self, x, condition, num_steps, num_probes):
        sigmas, _, _ = self._flow_levels(num_steps)
        probes = None
        if num_probes is not None:
            u = self.uniform((num_probes, *ops.shape(x)), rows=1)
            probes = ops.where(u < 0.5, -1.0, 1.0)
        # At the last level x/a has the noise's variance and the data's, whose scale is about 1.
        spread = self.schedule.sigma_data if self.preconditioned else 1.0
        log_var = float(np.log(sigmas[0] ** 2 + spread**2))
        with self.ema_weights():
            log_p, _ = ode.log_likelihood(
                probability_flow(self.denoiser(condition), self.schedule),
                x,
                probes=probes,
                times=sigmas[::-1],
                solver="heun",
                base_log_prob=lambda z: log_normal(z, 0.0, log_var),
            )
        return log_p

    # What the methods share

    def _known_timesteps(self, t, rows):
        """`t` for each row, if it lies in the schedule."""
        t = ops.convert_to_tensor(t)
        self.schedule.scales(ops.reshape(t, (-1,)))
        t = ops.cast(t, "float32" if self.preconditioned else "int32")
        return ops.broadcast_to(t, (rows,))


@functools.lru_cache(maxsize=32)
def _schedule(name, num_timesteps, zero_terminal_snr, sigma_data):
    options = {"zero_terminal_snr": True} if zero_terminal_snr and name != "edm" else {}
    if sigma_data is not None:
        options["sigma_data"] = sigma_data
    return noise_schedule(name, num_timesteps, **options)


def _check_sampler_options(sampler, function, options):
    known = inspect.signature(function).parameters
    taken = set(known) - {"denoise", "x", "schedule", "timesteps", "noise", "clip"}
    if "churn" in taken:
        taken |= {"churn_range", "churn_noise"}
    for name in options:
        if name not in taken:
            raise ValueError(unknown_name(name, taken, f"option of the sampler {sampler!r}:"))


def _numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")
