"""Energy-based models, ``p(x) ∝ e^{-E(x)}``: by contrastive divergence or by their score."""

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import broken_rule, integer, lookup, number
from artifex_keras.backend import compiled, input_gradient
from artifex_keras.models import checks
from artifex_keras.models.base import GenerativeModel
from artifex_keras.models.divergence import fit_watched
from artifex_keras.models.replay import ReplayBuffer
from artifex_keras.objectives import energy as energies
from artifex_keras.objectives.masks import sum_event
from artifex_keras.samplers import langevin

BURN_IN = 10  # times `mcmc_steps`: a chain of `sample` where no length is asked for
CHUNK = 100  # steps of a chain whose noise is drawn at once


class Rule(NamedTuple):
    """How a chain moves: a row of `SAMPLERS` and its settings."""

    sampler: str
    step_size: float
    noise_scale: float | None
    gradient_clipping: float | None
    leapfrog_steps: int
    limits: tuple | None


class Negatives(NamedTuple):
    """Where the chains of a step ended: states (B, ...), conditions or None, acceptance or None."""

    x: object
    y: object
    acceptance: object


@keras.saving.register_keras_serializable(package="artifex_keras")
class EnergyModel(GenerativeModel):
    """A network that gives an energy: `fit(x)`, then `energy(x)`, `score(x)`, `sample(n)`.

    The density is ``p(x) = e^{-E(x)} / Z`` with Z unknown; `log_partition` estimates it. Per
    example, the loss is one of

    - `"cd"`, `"pcd"`: ``E(x⁺) - E(x⁻)``, whose gradient is that of -ln p(x⁺) where the negatives x⁻
      come from the model. No gradient runs through the chain of `mcmc_steps` steps that draws
      them. It starts at the data (contrastive divergence, doi:10.1162/089976602760128018), or goes
      on where an earlier step left it (persistent, doi:10.1145/1390156.1390290): in a buffer that
      is a weight of the model.
    - `"score_matching"`: ``½‖s‖² + tr ∇s``, s = -∇E (Hyvärinen, JMLR 6, 2005), summed over event
      dimensions, D derivatives an example; `"sliced_score_matching"`: ``½‖s‖² + vᵀ ∇s v`` with
      random signs v (1905.07088), one.
    - `"denoising_score_matching"`: ``½ Σ (σ s(x + σε) + ε)² / D``, a mean over the D event
      dimensions (Vincent 2011): it learns the density of the data with noise of σ. With several
      σ an example gets one at random, and the energy at σ is E(x)/σ (2006.09011, technique 3).

    Args:
        energy: a network from data (B, ...), or `[data, labels]`, to energies, (B,) or (B, 1). With
            `num_classes` one from data to logits (B, K), whose energy is -logsumexp.
        training_method: a row of `TRAINING_METHODS`, see above.
        mcmc_steps: steps of the chain that draws the negatives.
        step_size: Langevin's, in ``x - step_size/2 ∇E + noise_scale n``; of one leapfrog step in
            `"hmc"`.
        noise_scale: None is Langevin's √step_size. Another value samples from ``e^{-E/T}``,
            ``T = noise_scale²/step_size``, and so does training: see `temperature`.
        gradient_clipping: None, or the largest norm of an example's ∇E in a chain.
        replay_buffer_size: chains that `"pcd"` keeps; at least as many as a batch has examples.
        replay_buffer_init_prob: probability that one of its chains goes on rather than starting
            anew, uniform in `value_range`, or normal.
        sigmas: σ, or several, for `"denoising_score_matching"`.
        energy_regularization: α of ``α (E(x⁺)² + E(x⁻)²)``, which keeps energies near 0
            (1903.08689).
        gradient_penalty_weight: λ of ``λ E‖∇E‖²``, at data and negatives in equal parts.
        sampler: `"langevin"`, which has an error of first order in the step, or `"mala"` and
            `"hmc"`, which are exact and report the metric `acceptance`.
        leapfrog_steps: of a proposal of `"hmc"`.
        data_noise: standard deviation of noise added to the data in training.
        value_range: None, or `(low, high)`, where the data lie: Langevin's states are clipped to
            it, proposals of the exact samplers that leave it are refused.
        num_classes: K makes the network's logits a classifier as well (JEM, 1912.03263): the loss
            is the cross-entropy of `fit(x, labels)` plus `generative_weight` times the above.
        generative_weight: see `num_classes`.
        divergence_threshold: `fit` stops with an error after an epoch whose mean gap between
            energies exceeds it, or whose loss is no number.
        input_shape: of one example, for a network that doesn't know it; else from the data.
        ema_decay: see `GenerativeModel`.
        seed: makes training and sampling repeatable.

    Metrics: `loss`, `energy_data`, and those in use of `energy_neg`, `energy_gap` (negatives less
    data: above 0 while the network tells them apart), `acceptance`, `gradient_penalty` (‖∇E‖²),
    `classification_loss` and `accuracy`.

    Raises:
        ValueError: for a network that doesn't give one number an example; a batch larger than the
            buffer; settings that the method or the sampler has no use for.
    """

    submodels = ("network",)
    options = (
        "training_method",
        "mcmc_steps",
        "step_size",
        "noise_scale",
        "gradient_clipping",
        "replay_buffer_size",
        "replay_buffer_init_prob",
        "sigmas",
        "energy_regularization",
        "gradient_penalty_weight",
        "sampler",
        "leapfrog_steps",
        "data_noise",
        "value_range",
        "num_classes",
        "generative_weight",
        "divergence_threshold",
        "input_shape",
        "ema_decay",
        "seed",
    )
    metric_names = (
        "energy_data",
        "energy_neg",
        "energy_gap",
        "acceptance",
        "gradient_penalty",
        "classification_loss",
        "accuracy",
    )

    def __init__(
        self,
        energy,
        *,
        training_method="cd",
        mcmc_steps=20,
        step_size=0.01,
        noise_scale=None,
        gradient_clipping=None,
        replay_buffer_size=10000,
        replay_buffer_init_prob=0.95,
        sigmas=0.1,
        energy_regularization=0.0,
        gradient_penalty_weight=0.0,
        sampler="langevin",
        leapfrog_steps=10,
        data_noise=0.0,
        value_range=None,
        num_classes=None,
        generative_weight=1.0,
        divergence_threshold=1e4,
        input_shape=None,
        ema_decay=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.network = checks.network("energy", energy)
        given = {name: value for name, value in locals().items() if name in RULES}
        for name, value in given.items():
            setattr(self, name, RULES[name](name, value))
        self._check_settings()
        self.buffer = None
        inputs = getattr(energy, "inputs", None) or []
        self.conditional = len(inputs) == 2
        if input_shape is not None or inputs:
            shape = inputs[0].shape if input_shape is None else (None, *self.input_shape)
            self.build(shape, inputs[1] if self.conditional else None)

    def _check_settings(self):
        if self.sampler != "langevin" and self.noise_scale is not None:
            raise ValueError(
                f"`noise_scale` belongs to sampler='langevin': the others are exact. Received: "
                f"noise_scale={self.noise_scale}, sampler={self.sampler!r}."
            )
        if self.sampler == "hmc" and self.gradient_clipping is not None:
            raise ValueError(
                "`gradient_clipping` belongs to 'langevin' and 'mala'. Received: "
                f"gradient_clipping={self.gradient_clipping}, sampler='hmc'."
            )

    # Building and checking

    def build(self, input_shape, condition=None):
        """Builds the network for data of this shape, for `condition` the labels' spec."""
        if self.built:
            return
        self.conditional = condition is not None and self.num_classes is None
        spec = keras.KerasTensor(condition.shape, condition.dtype) if self.conditional else None
        data = keras.KerasTensor((None, *input_shape[1:]), dtype="float32")
        self._check_output(self.network([data, spec] if self.conditional else data))
        self.data_shape = tuple(input_shape[1:])
        if self.training_method == "pcd":
            self.buffer = ReplayBuffer(
                self.replay_buffer_size, self.value_range, self._first_seed, name="buffer"
            )
            self.buffer.build(self.data_shape, spec)
        self.finish_build((None, *self.data_shape), spec)

    def _check_output(self, output):
        shape = getattr(output, "shape", None)
        shape = None if shape is None else tuple(shape[1:])
        expected = ((), (1,)) if self.num_classes is None else ((self.num_classes,),)
        if shape not in expected:
            raise ValueError(
                "The energy network must give "
                + (
                    "one number per example, an output of shape (B,) or (B, 1). "
                    if self.num_classes is None
                    else f"a logit for each class, an output of shape (B, {self.num_classes}). "
                )
                + f"Received: an output of shape {shape} per example."
            )

    def check_batch(self, x, y):
        self._check_settings()
        if self.built:
            checks.same_event_shape("network", (None, *self.data_shape), x.shape)
            self._check_labels(y)
        if self.value_range is not None:
            values, (low, high) = ops.convert_to_numpy(x), self.value_range
            if values.min() < low or values.max() > high:
                raise ValueError(
                    f"The data must lie in `value_range`. Received: values from {values.min()} to "
                    f"{values.max()}, value_range={self.value_range}."
                )

    def _check_labels(self, y):
        if not self.conditional and self.num_classes is None:
            checks.unconditional(
                "EnergyModel", y, "Let the network take [x, labels], or give `num_classes`."
            )
        elif y is None:
            raise ValueError("This EnergyModel learns with labels: call fit(x, labels).")
        elif self.num_classes is not None and len(y.shape) != 1:
            raise ValueError(
                f"Labels must be integers of shape (B,). Received: labels of shape {y.shape}."
            )

    def reseed(self, seed):
        """Starts all noise anew at `seed`, and the chains of a model that wasn't trained yet."""
        super().reseed(seed)
        if self.buffer is not None and int(ops.convert_to_numpy(self.step)) == 0:
            self.buffer.restart(self._first_seed)

    def get_config(self):
        config = super().get_config()
        config["energy"] = config.pop("network")
        return config

    def fit(self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, *args,
            **kwargs):  # fmt: skip
        """As in `GenerativeModel`.

        Raises:
            FloatingPointError: after an epoch in which training diverged, with what helps.
        """
        arguments = (x, y, batch_size, epochs, verbose)
        return fit_watched(self, super().fit, arguments, callbacks, *args, **kwargs)

    # The energy

    def _output(self, x, y=None, training=False):
        inputs = [x, y] if self.conditional else x
        return ops.cast(self.network(inputs, training=training), "float32")

    def _energy_of(self, output, y=None):
        """E (B,) from what the network gave; of a classifier that of x, or of x and y."""
        if self.num_classes is None:
            return ops.reshape(output, (-1,))
        return energies.label_energy(output) if y is None else -_at_label(output, y)

    def _energies(self, x, y=None, training=False):
        return self._energy_of(self._output(x, y, training), y)

    def _training_energies(self, x, y):
        """In training, with the network's statistics left as they are."""
        with self.frozen_batch_stats(self.network):
            return self._energies(x, y, True)

    def _slope(self, x, y, training):
        """∇E, of the shape of x, differentiable once more."""
        if not training:
            return input_gradient(lambda x: self._energies(x, y), x)
        return input_gradient(lambda x: self._training_energies(x, y), x)

    @property
    def noise_levels(self):
        """The σ of denoising score matching as a tuple, the largest first."""
        sigmas = self.sigmas if isinstance(self.sigmas, list) else [self.sigmas]
        return tuple(sorted(sigmas, reverse=True))

    @property
    def annealed(self):
        """Whether the energy was learned at several σ."""
        return self.training_method == "denoising_score_matching" and len(self.noise_levels) > 1

    @property
    def temperature(self):
        """T of the density ``e^{-E/T}`` that was trained and is sampled from; 1 in general.

        A `noise_scale` of its own makes it noise_scale²/step_size where chains draw the negatives.
        """
        if self.noise_scale is None or TRAINING_METHODS[self.training_method].start is None:
            return 1.0
        return energies.effective_temperature(self.step_size, self.noise_scale)

    # The objective

    def update(self, batch):
        negatives = self._negatives(batch.x, batch.y, training=True)
        return self.descend(
            lambda: self.reduced(self._terms(batch, negatives, True), batch.weight, self),
            self.trainable_variables,
        )

    def objective(self, batch, training):
        negatives = self._negatives(batch.x, batch.y, training=training)
        return self._terms(batch, negatives, training)

    def _terms(self, batch, negatives, training):
        self._check_labels(batch.y)
        x = ops.cast(batch.x, "float32")
        if training and self.data_noise:
            x = x + self.data_noise * self.normal(ops.shape(x))
        y = batch.y if self.conditional else None
        output = self._output(x, y, training)
        positive = self._energy_of(output)
        terms = {"energy_data": positive}
        terms |= TRAINING_METHODS[self.training_method].terms(
            self, x, y, positive, negatives, training
        )
        if self.gradient_penalty_weight:
            terms["gradient_penalty"] = self._gradient_penalty(x, y, negatives, training)
            terms["loss"] += self.gradient_penalty_weight * terms["gradient_penalty"]
        if self.num_classes is not None:
            terms |= self._joint_terms(terms["loss"], output, batch.y)
        return terms

    def _gradient_penalty(self, x, y, negatives, training):
        penalty = sum_event(ops.square(self._slope(x, y, training)))
        if negatives is None:
            return penalty
        other = sum_event(ops.square(self._slope(negatives.x, negatives.y, training)))
        return 0.5 * (penalty + other)

    def _joint_terms(self, generative, logits, labels):
        entropy = -energies.label_energy(logits) - _at_label(logits, labels)
        right = ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32"))
        return {
            "loss": entropy + self.generative_weight * generative,
            "classification_loss": entropy,
            "accuracy": ops.cast(right, "float32"),
        }

    # Chains

    def _rule(self, sampler=None):
        sampler = self.sampler if sampler is None else sampler
        lookup(SAMPLERS, sampler, "sampler")
        limits = None if self.value_range is None or self.annealed else tuple(self.value_range)
        return Rule(
            sampler,
            self.step_size,
            self.noise_scale if sampler == "langevin" else None,
            None if sampler == "hmc" else self.gradient_clipping,
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
        chain = SAMPLERS[self.sampler](
            self, lambda x: self._energies(x, y), x, self.mcmc_steps, self._rule()
        )
        if training and places is not None:
            self.buffer.write(places, chain.x, y)
        return Negatives(chain.x, y, chain.acceptance)

    def _from_data(self, x, y):
        return x, y, None

    def _from_buffer(self, x, y):
        """The chains that go on, or start anew: states, conditions, and their places."""
        rows = ops.shape(x)[0]
        if isinstance(rows, int) and rows > self.replay_buffer_size:
            raise ValueError(
                "`replay_buffer_size` must be at least the batch size. Received: "
                f"replay_buffer_size={self.replay_buffer_size}, a batch of {rows} examples."
            )
        places = self.buffer.places(self.uniform((1,)), self.uniform((rows,)))
        states, conditions, begun = self.buffer.at(places)
        anew = self.uniform((rows,)) >= self.replay_buffer_init_prob
        if y is not None:
            anew = ops.logical_or(anew, ops.logical_not(begun))
            conditions = ops.where(_beside(anew, y), ops.cast(y, conditions.dtype), conditions)
        states = ops.where(_beside(anew, states), self._fresh(rows), states)
        return states, conditions, places

    def _fresh(self, rows):
        """Noise to start chains at, (rows, ...)."""
        shape = (rows, *self.data_shape)
        if self.value_range is None:
            return self.normal(shape)
        low, high = self.value_range
        return low + (high - low) * self.uniform(shape)

    # Use

    def call(self, inputs, training=False):
        """Energies (B,) of data, or of `[data, labels]`."""
        x, y = inputs if self.conditional else (inputs, None)
        x = ops.cast(x, "float32")
        if training:
            return self._energies(x, y, True)
        with self.ema_weights():
            return self._energies(x, y) / self._level(None)

    def energy(self, x, labels=None, *, sigma=None):
        """E(x), (B,), up to a constant in nats. A classifier's given labels is that of both.

        After denoising at several σ it is that at `sigma`, by default the smallest.
        """
        x, labels = self._asked(x, labels, "energy")
        return self._energy_program(x, labels, sigma=self._level(sigma))

    @compiled
    def _energy_program(self, x, y, sigma):
        with self.ema_weights():
            return self._energies(x, y) / sigma

    def score(self, x, labels=None, *, sigma=None):
        """-∇E(x), of the shape of x: the gradient of ln p. Arguments as for `energy`."""
        x, labels = self._asked(x, labels, "score")
        return self._score_program(x, labels, sigma=self._level(sigma))

    @compiled
    def _score_program(self, x, y, sigma):
        with self.ema_weights():
            return -self._slope(x, y, False) / sigma

    def _level(self, sigma):
        """What the network's output is divided by at noise `sigma`: 1 where there is one σ."""
        if not self.annealed:
            if sigma is not None:
                raise ValueError(
                    "`sigma` is for denoising score matching with several `sigmas`. Received: "
                    f"sigma={sigma}."
                )
            return 1.0
        return self.noise_levels[-1] if sigma is None else number("sigma", sigma, above=0)

    def _asked(self, x, labels, method):
        self._check_built(method)
        x = ops.cast(ops.convert_to_tensor(x), "float32")
        checks.same_event_shape("network", (None, *self.data_shape), x.shape)
        if labels is not None or self.conditional:
            labels = self._labels(labels, x.shape[0])
        return x, labels

    def _labels(self, labels, n):
        """`n` labels from one or from `n`; None where there are none to take."""
        if not self.conditional and self.num_classes is None:
            labels = labels if labels is None else ops.convert_to_tensor(labels)
            checks.unconditional("EnergyModel", labels, "Its energy is one of the data alone.")
            return None
        if labels is None:
            if self.conditional:
                raise ValueError("This EnergyModel's network takes labels. Received: none.")
            return None
        labels = ops.convert_to_tensor(labels)
        if len(labels.shape) == 0:
            return ops.broadcast_to(labels, (n,))
        if labels.shape[0] != n:
            raise ValueError(
                "`labels` must be one label or as many as there are examples. Received: labels "
                f"of shape {tuple(labels.shape)} for {n} examples."
            )
        return labels

    def sample(self, n=1, num_steps=None, *, labels=None, initial=None, sampler=None, seed=None):
        """`n` states of chains of `num_steps` steps.

        Chains of `"pcd"` go on where training left them, those of `initial` (n, ...) there; others
        start at noise. After denoising at several σ they make `num_steps` steps at each, from the
        largest down (1907.05600 algorithm 1, its last step without noise), of size
        ``step_size σ²/σ_min²``.

        Args:
            n: how many.
            num_steps: by default ten times `mcmc_steps`; `mcmc_steps` at each of several σ.
            labels: one or n; needed for a network of `[x, labels]`, possible for a classifier.
            initial: states to start from.
            sampler: another than the model's.
            seed: the same ones each time; without, the next ones of the model's stream.
        """
        n = integer("n", n, minimum=1)
        labels = self._labels(labels, n)
        self._check_built("sample")
        rule = self._rule(sampler)
        if num_steps is None:
            num_steps = self.mcmc_steps * (1 if self.annealed else BURN_IN)
        num_steps = integer("num_steps", num_steps, minimum=1)
        with self.drawing_from(seed):
            x = self._start(labels, n=n) if initial is None else self._given(initial, n)
            for sigma in self.noise_levels if self.annealed else (1.0,):
                sigma = ops.convert_to_tensor(sigma, dtype="float32")
                for steps in _chunks(num_steps):
                    x = self._moved(x, labels, sigma, rule=rule, steps=steps)
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
    def _moved(self, x, y, sigma, rule, steps):
        """States after so many steps under the energy at σ, larger steps at a larger one."""
        pace = ops.square(sigma / self.noise_levels[-1]) if self.annealed else 1.0
        with self.ema_weights():
            return SAMPLERS[rule.sampler](
                self, lambda x: self._energies(x, y) / sigma, x, steps, rule, pace
            ).x

    @compiled
    def _denoised(self, x, y):
        """The mean of the data given x, for noise of the smallest σ: x + σ² s(x)."""
        with self.ema_weights():
            x = x - self.noise_levels[-1] * self._slope(x, y, False)
        return x if self.value_range is None else ops.clip(x, *self.value_range)

    # The partition function

    def log_partition(self, method="ais", *, label=None, seed=None, **options):
        """ln Z = ln ∫ e^{-E/T} in nats, T being the model's `temperature`, a float.

        `"ais"` anneals from N(0, `base_scale`² I), or from the uniform distribution in
        `value_range`, to the model by `num_steps` Hamiltonian proposals of `leapfrog_steps` steps
        of `step_size`, in `num_chains` chains; the exponential is unbiased. Its noise takes memory
        for `num_steps * num_chains` examples. `"grid"` is exact for
        two dimensions but for what lies outside `bounds`, `(low, high)` of both axes, and between
        `size` cells an axis.

        Args:
            method: a row of `PARTITIONS`.
            label: for a network of `[x, labels]`, whose Z has one value for each.
            seed: of the chains.
            **options: those named above.
        """
        self._check_built("log_partition")
        if label is not None or self.conditional:
            label = self._labels(label, 1)
        partition = lookup(PARTITIONS, method, "method")
        with self.drawing_from(seed):
            return partition(self, label, **options)

    def log_prob(self, x, labels=None, *, log_partition=None, **options):
        """ln p(x) = -E(x)/T - ln Z in nats, (B,).

        Give `log_partition` where it is known; else it is estimated here with `options`.
        """
        if self.conditional:
            raise ValueError(
                "ln p(x|y) needs a ln Z for each label: subtract `log_partition(label=y)` from "
                "`-energy(x, labels)`."
            )
        if log_partition is None:
            log_partition = self.log_partition(**options)
        return -self.energy(x, labels) / self.temperature - log_partition

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


# Training methods: what each adds to the terms, and where its negatives come from


def _contrastive(model, x, y, positive, negatives, training):
    if training:
        negative = model._training_energies(negatives.x, negatives.y)
    else:
        negative = model._energies(negatives.x, negatives.y)
    terms = {
        "loss": energies.contrastive_divergence(
            positive, negative, regularization=model.energy_regularization
        ),
        "energy_neg": negative,
        "energy_gap": negative - positive,
    }
    if negatives.acceptance is not None:
        terms["acceptance"] = negatives.acceptance
    return terms


def _exact_score_matching(model, x, y, positive, negatives, training):
    """tr ∇s from D copies of each example, one for each direction."""
    dims = math.prod(model.data_shape)
    copies = ops.repeat(x, dims, axis=0)
    labels = None if y is None else ops.repeat(y, dims, axis=0)
    rows = ops.shape(x)[0]
    directions = ops.broadcast_to(ops.eye(dims)[None], (rows, dims, dims))
    directions = ops.reshape(directions, (-1, *model.data_shape))

    def along(copies):
        return sum_event(-model._slope(copies, labels, training) * directions)

    second = sum_event(input_gradient(along, copies) * directions)
    trace = ops.sum(ops.reshape(second, (rows, dims)), axis=1)
    score = -model._slope(x, y, training)
    return _regularised(model, energies.score_matching(score, trace), positive)


def _sliced_score_matching(model, x, y, positive, negatives, training):
    probe = ops.where(model.uniform(ops.shape(x)) < 0.5, -1.0, 1.0)
    product = input_gradient(lambda x: sum_event(-model._slope(x, y, training) * probe), x)
    score = -model._slope(x, y, training)
    loss = energies.sliced_score_matching(score, product, probe)
    return _regularised(model, loss, positive)


def _denoising_score_matching(model, x, y, positive, negatives, training):
    noise = model.normal(ops.shape(x))
    levels = ops.convert_to_tensor(model.noise_levels, dtype="float32")
    sigma, scale = levels[0], 1.0
    if model.annealed:
        which = model.uniform((ops.shape(x)[0],)) * len(model.noise_levels)
        sigma = ops.take(levels, ops.cast(ops.floor(which), "int32"), axis=0)
        scale = _beside(sigma, x)
    noisy = x + _beside(sigma, x) * noise
    score = -model._slope(noisy, y, training) / scale
    total = energies.denoising_score_matching(score, noise, sigma)
    return _regularised(model, total / math.prod(model.data_shape), positive)


def _regularised(model, loss, positive):
    return {"loss": loss + model.energy_regularization * ops.square(positive)}


class Method(NamedTuple):
    """A row of `TRAINING_METHODS`.

    `terms(model, x, y, positive, negatives, training)` gives the loss and what else is logged;
    `start(model, x, y)` the negatives' first states, conditions and places, None without negatives.
    """

    terms: Callable
    start: Callable | None = None


TRAINING_METHODS = {
    "cd": Method(_contrastive, EnergyModel._from_data),
    "pcd": Method(_contrastive, EnergyModel._from_buffer),
    "score_matching": Method(_exact_score_matching),
    "sliced_score_matching": Method(_sliced_score_matching),
    "denoising_score_matching": Method(_denoising_score_matching),
}


# Samplers: the `Chain` of some steps from x, with noise of the model's stream


def _langevin(model, energy, x, steps, rule, pace=1.0):
    scale = rule.step_size**0.5 if rule.noise_scale is None else rule.noise_scale
    x = langevin.langevin(
        energy,
        x,
        model.normal((steps, *ops.shape(x))),
        step_size=rule.step_size * pace,
        noise_scale=scale * pace**0.5,
        gradient_clipping=rule.gradient_clipping,
        clip=rule.limits,
    )
    return langevin.Chain(x, None)


def _mala(model, energy, x, steps, rule, pace=1.0):
    return langevin.mala(
        energy if rule.limits is None else langevin.within(energy, rule.limits),
        x,
        model.normal((steps, *ops.shape(x))),
        model.uniform((steps, ops.shape(x)[0])),
        step_size=rule.step_size * pace,
        gradient_clipping=rule.gradient_clipping,
    )


def _hmc(model, energy, x, steps, rule, pace=1.0):
    return langevin.hmc(
        energy if rule.limits is None else langevin.within(energy, rule.limits),
        x,
        model.normal((steps, *ops.shape(x))),
        model.uniform((steps, ops.shape(x)[0])),
        step_size=rule.step_size * pace**0.5,
        leapfrog_steps=rule.leapfrog_steps,
    )


SAMPLERS = {"langevin": _langevin, "mala": _mala, "hmc": _hmc}


# Partition functions


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


PARTITIONS = {"ais": _annealed_partition, "grid": _grid_partition}


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


# Small things


def _at_label(logits, labels):
    """f(x)[y], (B,)."""
    chosen = ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1], dtype=logits.dtype)
    return ops.sum(logits * chosen, axis=-1)


def _beside(values, like):
    """`values` (B,) or () with axes of length 1 appended up to the rank of `like`."""
    if len(values.shape) == 0:
        return values
    return ops.reshape(values, (-1,) + (1,) * (len(like.shape) - 1))


def _chunks(steps):
    return [min(CHUNK, steps - done) for done in range(0, steps, CHUNK)]


def _levels(name, value):
    if isinstance(value, list | tuple | np.ndarray):
        levels = [number(name, level, above=0.0) for level in value]
        if not levels:
            raise ValueError(f"`{name}` must hold a noise level. Received: {name}={value!r}.")
        return levels if len(levels) > 1 else levels[0]
    return number(name, value, above=0.0)


def _range(name, value):
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise broken_rule(name, value, "None or (low, high)")
    low, high = (number(name, end) for end in value)
    if not low < high:
        raise broken_rule(name, value, "None or (low, high)")
    return low, high


def _row(table, what):
    def rule(name, value):
        lookup(table, value, what)
        return value

    return rule


def _number(**bounds):
    return lambda name, value: number(name, value, **bounds)


def _optional(rule):
    return lambda name, value: None if value is None else rule(name, value)


def _integer(minimum=1):
    return lambda name, value: integer(name, value, minimum=minimum)


def _shape(name, value):
    return tuple(integer(name, size, minimum=1) for size in np.atleast_1d(value).tolist())


# What each setting may be; trainers use them too.
RULES = {
    "training_method": _row(TRAINING_METHODS, "training method"),
    "mcmc_steps": _integer(),
    "step_size": _number(above=0.0),
    "noise_scale": _optional(_number(minimum=0.0)),
    "gradient_clipping": _optional(_number(above=0.0)),
    "replay_buffer_size": _integer(),
    "replay_buffer_init_prob": _number(minimum=0.0, maximum=1.0),
    "sigmas": _levels,
    "energy_regularization": _number(minimum=0.0),
    "gradient_penalty_weight": _number(minimum=0.0),
    "sampler": _row(SAMPLERS, "sampler"),
    "leapfrog_steps": _integer(),
    "data_noise": _number(minimum=0.0),
    "value_range": _range,
    "num_classes": _optional(_integer(2)),
    "generative_weight": _number(minimum=0.0),
    "divergence_threshold": _number(above=0.0),
    "input_shape": _optional(_shape),
}
