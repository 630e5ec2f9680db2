"""Generative adversarial networks (1406.2661): two networks, two optimizers, one `fit`."""

from typing import Any

import keras
from keras import ops

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import bounded, checked, integer, known_name
from artifex_keras.backend import compiled, repeat
from artifex_keras.models import checks, data_contract
from artifex_keras.models.base import GenerativeModel
from artifex_keras.models.conditioning import label_values, repeated
from artifex_keras.models.gan.discriminator import Discrimination
from artifex_keras.models.gan.inputs import (
    check_codes,
    input_count,
    label_input,
    takes_labels,
)
from artifex_keras.models.gan.optimizers import TwoOptimizers
from artifex_keras.objectives import adversarial
from artifex_keras.objectives.masks import mean_event
from artifex_keras.renamed import renamed

__all__ = ["GAN"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    gp_weight=bounded(minimum=0.0),
    r1_weight=bounded(minimum=0.0),
    r2_weight=bounded(minimum=0.0),
    lecam_weight=bounded(minimum=0.0),
    lecam_decay=bounded(minimum=0.0, below=1.0),
    label_smoothing=bounded(minimum=0.0, maximum=0.5),
)
class GAN(Discrimination, TwoOptimizers, GenerativeModel):
    """A generator trained against a discriminator: `fit(images)`, then `sample(n)`.

    Each batch is split into `d_steps` equal parts, one for each step of the discriminator, so that
    every step sees real examples it has not seen and noise of its own; a generator step of the
    size of one part follows. So choose a batch of `d_steps` times the discriminator's; where it
    doesn't divide, the first examples serve twice.

    A step changes the statistics (of batch normalisation, say) of the network that it trains only.

    Args:
        generator: a network from codes (B, latent_dim), or `[codes, labels]`, to data.
        discriminator: a network from data, or `[data, labels]`, to logits.
        latent_dim: width of the codes, which are drawn from N(0, I).
        loss_type: `"vanilla"` (non-saturating), `"wasserstein"`, `"hinge"`, `"lsgan"` or
            `"relativistic"` (with `r1_weight` and `r2_weight`: R3GAN, 2501.05441).
        d_steps: discriminator steps per batch.
        gp_weight: λ of λ(‖∇D‖ - 1)² between real and generated examples (WGAN-GP, 1704.00028).
        r1_weight: γ of γ/2 E‖∇D‖² on real examples (1801.04406).
        r2_weight: the same on generated examples.
        r1_every: with k > 1 R1 and R2 get a step of their own after every k-th step of the
            discriminator, weighted by k; the discriminator's learning rate then is multiplied by
            k/(k+1) and its decays β are raised to that power, for it makes k+1 steps in the time of
            k (1912.04958 appendix B).
        label_smoothing: s of one-sided smoothing, (1-s) sp(-a) + s sp(a); `"vanilla"` only.
        lecam_weight: weight of the LeCam regulariser (2104.03310), whose moving averages of the
            logits have the decay `lecam_decay`; it starts after `lecam_warmup` batches.
        lecam_decay: see `lecam_weight`.
        lecam_warmup: see `lecam_weight`.
        ema_decay: decay of the generator's average, statistics included; see `GenerativeModel`.
        seed: makes training and sampling repeatable.

    Metrics: `d_loss` (all that the discriminator minimises), `g_loss`, `loss` (their sum), the
    mean logits `d_real` and `d_fake`, and, unweighted, those in use of `gp_loss` (‖∇D‖ - 1)²,
    `r1_loss` and `r2_loss` ½‖∇D‖², `lecam_loss`.

    Example:

    ```python
    import numpy as np

    import artifex_keras as ak

    x = np.random.default_rng(0).random((64, 4), "float32")
    generator, critic = ak.networks.mlp_generator(2, 4, (8,)), ak.networks.mlp_critic(4, (8,))
    gan = ak.GAN(generator, critic, latent_dim=2)
    gan.compile("adam")
    gan.fit(x, epochs=1, verbose=0)
    new = gan.sample(3)  # (3, 4)
    ```
    """

    submodels = ("generator", "discriminator")
    options = (
        "latent_dim",
        "loss_type",
        "d_steps",
        "gp_weight",
        "r1_weight",
        "r2_weight",
        "r1_every",
        "label_smoothing",
        "lecam_weight",
        "lecam_decay",
        "lecam_warmup",
        "ema_decay",
        "seed",
    )
    remedies = (
        "a gradient penalty (`r1_weight`, or `gp_weight` of a Wasserstein critic)",
        "spectral normalisation of the discriminator (`networks.mlp_critic(spectral_norm=True)`)",
        "a discriminator that ends without an activation",
    )
    live_options = (
        "gp_weight",
        "r1_weight",
        "r2_weight",
        "label_smoothing",
        "lecam_weight",
        "lecam_decay",
    )
    zero_options = ("gp_weight", "r1_weight", "r2_weight", "label_smoothing", "lecam_weight")
    fixed_options = {"r1_every": "the compiled optimizer depends on it. Set it before `compile`"}
    metric_names = {  # a game: what one network gains the other loses
        "d_loss": None,
        "g_loss": None,
        "d_real": None,
        "d_fake": None,
        "gp_loss": None,
        "r1_loss": None,
        "r2_loss": None,
        "lecam_loss": None,
    }

    def __init__(
        self,
        generator: keras.layers.Layer,
        discriminator: keras.layers.Layer,
        latent_dim: int,
        *,
        loss_type: str = "vanilla",
        d_steps: int = 1,
        gp_weight: float = 0.0,
        r1_weight: float = 0.0,
        r2_weight: float = 0.0,
        r1_every: int = 1,
        label_smoothing: float = 0.0,
        lecam_weight: float = 0.0,
        lecam_decay: float = 0.99,
        lecam_warmup: int = 1000,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.generator = checks.network("generator", generator)
        self.discriminator = checks.network("discriminator", discriminator)
        self.latent_dim = integer("latent_dim", latent_dim, minimum=1)
        self.loss_type = known_name(loss_type, adversarial.GAN_LOSSES, "GAN loss")
        self.d_steps = integer("d_steps", d_steps, minimum=1)
        self.gp_weight, self.lecam_weight = gp_weight, lecam_weight
        self.r1_weight, self.r2_weight = r1_weight, r2_weight
        self.r1_every = integer("r1_every", r1_every, minimum=1)
        self.label_smoothing, self.lecam_decay = label_smoothing, lecam_decay
        self.lecam_warmup = integer("lecam_warmup", lecam_warmup)
        self._mean_logits = [
            self.add_weight(
                name=f"mean_{which}_logit",
                shape=(),
                initializer="zeros",
                dtype="float32",
                trainable=False,
            )
            for which in ("real", "fake")
        ]
        self.label_spec = None
        self.conditional = takes_labels(generator, discriminator)
        check_codes(generator, latent_dim)
        if input_count(generator) and input_count(discriminator):
            self.build(discriminator.inputs[0].shape, label_input(generator))

    makes_data = "generator"

    @property
    def unbounded(self):
        return {} if self.loss_type == "lsgan" else {"discriminator": "logits"}

    # Building and checking

    @property
    def averaged_parts(self):
        return [self.generator]

    def build(self, input_shape, condition=None):
        """Builds both networks for data of this shape, for `condition` the labels' spec."""
        if self.built:
            return
        self.conditional, self.label_spec = condition is not None, condition
        codes = keras.KerasTensor((None, self.latent_dim), dtype="float32")
        made = self.generator([codes, condition] if self.conditional else codes)
        checks.same_event_shape("generator", made.shape, (None, *input_shape[1:]))
        checks.takes("discriminator", self.discriminator, made.shape, "The generator's output")
        self.discriminator([made, condition] if self.conditional else made)
        self.data_shape = tuple(made.shape[1:])
        self.finish_build((None, *self.data_shape), condition)

    def check_batch(self, x, y):
        self._check_options()
        if self.built:
            checks.data_shape(x, self.data_shape)
            self._check_condition(y)

    def data_contract(self):
        condition = self._label_values()
        return data_contract.Contract(y=condition, inputs=(data_contract.FINITE, condition))

    def _label_values(self):
        """What values labels may have."""
        return label_values([self.generator, self.discriminator], self.label_spec)

    def _check_options(self):
        if self.label_smoothing and not adversarial.GAN_LOSSES[self.loss_type].critic.smooths:
            raise ValueError(
                "`label_smoothing` belongs to loss_type='vanilla'. Received: "
                f"label_smoothing={self.label_smoothing}, loss_type="
                f"{self.loss_type!r}."
            )
        if self.r1_every > 1 and not (self.r1_weight or self.r2_weight):
            raise ValueError(
                "`r1_every` needs `r1_weight` or `r2_weight`. Received: r1_every="
                f"{self.r1_every} with both weights 0."
            )

    def _is_fixed(self, name):
        return self.compiled

    def _check_condition(self, y):
        hint = "For a class-conditional GAN let both networks take [input, labels]."
        checks.condition("GAN", y, self.label_spec, hint)
        checks.condition_shape(y, self.label_spec)

    # The step

    def update(self, batch):
        batches = self._split(batch)
        if self.d_steps == 1:
            logs = self._discriminator_step(batch)
        else:
            logs = {
                name: ops.mean(values)
                for name, values in repeat(self._discriminator_step, batches).items()
            }
        first = keras.tree.map_structure(lambda leaf: leaf[0], batches, none_is_leaf=False)
        logs |= self._generator_step(first)
        return {**logs, "loss": logs["d_loss"] + logs["g_loss"]}

    def _split(self, batch):
        """The batch as `d_steps` batches of one size, stacked; the first examples fill the last."""
        rows = ops.shape(batch.x)[0]
        size = -(-rows // self.d_steps)
        order = ops.arange(self.d_steps * size) % rows

        def split(leaf):
            return ops.reshape(ops.take(leaf, order, axis=0), (self.d_steps, size, *leaf.shape[1:]))

        return keras.tree.map_structure(split, batch, none_is_leaf=False)

    def _generator_step(self, batch):
        def objective():
            fake = self._generated(batch.y, ops.shape(batch.x)[0], True)
            with self.frozen_batch_stats(self.discriminator):
                loss = self._generator_loss(batch, fake, training=True)
            logs = self.reduced({"loss": loss}, batch.weight, regularised=self.generator)
            return {**logs, "g_loss": logs["loss"]}

        variables, optimizer = self.generator.trainable_variables, self.generator_optimizer
        return self.descend(objective, variables, optimizer, weight=batch.weight)

    def _generator_loss(self, batch, fake, training):
        real_logits = None
        if adversarial.GAN_LOSSES[self.loss_type].generator.compares:
            real_logits = self._logits(ops.cast(batch.x, "float32"), batch.y, training)
        loss = adversarial.GAN_LOSSES[self.loss_type].generator
        return loss.per_example(self._logits(fake, batch.y, training), real_logits)

    def objective(self, batch, training):
        """The game's value on held-out data, without penalties."""
        self._check_condition(batch.y)
        fake = self._generated(batch.y, ops.shape(batch.x)[0], training)
        a = self._logits(ops.cast(batch.x, "float32"), batch.y, training)
        b = self._logits(fake, batch.y, training)
        d_loss = adversarial.GAN_LOSSES[self.loss_type].critic.per_example(a, b)
        g_loss = self._generator_loss(batch, fake, training)
        return {
            "loss": d_loss + g_loss,
            "d_loss": d_loss,
            "g_loss": g_loss,
            "d_real": mean_event(a),
            "d_fake": mean_event(b),
        }

    def _logits(self, x, labels, training=False):
        logits = self.discriminator([x, labels] if self.conditional else x, training=training)
        return ops.cast(logits, "float32")

    def _generated(self, labels, rows, training=False):
        codes = self.normal((rows, self.latent_dim))
        made = self.generator([codes, labels] if self.conditional else codes, training=training)
        return ops.cast(made, "float32")

    # Use

    def data_of_inputs(self, inputs):
        return ()  # codes say nothing of the data

    def data_spec(self, rows=None):
        """Codes are what a GAN's `call` takes."""
        return keras.InputSpec(shape=(rows, self.latent_dim), dtype="float32", name="codes")

    def call(self, inputs, training=False):
        """Data from codes (B, latent_dim), or from `[codes, labels]`."""
        if training:
            return self.generator(inputs, training=True)
        with self.ema_weights():
            return ops.cast(self.generator(inputs), "float32")

    @renamed(labels="condition")
    def sample(self, n: int = 1, condition: Tensor = None, *, seed: int | None = None) -> Tensor:
        """`n` generated examples; a conditional model needs a `condition`, one or `n` of them.

        With a `seed` the same ones each time; without, the next ones of the model's stream.

        Example:

        ```python
        import artifex_keras as ak

        generator, critic = ak.networks.mlp_generator(2, 4, (8,)), ak.networks.mlp_critic(4, (8,))
        gan = ak.GAN(generator, critic, latent_dim=2)
        examples = gan.sample(5, seed=0)  # (5, 4)
        ```
        """
        n = integer("n", n, minimum=1)
        if not self.built:
            raise ValueError(
                "`sample` needs networks that know their shapes: call `fit` or "
                "`build((None, *data_shape))` first."
            )
        data_contract.check(self._label_values(), condition)
        condition = repeated(condition, n, self.label_spec)
        self._check_condition(condition)
        with self.drawing_from(seed):
            return self._sampled_program(condition, n=n)

    @compiled
    def _sampled_program(self, labels, n):
        with self.ema_weights():
            return self._generated(labels, n)
