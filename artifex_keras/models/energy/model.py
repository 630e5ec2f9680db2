"""Energy-based models, ``p(x) ∝ e^{-E(x)}``: by contrastive divergence or by their score."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from artifex_keras.aliases import Data, Limits, Shape, Tensor
from artifex_keras.arguments import broken_rule, checked, number
from artifex_keras.backend import compiled, input_gradient
from artifex_keras.models import checks, data_contract
from artifex_keras.models.base import GenerativeModel
from artifex_keras.models.energy.chains import Chains, ChainSampler
from artifex_keras.models.energy.labels import Labelled
from artifex_keras.models.energy.methods import TRAINING_METHODS
from artifex_keras.models.energy.options import RULES, check_output, check_settings, fits
from artifex_keras.models.energy.partition import Partition
from artifex_keras.models.energy.replay import ReplayBuffer
from artifex_keras.objectives import energy as energies
from artifex_keras.objectives.masks import sum_event
from artifex_keras.renamed import renamed

__all__ = ["EnergyModel"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES)
class EnergyModel(Chains, Labelled, Partition, GenerativeModel):
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
        divergence_threshold: an epoch whose mean gap between energies exceeds it counts as one
            whose loss is no number: see `on_nan` of `compile`.
        input_shape: of one example, for a network that doesn't know it; else from the data.
        ema_decay: see `GenerativeModel`.
        seed: makes training and sampling repeatable.

    Metrics: `loss`, `energy_data`, and those in use of `energy_neg`, `energy_gap` (negatives less
    data: above 0 while the network says them apart), `acceptance`, `gradient_penalty` (‖∇E‖²),
    `classification_loss` and `accuracy`.

    Raises:
        ValueError: for a network that doesn't give one number an example; a batch larger than the
            buffer; settings that the method or the sampler has no use for.

    Example:

    ```python
    import keras
    import numpy as np

    import artifex_keras as ak

    x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    energy = ak.EnergyModel(network, mcmc_steps=5)
    energy.compile("adam")
    energy.fit(x, epochs=1, verbose=0)
    new, slope = energy.sample(3), energy.score(x)  # (3, 2), (64, 2)
    ```
    """

    served = ("sample", "energy")
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
    may_be_positive = ("energies",)
    remedies = (
        "a smaller `step_size`",
        "`energy_regularization` (0.1, say)",
        "`gradient_penalty_weight`",
        "spectral normalisation of the network (`networks.mlp_critic(..., spectral_norm=True)`)",
    )
    live_options = (
        "step_size",
        "noise_scale",
        "gradient_clipping",
        "replay_buffer_init_prob",
        "energy_regularization",
        "gradient_penalty_weight",
        "data_noise",
        "generative_weight",
    )
    zero_options = ("gradient_penalty_weight", "data_noise")
    metric_names = {
        "energy_data": None,
        "energy_neg": None,
        "energy_gap": None,
        "acceptance": None,
        "gradient_penalty": None,
        "classification_loss": "min",
        "accuracy": "max",
    }

    def __init__(
        self,
        energy: keras.layers.Layer,
        *,
        training_method: str = "cd",
        mcmc_steps: int = 20,
        step_size: float = 0.01,
        noise_scale: float | None = None,
        gradient_clipping: float | None = None,
        replay_buffer_size: int = 10000,
        replay_buffer_init_prob: float = 0.95,
        sigmas: float | Sequence[float] = 0.1,
        energy_regularization: float = 0.0,
        gradient_penalty_weight: float = 0.0,
        sampler: str = "langevin",
        leapfrog_steps: int = 10,
        data_noise: float = 0.0,
        value_range: Limits | None = None,
        num_classes: int | None = None,
        generative_weight: float = 1.0,
        divergence_threshold: float = 1e4,
        input_shape: Shape | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.network = checks.network("energy", energy)
        given = {name: value for name, value in locals().items() if name in RULES}
        for name, value in given.items():
            setattr(self, name, value)
        check_settings(self)
        self.buffer = self.label_spec = None
        inputs = getattr(energy, "inputs", None) or []
        self.conditional = len(inputs) == 2
        if input_shape is not None or inputs:
            shape = inputs[0].shape if input_shape is None else (None, *self.input_shape)
            if inputs and not fits(shape, inputs[0].shape):
                known = tuple(inputs[0].shape[1:])
                raise broken_rule("input_shape", input_shape, f"{known}, as for the network")
            self.build(shape, inputs[1] if self.conditional else None)

    @property
    def sampler(self):
        """The name of what runs the chains; called, `sampler()` of any model: a `Sampler`."""
        return ChainSampler(self._chain_sampler, super().sampler)

    @sampler.setter
    def sampler(self, name):
        self._chain_sampler = str(name)

    # Building and checking

    def build(self, input_shape, condition=None):
        """Builds the network for data of this shape, for `condition` the labels' spec."""
        if self.built:
            return
        self.conditional = condition is not None and self.num_classes is None
        spec = keras.KerasTensor(condition.shape, condition.dtype) if self.conditional else None
        self.label_spec = spec
        data = keras.KerasTensor((None, *input_shape[1:]), dtype="float32")
        checks.takes("network", self.network, data.shape, "The data")
        check_output(self, self.network([data, spec] if self.conditional else data))
        self.data_shape = tuple(input_shape[1:])
        if self._method.keeps_chains:
            self.buffer = ReplayBuffer(
                self.replay_buffer_size, self.value_range, self._first_seed, name="buffer"
            )
            self.buffer.build(self.data_shape, spec)
        self.finish_build((None, *self.data_shape), spec)

    def check_batch(self, x, y):
        check_settings(self)
        if self.built:
            checks.data_shape(x, self.data_shape)
            self._check_labels(y)

    def data_contract(self):
        condition, finite = self._label_values(), data_contract.FINITE
        data = finite
        if self.value_range is not None:
            low, high = self.value_range
            data = data_contract.Values(
                f"The data must lie in `value_range`, [{low:g}, {high:g}].",
                low=low,
                high=high,
                cure="Scale the data, or widen `value_range`.",
            )
        return data_contract.Contract(x=data, y=condition, inputs=(finite, condition))

    def reseed(self, seed):
        """Starts all noise anew at `seed`, and the chains of a model that wasn't trained yet."""
        super().reseed(seed)
        if self.buffer is not None and int(ops.convert_to_numpy(self.step)) == 0:
            self.buffer.restart(self._first_seed)

    def constructor_networks(self):
        return {"energy": self.network, "sampler": self._chain_sampler}

    def get_config(self):
        config = super().get_config() | {"sampler": self._chain_sampler}
        config["energy"] = config.pop("network")
        return config

    @property
    def unbounded(self):
        return {"network": "energies" if self.num_classes is None else "logits"}

    @property
    def limits(self):
        return {"energy_gap": self.divergence_threshold}

    # The energy

    def _output(self, x, y=None, training=False):
        inputs = [x, y] if self.conditional else x
        return ops.cast(self.network(inputs, training=training), "float32")

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
    def _method(self):
        """The row of `TRAINING_METHODS`."""
        return TRAINING_METHODS[self.training_method]

    @property
    def noise_levels(self):
        """The σ of denoising score matching as a tuple, the largest first."""
        sigmas = self.sigmas if isinstance(self.sigmas, list) else [self.sigmas]
        return tuple(sorted(sigmas, reverse=True))

    @property
    def annealed(self):
        """Whether the energy was learned at several σ."""
        return self._method.takes_sigmas and len(self.noise_levels) > 1

    @property
    def temperature(self):
        """T of the density ``e^{-E/T}`` that was trained and is sampled from; 1 in general.

        A `noise_scale` of its own makes it noise_scale²/step_size where chains draw the negatives.
        """
        if self.noise_scale is None or self._method.start is None:
            return 1.0
        return energies.effective_temperature(self.step_size, self.noise_scale)

    # The objective

    def update(self, batch):
        negatives = self._negatives(batch.x, batch.y, training=True)
        return self.descend(
            lambda: self.reduced(self._terms(batch, negatives, True), batch.weight, self),
            self.trainable_variables,
            weight=batch.weight,
        )

    def objective(self, batch, training):
        negatives = self._negatives(batch.x, batch.y, training=training)
        return self._terms(batch, negatives, training)

    def _terms(self, batch, negatives, training):
        self._check_labels(batch.y)
        x = ops.cast(batch.x, "float32")
        if training and self.uses("data_noise"):
            x = x + self.data_noise * self.normal(ops.shape(x))
        y = batch.y if self.conditional else None
        output = self._output(x, y, training)
        positive = self._energy_of(output)
        terms = {"energy_data": positive}
        terms |= self._method.terms(self, x, y, positive, negatives, training)
        if self.uses("gradient_penalty_weight"):
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

    # Use

    def call(self, inputs, training=False):
        """Energies (B,) of data, or of `[data, labels]`."""
        x, y = inputs if self.conditional else (inputs, None)
        x = ops.cast(x, "float32")
        if training:
            return self._energies(x, y, True)
        with self.ema_weights():
            return self._energies(x, y) / self._level(None)

    @renamed(labels="condition")
    def energy(self, x: Data, condition: Tensor = None, *, sigma: float | None = None) -> Tensor:
        """E(x), (B,), up to a constant in nats. For a classifier, labels as a `condition` select
        the joint energy E(x, y).

        After denoising at several σ it is that at `sigma`, by default the smallest.
        """
        x, labels = self._asked(x, condition, "energy")
        return self._energy_program(x, labels, sigma=self._level(sigma))

    @compiled
    def _energy_program(self, x, y, sigma):
        with self.ema_weights():
            return self._energies(x, y) / sigma

    @renamed(labels="condition")
    def score(self, x: Data, condition: Tensor = None, *, sigma: float | None = None) -> Tensor:
        """-∇E(x), of the shape of x: the gradient of ln p. Arguments as for `energy`."""
        x, labels = self._asked(x, condition, "score")
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
        self._check_built(method, x, labels)
        data_contract.check(data_contract.FINITE, x)
        x = ops.cast(ops.convert_to_tensor(x), "float32")
        checks.data_shape(x, self.data_shape)
        if labels is not None or self.conditional:
            labels = self._labels(labels, x.shape[0])
        return x, labels
