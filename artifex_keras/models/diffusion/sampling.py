"""Sampling a diffusion model: from noise to data by steps or by an equation, and back."""

import inspect
from typing import Any

import numpy as np
from keras import ops

from artifex_keras.aliases import Data, Limits, Tensor
from artifex_keras.arguments import (
    UnknownArgument,
    integer,
    interval,
    lookup,
    share,
    unknown_name,
)
from artifex_keras.backend import compiled
from artifex_keras.samplers import angular_flow
from artifex_keras.samplers.angular_flow import LEAST_SNR
from artifex_keras.samplers.diffusion import (
    SAMPLERS,
    ddim_coefficients,
    inpainted,
    sample,
    slerp,
    trajectory,
)
from artifex_keras.samplers.noise_levels import trailing_timesteps

__all__ = ["Sampling"]


class Sampling:
    """The part of a `Diffusion` that samples, encodes and decodes."""

    # By steps

    def sample(
        self,
        n: int = 1,
        num_steps: int | None = None,
        sampler: str = "ddpm",
        guidance_scale: float = 1.0,
        condition: Tensor = None,
        *,
        guidance_rescale: float = 0.0,
        clip: Limits | None = None,
        spacing: str | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Tensor:
        """`n` examples, (n, ...), in one compiled loop over `num_steps` levels.

        Args:
            n: how many.
            num_steps: levels visited, at most the schedule's; None is 50, or all of a shorter one.
                "heun" asks the network twice at each but the last.
            sampler: a row of `samplers.diffusion.SAMPLERS`: "ddpm", "ddim", "euler",
                "euler_ancestral", "heun", "dpm++".
            guidance_scale: w in ``u + w (c - u)``: 1 is the conditional prediction c, 0 the
                unconditional one u, which needs no condition.
            condition: one or `n` of them, where the network takes one.
            guidance_rescale: φ of `samplers.diffusion.guidance`, against overexposure.
            clip: `(low, high)`, the range of the data, to which x̂_0 is held at each step: (-1, 1)
                for most images. Without it a network that has learned little gives values of some
                hundreds: at the noisiest levels x̂_0 is an error of ε divided by a signal near 0.
            spacing: which levels: "trailing", "linspace" or "leading"; None is the schedule's own,
                but for levels of an SNR below 2e-5 where ε is predicted.
            seed: with one the same examples each time.
            options: the sampler's own: `eta`, `variance`, `churn`, `churn_range`, `churn_noise`.

        Raises:
            ValueError: for an unknown sampler or option, more steps than the schedule has levels,
                guidance without a condition, a condition that is missing.

        Example:

        ```python
        import artifex_keras as ak

        diffusion = ak.Diffusion(ak.networks.timed_mlp(2, units=(16,)), num_timesteps=50)
        points = diffusion.sample(4, num_steps=5, sampler="dpm++", seed=0)  # (4, 2)
        ```
        """
        self._check_built("sample")
        return self._run_sampler(
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
        known: Tensor,
        mask: Tensor,
        num_steps: int | None = None,
        sampler: str = "ddpm",
        guidance_scale: float = 1.0,
        condition: Tensor = None,
        *,
        guidance_rescale: float = 0.0,
        clip: Limits | None = None,
        spacing: str | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Examples that are `known` (B, ...) where `mask` is true, the rest drawn to fit.

        `mask` broadcasts against `known`. An approximation: see `samplers.diffusion.inpainted`.
        The other arguments are those of `sample`.

        Example:

        ```python
        import numpy as np

        import artifex_keras as ak

        diffusion = ak.Diffusion(ak.networks.timed_mlp(2, units=(16,)), num_timesteps=50)
        known, mask = np.zeros((3, 2), "float32"), np.array([True, False])
        filled = diffusion.inpaint(known, mask, num_steps=5)  # (3, 2), of which [:, 0] is kept
        ```
        """
        self._check_built("inpaint", known, condition)
        known = self._data(known)
        mask = ops.cast(ops.convert_to_tensor(mask), "bool")
        if len(mask.shape) < len(known.shape):
            mask = mask[None]
        return self._run_sampler(
            (known.shape[0], num_steps, sampler, guidance_scale, condition),
            (known, ops.broadcast_to(mask, known.shape)),
            seed,
            rescale=guidance_rescale,
            clip=clip,
            spacing=spacing,
            options=options,
        )

    def _run_sampler(self, request, given, seed, *, rescale, clip, spacing, options):
        n, num_steps, sampler, guidance_scale, condition = request
        n = integer("n", n, minimum=1)
        row = lookup(SAMPLERS, sampler, "sampler")
        num_steps = self.steps_or_default(num_steps)
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
                rescale=share("guidance_rescale", rescale),
                clip=interval("clip", clip),
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

    def denoising(
        self,
        n: int = 1,
        frames: int = 10,
        num_steps: int | None = None,
        condition: Tensor = None,
        *,
        seed: int | None = None,
    ) -> Tensor:
        """`n` examples on their way from noise: (frames, n, ...), the first noise, the last done.

        The deterministic way ("ddim") in `num_steps` steps, seen at equal distances.

        Example:

        ```python
        import artifex_keras as ak

        diffusion = ak.Diffusion(ak.networks.timed_mlp(2, units=(16,)), num_timesteps=50)
        frames = diffusion.denoising(2, frames=3, num_steps=6)  # (3, 2, 2)
        ```
        """
        self._check_built("denoising")
        n = integer("n", n, minimum=1)
        frames = integer("frames", frames, minimum=2)
        num_steps = self.steps_or_default(num_steps)
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

    # Levels

    def steps_or_default(self, num_steps, default=50):
        """`num_steps`, checked; for None `default`, or all levels of a schedule with fewer."""
        levels = self.schedule.num_timesteps
        if num_steps is None:
            return default if self.preconditioned else min(default, levels)
        return integer("num_steps", num_steps, minimum=1)

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

    def _levels(self):
        """All timesteps, rising, with their a and s in float64."""
        falling = self.schedule.timesteps(self.schedule.num_timesteps)
        a, s = (level[:-1][::-1] for level in self.schedule.levels(falling))
        kind = "float32" if self.preconditioned else "int32"
        return falling[::-1].astype(kind), a, s

    # By the probability-flow equation

    def encode(self, x: Data, num_steps: int | None = None, *, condition: Tensor = None) -> Tensor:
        """The noise (B, ...) of which the probability-flow ODE makes x: N(0, I) for data.

        2010.02502 section 4.3, by `samplers.angular_flow` over `num_steps` levels; `decode` goes
        back.

        Example:

        ```python
        import numpy as np

        import artifex_keras as ak

        diffusion = ak.Diffusion(ak.networks.timed_mlp(2, units=(16,)), num_timesteps=50)
        x = np.zeros((3, 2), "float32")
        noise = diffusion.encode(x, num_steps=5)  # (3, 2)
        back = diffusion.decode(noise, num_steps=5)  # (3, 2), near x
        ```
        """
        self._check_built("encode", x, condition)
        num_steps = self.steps_or_default(num_steps)
        x = self._data(x)
        condition, _ = self.guiding(x.shape[0], condition, 1.0)
        return self._encoded(x, condition, num_steps=num_steps)

    def decode(
        self, noise: Tensor, num_steps: int | None = None, *, condition: Tensor = None
    ) -> Tensor:
        """The examples that the probability-flow ODE makes of noise (B, ...)."""
        self._check_built("decode", noise, condition)
        num_steps = self.steps_or_default(num_steps)
        noise = self._data(noise)
        condition, _ = self.guiding(noise.shape[0], condition, 1.0)
        return self._decoded(noise, condition, num_steps=num_steps)

    @compiled
    def _encoded(self, x, condition, num_steps):
        flow = angular_flow.angular_flow(self.schedule, num_steps)
        with self.ema_weights():
            return angular_flow.to_noise(flow, self.denoiser(condition), x)

    @compiled
    def _decoded(self, noise, condition, num_steps):
        flow = angular_flow.angular_flow(self.schedule, num_steps)
        with self.ema_weights():
            return angular_flow.from_noise(flow, self.denoiser(condition), noise)

    def interpolate(
        self,
        a: Tensor,
        b: Tensor,
        steps: int,
        num_steps: int | None = None,
        *,
        condition: Tensor = None,
    ) -> Tensor:
        """What lies between `a` and `b`, each (B, ...): (steps, B, ...), both ends included.

        Their noise by `encode`, great circles from one to the other, `decode`.
        """
        steps = integer("steps", steps, minimum=2)
        start, end = (self.encode(x, num_steps, condition=condition) for x in (a, b))
        path = [slerp(start, end, u) for u in np.linspace(0, 1, steps)]
        if condition is not None:
            condition = self.repeated_condition(condition, start.shape[0])
            condition = ops.concatenate([condition] * steps)
        made = self.decode(ops.concatenate(path), num_steps, condition=condition)
        return ops.reshape(made, (steps, -1, *self.data_shape))


def _check_sampler_options(sampler, function, options):
    known = inspect.signature(function).parameters
    accepted = set(known) - {"denoise", "x", "schedule", "timesteps", "noise", "clip"}
    if "churn" in accepted:
        accepted |= {"churn_range", "churn_noise"}
    for name in options:
        if name not in accepted:
            named = [p for p in inspect.signature(Sampling.sample).parameters if p != "self"]
            what = f"option of the sampler {sampler!r}:"
            raise UnknownArgument(unknown_name(name, [*accepted, *named], what))
