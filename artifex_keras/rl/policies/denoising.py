"""Policies of denoising steps: a diffusion or flow model's way from noise to a sample.

A state is a noisy sample, an action the next one, drawn from a Gaussian about the mean that the
network gives: `samplers.chains` has the formulas. `num_steps` evaluations of the network are
S = `num_steps` - 1 actions; the last evaluation finishes the sample without chance.
"""

import contextlib

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import integer, number
from artifex_keras.objectives import diffusion, flow
from artifex_keras.rl.policies.base import Policy
from artifex_keras.rl.rollout import Rollout, Scores
from artifex_keras.samplers import chains

__all__ = ["DenoisingPolicy", "DiffusionPolicy", "FlowPolicy"]


class DenoisingPolicy(Policy):
    """What policies of denoising steps share; a subclass has the chain and what the network says.

    If the model keeps an average of its weights, the average takes their place: from it, which
    `sample` shows, training starts, and later `sample` shows what was trained.

    Args:
        model: a `Diffusion` or a `FlowMatching`.
        num_steps: evaluations of the network for a sample, one more than there are actions.
        guidance_scale: w in ``u + w (c - u)``, in sampling and in scoring alike.
    """

    option_names = ("num_steps", "guidance_scale")

    def __init__(self, model, *, num_steps, guidance_scale=1.0):
        super().__init__(model)
        self.num_steps = integer("num_steps", num_steps, minimum=2)
        self.guidance_scale = model.checked_scale(guidance_scale)

    chain = None  # the `Chain` of S actions

    def answer(self, model, condition, scale):
        """``answer(x, t)`` for the functions of `samplers.chains`."""
        raise NotImplementedError

    def errors_of(self, model, x, sampled, condition):
        """The model's errors (B,) in predicting what was mixed, unweighted."""
        raise NotImplementedError

    @property
    def sampled_by(self):
        return self.model.network

    @property
    def variables(self):
        """What training changes."""
        return self.model.trainable_variables

    # Acting

    def unpack(self, x):
        """A batch's conditions: a dict of `prompt` (P, ...), and `condition`, the same as the
        network takes it, where it takes one.

        Args:
            x: an array of conditions, or of shape (P, 0) without; or a dict of columns, among them
                `condition` if the network takes one.

        Raises:
            ValueError: for a condition that is missing or doesn't fit.
        """
        columns = x if isinstance(x, dict) else {"condition": x}
        condition = columns.get("condition")
        if condition is not None and tuple(condition.shape[1:]) == (0,):
            condition = None
        rows = keras.tree.flatten(columns)[0].shape[0]
        condition = self._checked_condition(condition, rows, self.guidance_scale)
        if condition is None:
            return {"prompt": ops.zeros((rows, 0))}
        return {"prompt": condition, "condition": condition}

    def _checked_condition(self, condition, rows, scale):
        return self.model.guiding(rows, condition, scale)[0]

    def rollout(self, prompts, group_size, draw):
        """`group_size` samples for each condition, N rows side by side, S actions each.

        Args:
            prompts: what `unpack` gives.
            draw: has `normal(shape)`, the noise.

        Returns:
            a `Rollout`; all rows end.
        """
        rows = prompts["prompt"].shape[0] * group_size
        noise = draw.normal((self.chain.actions + 1, rows, *self.model.data_shape))
        condition = prompts.get("condition")
        if condition is not None:
            condition = ops.repeat(condition, group_size, axis=0)
        answer = self.answer(self.model, condition, self._scale)
        states, log_probs, samples = chains.sample_chain(self.chain, answer, noise)
        return Rollout(
            completion=samples,
            log_probs=log_probs,
            mask=ops.ones_like(log_probs),
            ended=ops.ones_like(log_probs[:, 0]),
            states=states,
            condition=condition,
        )

    @property
    def _scale(self):
        return None if self.guidance_scale == 1 else self.guidance_scale

    # Scoring

    def score(self, rollout, model=None, entropy=False):
        """How likely a rollout's actions are under `model`, by default the trained one.

        All actions are one call of the network, N·S rows of activations (twice as many with
        guidance): cut a rollout into minibatches where memory is short.

        Returns:
            `Scores`; the weights don't change the entropy.
        """
        condition = rollout.condition
        if condition is not None:
            condition = ops.repeat(condition, self.chain.actions, axis=0)
        with _weights(model):
            answer = self.answer(self.model if model is None else model, condition, self._scale)
            log_probs, means = chains.score_chain(self.chain, answer, rollout.states)
        each = None
        if entropy:
            each = chains.transition_entropy(self._stds)
            each = ops.broadcast_to(each, ops.shape(log_probs))
        return Scores(log_probs, entropy=each, means=means)

    @property
    def _stds(self):
        return self.chain.std[:-1].astype("float32")

    def kl(self, scores, reference):
        """The divergence from the reference at each action, ``(μ - μ_ref)²/(2σ²)``, (N, S), in nats
        per dimension; it is exact, for both draw with the same σ."""
        means, others = (
            ops.reshape(part.means, (-1, *self.model.data_shape)) for part in (scores, reference)
        )
        rows = ops.shape(scores.log_probs)
        kl = chains.transition_kl(means, others, ops.tile(self._stds, (rows[0],)))
        return ops.reshape(kl, rows)

    # Preferences

    def draw(self, rows, draw):
        """The times and noise for `errors`: a dict of tensors of so many rows.

        Times have the density of the model's own training; `draw` has `uniform` and `normal`.
        """
        raise NotImplementedError

    def errors(self, x, prompts, sampled, model=None):
        """``mean (target - network)²`` of each sample, (B,): what the model predicts, unweighted.

        For Diffusion-DPO (2311.12908), which compares it between two samples, and with the
        reference's, at the same times and noise. Without guidance.

        Args:
            x: samples, (B, ...).
            prompts: a dict with their `condition` (B, ...), if the network takes one.
            sampled: what `draw` gave for B rows.
            model: whose errors, by default the trained one's.
        """
        x = ops.cast(ops.convert_to_tensor(x), "float32")
        condition = self._checked_condition(prompts.get("condition"), x.shape[0], 1.0)
        with _weights(model):
            model = self.model if model is None else model
            return self.errors_of(model, x, sampled, condition)


def _weights(model):
    """A reference is what it samples by: its average, if it keeps one."""
    return contextlib.nullcontext() if model is None else model.ema_weights()


class DiffusionPolicy(DenoisingPolicy):
    """The steps of a `Diffusion` model's DDIM sampler with η = 1, as in DDPO (2305.13301).

    ``x' ~ N(a' x̂_0 + √(s'² - σ²) ε̂, σ²)``, at the levels that `Diffusion.sample` visits; of any
    noise schedule.

    Args:
        model: a `Diffusion`.
        num_steps: evaluations of the network for a sample.
        eta: η in (0, 1], how much of each step is chance.
        guidance_scale: w in ``u + w (c - u)``.
    """

    option_names = ("num_steps", "eta", "guidance_scale")

    def __init__(self, model, *, num_steps=50, eta=1.0, guidance_scale=1.0):
        super().__init__(model, num_steps=num_steps, guidance_scale=guidance_scale)
        self.eta = number("eta", eta, above=0.0, maximum=1.0)
        timesteps = model.sampling_timesteps(self.num_steps)
        self.chain = chains.ddim_chain(model.schedule, timesteps, eta=self.eta)
        model.load_ema_weights()

    def answer(self, model, condition, scale):
        return model.denoiser(condition, scale)

    def draw(self, rows, draw):
        u = diffusion.times(draw.uniform((rows,)), self.model.timestep_sampling)
        noise = draw.normal((rows, *self.model.data_shape))
        return {"times": self.model.schedule.timestep(u), "noise": noise}

    def errors_of(self, model, x, sampled, condition):
        return model.errors(x, sampled["times"], sampled["noise"], condition)


class FlowPolicy(DenoisingPolicy):
    """The steps of a `FlowMatching` model's stochastic differential equation, as in Flow-GRPO.

    It has the marginals of the flow (2505.05470), in equal steps; evaluate by
    `FlowMatching.sample`, the flow itself.

    Args:
        model: a `FlowMatching` of the path "linear", "ot" or "trigonometric".
        num_steps: evaluations of the network for a sample; 10 suffice for training.
        noise_level: a, how much chance there is.
        guidance_scale: w in ``u + w (c - u)``.
    """

    option_names = ("num_steps", "noise_level", "guidance_scale")

    def __init__(self, model, *, num_steps=10, noise_level=0.7, guidance_scale=1.0):
        super().__init__(model, num_steps=num_steps, guidance_scale=guidance_scale)
        self.noise_level = number("noise_level", noise_level, above=0.0)
        times = np.linspace(0, 1, self.num_steps + 1)
        self.chain = chains.flow_chain(times, noise_level=self.noise_level, path=model.path)
        model.load_ema_weights()

    def answer(self, model, condition, scale):
        return model.velocity(condition, scale)

    def draw(self, rows, draw):
        times = flow.times(draw.uniform((rows,)), self.model.time_sampling)
        sampled = {"times": times, "noise": draw.normal((rows, *self.model.data_shape))}
        if self.model.sigma:
            sampled["further"] = draw.normal((rows, *self.model.data_shape))
        return sampled

    def errors_of(self, model, x, sampled, condition):
        further = sampled.get("further")
        return model.errors(x, sampled["times"], sampled["noise"], condition, further=further)
