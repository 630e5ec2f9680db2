"""Variational autoencoders (1312.6114), with the objectives that grew from them."""

from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import (
    boolean,
    bounded,
    checked,
    count,
    integer,
    known_name,
    lookup,
    number,
)
from artifex_keras.backend import compiled
from artifex_keras.models import checks, data_contract
from artifex_keras.models.base import GenerativeModel
from artifex_keras.models.vae.codes import Codes
from artifex_keras.models.vae.condition import Conditioned, beside
from artifex_keras.models.vae.divergence import Divergence
from artifex_keras.models.vae.likelihood import Likelihood
from artifex_keras.models.vae.reconstructions import RECONSTRUCTIONS
from artifex_keras.models.vae.running_variance import RunningVariance, training_nll
from artifex_keras.objectives import elbo
from artifex_keras.objectives.masks import sum_event

__all__ = ["VAE"]

ANNEALINGS = {True: "linear", False: "none", None: "none"}


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    cyclical_period=count(optional=True),
    beta=bounded(minimum=0.0),
    free_bits=bounded(minimum=0.0),
    capacity=bounded(minimum=0.0, optional=True),
    tc_weight=bounded(minimum=0.0, optional=True),
)
class VAE(Codes, Conditioned, Divergence, Likelihood, GenerativeModel):
    """A variational autoencoder: `fit(images)`, then `sample(n)`, `reconstruct(x)`, `encode(x)`.

    The loss is the negative evidence lower bound in nats per example, with a weighted divergence,

        L = -ln p(x|z) + β w(t) KL(q(z|x) ‖ N(0, I)),    z = μ + σ ε,

    summed over event dimensions and averaged over the batch. Validation uses the final weight,
    w = 1, and `elbo` is reported at β w = 1 always.

    Args:
        encoder: a network from data to `(mean, log_var)`, or to one tensor of twice the latent
            width, the means first.
        decoder: a network from latent codes to data: means, or logits for `"bce"` (and, with
            one more axis of K levels, for `"categorical"`). For a conditional model (1406.5298)
            the encoder takes `[x, condition]` and the decoder `[z, condition]`: call
            `fit(x, condition)` and `sample(n, condition)`.
        reconstruction: -ln p(x|z). `"mse"` is the plain sum of squares (a Gaussian of variance ½ up
            to constants), `"mae"` the sum of absolute errors, `"bce"` Bernoulli from logits for
            data in [0, 1], `"gaussian"` a proper Gaussian likelihood, `"categorical"` one of K
            levels 0..K-1 per dimension.
        beta: β.
        kl_annealing: how w(t) rises from 0 to 1 over the updates t: `"none"`, `"linear"` (also
            True), `"sigmoid"`, or `"cyclical"` with period `cyclical_period` (1903.10145).
        kl_warmup_steps: updates until w = 1.
        cyclical_period: updates per cycle; by default twice `kl_warmup_steps`.
        free_bits: λ in Σ_g max(λ, batch mean of KL_g), nats per latent dimension (1606.04934).
        variance: of the `"gaussian"` likelihood: a number, `"learned"` or `"optimal"`. Learned is
            the weight `log_variance`, which Adam moves by about its learning rate a step. Optimal
            is in training the batch's mean squared error (2006.13202), of which evaluation and
            likelihood use the running mean, the weight `running_variance`. A decoder with two
            outputs gives the log-variance itself.
        num_importance_samples: K > 1 trains the importance-weighted bound (1509.00519).
        capacity: final C, in nats, of γ|KL - C(t)| in the divergence's place (1804.03599), which
            rises over `capacity_steps` updates; γ is `beta`.
        capacity_steps: see `capacity`.
        tc_weight: the weight of the total correlation in MI + weight·TC + dimension-wise KL, in
            the divergence's place (β-TCVAE, 1802.04942); needs `dataset_size`.
        dataset_size: number of training examples, for `tc_weight`.
        ema_decay: see `GenerativeModel`.
        seed: makes training and sampling repeatable.

    Metrics: `loss`, `reconstruction_loss`, `kl_loss` (the true divergence, nats), `kl_weight`,
    `elbo`.

    Example:

    ```python
    import numpy as np

    import artifex_keras as ak

    x = np.random.default_rng(0).random((64, 4), "float32")
    vae = ak.VAE(ak.networks.mlp_encoder(4, 2, (8,)), ak.networks.mlp_decoder(2, 4, (8,)))
    vae.compile("adam")
    vae.fit(x, epochs=1, verbose=0)
    new = vae.sample(3)  # (3, 4)
    ```
    """

    served = ("sample", "encode", "decode")
    submodels = ("encoder", "decoder")
    options = (
        "reconstruction",
        "beta",
        "kl_annealing",
        "kl_warmup_steps",
        "cyclical_period",
        "free_bits",
        "variance",
        "num_importance_samples",
        "capacity",
        "capacity_steps",
        "tc_weight",
        "dataset_size",
        "ema_decay",
        "seed",
    )
    live_options = ("beta", "free_bits", "capacity", "tc_weight")
    zero_options = ("free_bits",)
    metric_names = {
        "reconstruction_loss": "min",
        "kl_loss": "min",
        "kl_weight": None,
        "elbo": "max",
    }
    remedies = (
        "an annealed divergence (`kl_annealing`, `kl_warmup_steps`)",
        "a fixed `variance` of a Gaussian decoder",
    )
    latest_metrics = ("kl_weight",)

    def __init__(
        self,
        encoder: keras.layers.Layer,
        decoder: keras.layers.Layer,
        *,
        reconstruction: str = "mse",
        beta: float = 1.0,
        kl_annealing: str = "none",
        kl_warmup_steps: int = 0,
        cyclical_period: int | None = None,
        free_bits: float = 0.0,
        variance: float | str = "learned",
        num_importance_samples: int = 1,
        capacity: float | None = None,
        capacity_steps: int = 0,
        tc_weight: float | None = None,
        dataset_size: int | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.encoder = checks.network("encoder", encoder)
        self.decoder = checks.network("decoder", decoder)
        row = lookup(RECONSTRUCTIONS, reconstruction, "reconstruction")
        self.reconstruction = reconstruction
        self.beta = beta
        self.kl_annealing = _annealing(kl_annealing)
        self.kl_warmup_steps = integer("kl_warmup_steps", kl_warmup_steps)
        self.cyclical_period = cyclical_period
        self.free_bits = free_bits
        self.variance = _variance(variance)
        self.num_importance_samples = integer(
            "num_importance_samples", num_importance_samples, minimum=1
        )
        self.capacity = capacity
        self.capacity_steps = integer("capacity_steps", capacity_steps)
        self.tc_weight = tc_weight
        self.dataset_size = integer("dataset_size", dataset_size, minimum=1, optional=True)
        self._check_one_divergence()
        self.latent_shape = None
        self.condition_spec = self._spec_of_networks()
        if row.has_variance and self.variance == "learned":
            self.log_variance = self.add_weight(
                name="log_variance", shape=(), initializer="zeros", dtype="float32"
            )
        if row.has_variance and self.variance == "optimal":
            self.running_variance = RunningVariance(name="running_variance")
            self.running_variance.build()
        if encoder.built and getattr(encoder, "inputs", None):
            self.build(encoder.inputs[0].shape, self.condition_spec)

    @property
    def quiet_metrics(self):
        """`elbo` is minus the sum of two others; the weight of the divergence changes in training
        alone, where it is annealed."""
        weight = "kl_weight" if self.kl_annealing == "none" else "val_kl_weight"
        return ("elbo", weight)

    @property
    def data_have_scale(self):
        return not RECONSTRUCTIONS[self.reconstruction].has_levels

    @property
    def makes_data(self):
        row = RECONSTRUCTIONS[self.reconstruction]
        return None if row.has_levels or self.reconstruction == "bce" else "decoder"

    @property
    def unbounded(self):
        row = RECONSTRUCTIONS[self.reconstruction]
        logits = row.has_levels or self.reconstruction == "bce"
        return {"encoder": "means and log-variances"} | ({"decoder": "logits"} if logits else {})

    # Building and checking

    def build(self, input_shape, condition=None):
        """Builds both networks for data of this shape and checks that they fit together."""
        if self.built:
            return
        self.condition_spec = condition
        data = keras.KerasTensor((None, *input_shape[1:]), dtype="float32")
        checks.takes("encoder", self.encoder, data.shape, "The data")
        mean, _ = self._moments(self.encoder(_symbols(data, condition)))
        self.latent_shape = tuple(mean.shape[1:])
        codes = keras.KerasTensor((None, *self.latent_shape), dtype="float32")
        checks.takes("decoder", self.decoder, codes.shape, "The encoder's latent code")
        output = self.decoder(_symbols(codes, condition))
        for part in output if isinstance(output, (list, tuple)) else [output]:
            self._check_output(part.shape, input_shape)
        self.data_shape = tuple(input_shape[1:])
        self.finish_build((None, *self.data_shape), condition)

    def _check_output(self, shape, data_shape):
        expected = None
        if RECONSTRUCTIONS[self.reconstruction].has_levels:
            pixels = data_shape[1:-1] if data_shape[-1] == 1 else data_shape[1:]
            stacked = len(shape) == len(data_shape) + 1
            expected = (*(data_shape[1:] if stacked else pixels), shape[-1])
        checks.same_event_shape("decoder", shape, data_shape, expected=expected)

    def _moments(self, output):
        """`(mean, log_var)` in float32, whichever way the encoder gives them."""
        if isinstance(output, (list, tuple)) and len(output) == 2:
            mean, log_var = output
        elif not isinstance(output, (list, tuple)) and output.shape[-1] % 2 == 0:
            mean, log_var = ops.split(output, 2, axis=-1)
        else:
            shapes = keras.tree.map_structure(lambda part: tuple(part.shape), output)
            raise ValueError(
                "The encoder must give `[mean, log_var]` or one tensor of twice the "
                f"latent width. Received: output of shape {shapes}."
            )
        if tuple(mean.shape[1:]) != tuple(log_var.shape[1:]):
            raise ValueError(
                "The encoder's `mean` and `log_var` must have one shape. Received: "
                f"{tuple(mean.shape)} and {tuple(log_var.shape)}."
            )
        return ops.cast(mean, "float32"), elbo.bounded_log_var(ops.cast(log_var, "float32"))

    def check_batch(self, x, y):
        self._check_condition(y)
        if self.kl_annealing != "none" and not (self.kl_warmup_steps or self.cyclical_period):
            raise ValueError(
                f"kl_annealing={self.kl_annealing!r} needs `kl_warmup_steps`, the "
                "updates until the full weight. Received: kl_warmup_steps=0."
            )
        if self.built:
            checks.data_shape(x, self.data_shape)

    def data_contract(self):
        row = RECONSTRUCTIONS[self.reconstruction]
        values = row.levels(self._levels) if row.has_levels else row.values
        condition = self.condition_values()
        return data_contract.Contract(x=values, y=condition, inputs=(values, condition))

    # The objective

    def objective(self, batch, training):
        self._check_condition(batch.y)
        x, given = ops.cast(batch.x, "float32"), batch.y
        mean, log_var = self._posterior(x, training, given)
        divergences = elbo.gaussian_kl_per_dimension(mean, log_var)
        kl = sum_event(divergences)
        weight = self._kl_weight(training)
        if self.num_importance_samples > 1:
            log_likelihood, log_ratio = self._importance_terms(
                x, mean, log_var, self.num_importance_samples, training, batch.weight, given
            )
            loss = -elbo.importance_weighted_bound(log_likelihood + weight * log_ratio)
            reconstruction = -ops.mean(log_likelihood, axis=0)
        else:
            z = self._draw(mean, log_var)
            reconstruction = self._nll(x, self._decoded(z, training, given), training, batch.weight)
            loss = reconstruction + self._divergence(
                z, mean, log_var, divergences, weight, batch.weight, training
            )
        return {
            "loss": loss,
            "reconstruction_loss": reconstruction,
            "kl_loss": kl,
            "kl_weight": weight,
            "elbo": -(reconstruction + kl),
        }

    def _posterior(self, x, training=False, condition=None):
        if RECONSTRUCTIONS[self.reconstruction].has_levels:
            x = x / (self._levels - 1)
        return self._moments(self.encoder(beside(x, condition), training=training))

    @property
    def _levels(self):
        codes = (None, *self.latent_shape)
        shapes = codes if self.condition_spec is None else [codes, self.condition_spec.shape]
        return self.decoder.compute_output_shape(shapes)[-1]

    def _draw(self, mean, log_var):
        return mean + ops.exp(0.5 * log_var) * self.normal(ops.shape(mean))

    def _decoded(self, z, training=False, condition=None):
        """The decoder's output in float32: a tensor, or mean and log-variance."""
        output = self.decoder(beside(z, condition), training=training)
        return keras.tree.map_structure(lambda part: ops.cast(part, "float32"), output)

    def _nll(self, x, output, training=False, weight=None):
        """-ln p(x|z) in nats, (B,), but for the constants that `log_likelihood` adds."""
        row = RECONSTRUCTIONS[self.reconstruction]
        if not row.has_variance:
            return row.nll(x, output)
        if isinstance(output, (list, tuple)):
            return elbo.gaussian_nll(x, output[0], elbo.bounded_log_var(output[1]))
        if self.variance == "optimal" and training:
            return training_nll(self.running_variance, x, output, weight)
        return elbo.gaussian_nll(x, output, self._log_variance())

    def _log_variance(self):
        if self.variance == "learned":
            return elbo.bounded_log_var(ops.convert_to_tensor(self.log_variance))
        if self.variance == "optimal":
            return self.running_variance.log_var()
        return ops.convert_to_tensor(np.log(self.variance), dtype="float32")

    # Use

    def method_specs(self, name, rows, options):
        if name == "decode":
            return [keras.InputSpec(shape=(rows, *self.latent_shape), dtype="float32", name="z")]
        return super().method_specs(name, rows, options)

    def call(self, inputs, training=False):
        """The reconstruction of `x` or `[x, condition]` from the posterior's mean."""
        x, condition = inputs if self.conditional else (inputs, None)
        x = ops.cast(x, "float32")
        if training:
            return self._mean_of(
                self._decoded(self._posterior(x, True, condition)[0], True, condition)
            )
        with self.ema_weights():
            mean = self._posterior(x, condition=condition)[0]
            return self._mean_of(self._decoded(mean, condition=condition))

    def _mean_of(self, output):
        """The mean of p(x|z) in the data's units."""
        if isinstance(output, (list, tuple)):
            output = output[0]
        row = RECONSTRUCTIONS[self.reconstruction]
        mean = row.mean(output)
        return ops.reshape(mean, (-1, *self.data_shape)) if row.has_levels else mean

    def sample(self, n: int = 1, condition: Tensor = None, *, seed: int | None = None) -> Tensor:
        """`n` examples: the means of p(x|z) for codes z from N(0, I).

        A conditional model needs a `condition`, one or `n` of them. With a `seed` the same examples
        each time; without, the next ones of the model's stream.

        Example:

        ```python
        import artifex_keras as ak

        vae = ak.VAE(ak.networks.mlp_encoder(4, 2, (8,)), ak.networks.mlp_decoder(2, 4, (8,)))
        examples = vae.sample(5, seed=0)  # (5, 4)
        ```
        """
        self._check_built("sample")
        n = integer("n", n, minimum=1)
        condition = self._conditions(condition, n)
        with self.drawing_from(seed):
            return self._sampled_program(condition, n=n)

    @compiled
    def _sampled_program(self, condition, n):
        codes = self.normal((n, *self.latent_shape))
        with self.ema_weights():
            return self._mean_of(self._decoded(codes, condition=condition))


def _symbols(x, condition):
    return x if condition is None else [x, condition]


def _annealing(value):
    """The name of a row of `KL_SCHEDULES`."""
    try:
        value = ANNEALINGS[None if value is None else boolean("kl_annealing", value)]
    except ValueError:
        pass  # a name, or nothing that there is
    return known_name(value, elbo.KL_SCHEDULES, "KL annealing")


def _variance(value):
    if isinstance(value, str):
        lookup({"learned": None, "optimal": None}, value, "variance")
        return value
    return number("variance", value, above=0.0)
