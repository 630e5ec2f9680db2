"""Generative adversarial networks (1406.2661): two networks, two optimizers, one `fit`."""

import keras
from keras import ops

from artifex_keras.arguments import decay, integer, lookup, number
from artifex_keras.backend import compiled, input_gradient, repeat, when
from artifex_keras.gradient_accumulation import GradientAccumulation, accumulated
from artifex_keras.models import checks
from artifex_keras.models.base import GenerativeModel
from artifex_keras.objectives import adversarial
from artifex_keras.objectives.masks import mean_event
from artifex_keras.optimizers.group import OptimizerGroup
from artifex_keras.optimizers.lazy import lazily_regularised


@keras.saving.register_keras_serializable(package="artifex_keras")
class GAN(GenerativeModel):
    """A generator trained against a discriminator: `fit(images)`, then `sample(n)`.

    Each batch is cut into `d_steps` equal parts, one for each step of the discriminator, so that
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
    metric_names = (
        "d_loss",
        "g_loss",
        "d_real",
        "d_fake",
        "gp_loss",
        "r1_loss",
        "r2_loss",
        "lecam_loss",
    )

    def __init__(
        self,
        generator,
        discriminator,
        latent_dim,
        *,
        loss_type="vanilla",
        d_steps=1,
        gp_weight=0.0,
        r1_weight=0.0,
        r2_weight=0.0,
        r1_every=1,
        label_smoothing=0.0,
        lecam_weight=0.0,
        lecam_decay=0.99,
        lecam_warmup=1000,
        ema_decay=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.generator = checks.network("generator", generator)
        self.discriminator = checks.network("discriminator", discriminator)
        self.latent_dim = integer("latent_dim", latent_dim, minimum=1)
        self.loss_type = loss_type
        lookup(adversarial.GAN_LOSSES, loss_type, "GAN loss")
        self.d_steps = integer("d_steps", d_steps, minimum=1)
        for name, value in {
            "gp_weight": gp_weight,
            "r1_weight": r1_weight,
            "r2_weight": r2_weight,
            "lecam_weight": lecam_weight,
        }.items():
            setattr(self, name, number(name, value, minimum=0.0))
        self.r1_every = integer("r1_every", r1_every, minimum=1)
        self.label_smoothing = number("label_smoothing", label_smoothing, minimum=0.0, maximum=0.5)
        self.lecam_decay = decay("lecam_decay", lecam_decay)
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
        self.conditional = _takes_labels(generator, discriminator)
        _check_codes(generator, latent_dim)
        if _input_count(generator) and _input_count(discriminator):
            self.build(discriminator.inputs[0].shape, _label_input(generator))

    # Building and checking

    @property
    def averaged_parts(self):
        return [self.generator]

    def build(self, input_shape, condition=None):
        """Builds both networks for data of this shape, for `condition` the labels' spec."""
        if self.built:
            return
        self.conditional = condition is not None
        codes = keras.KerasTensor((None, self.latent_dim), dtype="float32")
        made = self.generator([codes, condition] if self.conditional else codes)
        checks.same_event_shape("generator", made.shape, (None, *input_shape[1:]))
        self.discriminator([made, condition] if self.conditional else made)
        self.data_shape = tuple(made.shape[1:])
        self.finish_build((None, *self.data_shape), condition)

    def check_batch(self, x, y):
        self._check_options()
        if self.built:
            checks.same_event_shape("generator", (None, *self.data_shape), x.shape)
            self._check_condition(y)

    def _check_options(self):
        if self.label_smoothing and self.loss_type != "vanilla":
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

    def _check_condition(self, y):
        if not self.conditional:
            checks.unconditional(
                "GAN", y, "For a class-conditional GAN let both networks take [input, labels]."
            )
        elif y is None:
            raise ValueError(
                "This GAN's networks take labels: call fit(x, labels). Received: no labels."
            )

    # Optimizers

    def compile(self, optimizer=None, discriminator_optimizer=None, **kwargs):
        """Gets both networks ready to train.

        Args:
            optimizer: the generator's.
            discriminator_optimizer: the discriminator's; by default one like the generator's.
            **kwargs: as in `GenerativeModel.compile`.
        """
        checks.compile_arguments("GAN", optimizer, {})
        optimizer = keras.optimizers.get(optimizer)
        other = keras.optimizers.get(discriminator_optimizer)
        other = None if other is optimizer or other is None else accumulated(other)
        optimizer = accumulated(optimizer)  # before it is kept for `load_model`
        if other is None:
            other = _sibling(optimizer)
        self._check_options()
        self._given = {"optimizer": optimizer, "discriminator_optimizer": other}
        if self.r1_every > 1:
            _check_every_step_updates(other)
            other = lazily_regularised(other, self.r1_every)
        super().compile(
            OptimizerGroup(
                {"generator": super().prepared(optimizer), "discriminator": super().prepared(other)}
            ),
            **kwargs,
        )

    def prepared(self, optimizer):
        return optimizer  # the group's members were prepared one by one

    @property
    def generator_optimizer(self):
        """The optimizer of the generator."""
        return self.optimizer.parts["generator"]

    @property
    def discriminator_optimizer(self):
        """The optimizer of the discriminator."""
        return self.optimizer.parts["discriminator"]

    def build_optimizer(self):
        if not self.optimizer.built:
            self.optimizer.build_parts(
                {name: getattr(self, name).trainable_variables for name in self.submodels}
            )

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            config |= {
                name: keras.saving.serialize_keras_object(optimizer)
                for name, optimizer in self._given.items()
            }
        return config

    # The step

    def update(self, batch):
        batches = self._cut(batch)
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

    def _cut(self, batch):
        """The batch as `d_steps` batches of one size, stacked; the first examples fill the last."""
        rows = ops.shape(batch.x)[0]
        size = -(-rows // self.d_steps)
        order = ops.arange(self.d_steps * size) % rows

        def cut(leaf):
            taken = ops.take(leaf, order, axis=0)
            return ops.reshape(taken, (self.d_steps, size, *leaf.shape[1:]))

        return keras.tree.map_structure(cut, batch, none_is_leaf=False)

    def _discriminator_step(self, batch):
        with self.frozen_batch_stats(self.generator):
            fake = ops.stop_gradient(self._generated(batch.y, ops.shape(batch.x)[0], True))
        optimizer, variables = self.discriminator_optimizer, self.discriminator.trainable_variables
        logs = self.descend(
            lambda: self._d_logs(self._discriminator_terms(batch, fake), batch.weight),
            variables,
            optimizer,
        )
        if self.r1_every > 1:
            logs |= self._lazy_penalties(batch, fake, optimizer, variables)
        return logs

    def _d_logs(self, terms, weight):
        logs = self.reduced(terms, weight, regularised=self.discriminator)
        logs["d_loss"] = logs["loss"]
        return logs

    def _discriminator_terms(self, batch, fake):
        x = ops.cast(batch.x, "float32")
        a = self._judged(x, batch.y, training=True)
        b = self._judged(fake, batch.y, training=True)
        smoothing = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
        loss = adversarial.GAN_LOSSES[self.loss_type].critic.per_example(a, b, **smoothing)
        terms = {"d_real": mean_event(a), "d_fake": mean_event(b)}
        if self.gp_weight:
            terms["gp_loss"] = self._gradient_penalty(x, fake, batch.y)
            loss += self.gp_weight * terms["gp_loss"]
        if self.lecam_weight:
            terms["lecam_loss"] = self._lecam(a, b, batch.weight)
            loss += self.lecam_weight * terms["lecam_loss"]
        if self.r1_every == 1:
            penalties = self._penalties(x, fake, batch.y)
            loss += self._weighted(penalties)
            terms |= penalties
        return {"loss": loss, **terms}

    def _gradient_penalty(self, real, fake, labels):
        u = self.uniform((ops.shape(real)[0],))
        between = adversarial.interpolate(real, fake, u)
        return adversarial.gradient_penalty(self._slope(between, labels))

    def _slope(self, x, labels):
        """The gradient of the discriminator's logit with respect to its input."""
        with self.frozen_batch_stats(self.discriminator):
            return input_gradient(lambda x: mean_event(self._judged(x, labels, training=True)), x)

    def _penalties(self, real, fake, labels):
        """½‖∇D‖² per example on real and on generated ones, those in use."""
        penalties = {}
        if self.r1_weight:
            penalties["r1_loss"] = adversarial.r1_penalty(self._slope(real, labels))
        if self.r2_weight:
            penalties["r2_loss"] = adversarial.r1_penalty(self._slope(fake, labels))
        return penalties

    def _weighted(self, penalties):
        weights = {"r1_loss": self.r1_weight, "r2_loss": self.r2_weight}
        return sum(weights[name] * penalty for name, penalty in penalties.items())

    def _lazy_penalties(self, batch, fake, optimizer, variables):
        """After every k-th step one more on the penalties alone, k times as heavy.

        The logged penalties are multiplied by k too, so that their mean over all steps is right.
        """

        def objective():
            penalties = self._penalties(ops.cast(batch.x, "float32"), fake, batch.y)
            terms = {name: self.r1_every * penalty for name, penalty in penalties.items()}
            return self.reduced({"loss": self._weighted(terms), **terms}, batch.weight)

        names = [
            name
            for name, weight in (("r1_loss", self.r1_weight), ("r2_loss", self.r2_weight))
            if weight
        ]

        def step():
            logs = self.descend(objective, variables, optimizer)
            return {name: logs[name] for name in names}

        # k steps and the one for the penalties: that one is due when k of each k + 1 are done.
        due = ops.equal(optimizer.iterations % (self.r1_every + 1), self.r1_every)
        return when(due, step, lambda: {name: ops.zeros((), "float32") for name in names})

    def _lecam(self, a, b, weight):
        """The penalty against the averages so far, which then move on."""
        means = [ops.stop_gradient(self._mean(mean_event(logits), weight)) for logits in (a, b)]
        before = [ops.convert_to_tensor(average) + 0.0 for average in self._mean_logits]
        first = ops.equal(self.step, 0)
        for average, old, mean in zip(self._mean_logits, before, means, strict=True):
            moved = self.lecam_decay * old + (1 - self.lecam_decay) * mean
            average.assign(ops.where(first, mean, moved))
        started = ops.cast(ops.greater_equal(self.step, max(self.lecam_warmup, 1)), "float32")
        return started * adversarial.lecam(a, b, *before)

    def _generator_step(self, batch):
        def objective():
            fake = self._generated(batch.y, ops.shape(batch.x)[0], True)
            with self.frozen_batch_stats(self.discriminator):
                loss = self._generator_loss(batch, fake, training=True)
            logs = self.reduced({"loss": loss}, batch.weight, regularised=self.generator)
            return {**logs, "g_loss": logs["loss"]}

        return self.descend(objective, self.generator.trainable_variables, self.generator_optimizer)

    def _generator_loss(self, batch, fake, training):
        real_logits = None
        if self.loss_type == "relativistic":
            real_logits = self._judged(ops.cast(batch.x, "float32"), batch.y, training)
        loss = adversarial.GAN_LOSSES[self.loss_type].generator
        return loss.per_example(self._judged(fake, batch.y, training), real_logits)

    def objective(self, batch, training):
        """The game's value on held-out data, without penalties."""
        self._check_condition(batch.y)
        fake = self._generated(batch.y, ops.shape(batch.x)[0], training)
        a = self._judged(ops.cast(batch.x, "float32"), batch.y, training)
        b = self._judged(fake, batch.y, training)
        d_loss = adversarial.GAN_LOSSES[self.loss_type].critic.per_example(a, b)
        g_loss = self._generator_loss(batch, fake, training)
        return {
            "loss": d_loss + g_loss,
            "d_loss": d_loss,
            "g_loss": g_loss,
            "d_real": mean_event(a),
            "d_fake": mean_event(b),
        }

    def _judged(self, x, labels, training=False):
        logits = self.discriminator([x, labels] if self.conditional else x, training=training)
        return ops.cast(logits, "float32")

    def _generated(self, labels, rows, training=False):
        codes = self.normal((rows, self.latent_dim))
        made = self.generator([codes, labels] if self.conditional else codes, training=training)
        return ops.cast(made, "float32")

    # Use

    def call(self, inputs, training=False):
        """Data from codes (B, latent_dim), or from `[codes, labels]`."""
        if training:
            return self.generator(inputs, training=True)
        with self.ema_weights():
            return ops.cast(self.generator(inputs), "float32")

    def sample(self, n=1, *, labels=None, seed=None):
        """`n` generated examples; a conditional model needs `labels`, one or `n` of them.

        With a `seed` the same ones each time; without, the next ones of the model's stream.
        """
        n = integer("n", n, minimum=1)
        if not self.built:
            raise ValueError(
                "`sample` needs networks that know their shapes: call `fit` or "
                "`build((None, *data_shape))` first."
            )
        self._check_condition(labels if labels is None else ops.convert_to_tensor(labels))
        with self.drawing_from(seed):
            return self._sampled_program(_repeated(labels, n), n=n)

    @compiled
    def _sampled_program(self, labels, n):
        with self.ema_weights():
            return self._generated(labels, n)


def _check_every_step_updates(optimizer):
    if isinstance(accumulated(optimizer), GradientAccumulation):
        raise ValueError(
            "`r1_every` counts updates, and an accumulating discriminator makes none in most "
            "steps. Choose r1_every=1, or no gradient accumulation."
        )


def _sibling(optimizer):
    config = optimizer.get_config()
    return type(optimizer).from_config({**config, "name": f"discriminator_{optimizer.name}"})


def _input_count(network):
    """How many inputs a network takes, or None where it doesn't say."""
    inputs = getattr(network, "inputs", None)
    return len(inputs) if inputs else None


def _takes_labels(generator, discriminator):
    counts = [_input_count(generator), _input_count(discriminator)]
    if None not in counts and counts[0] != counts[1]:
        raise ValueError(
            "Generator and discriminator must both take labels, or neither. Received: "
            f"a generator with {counts[0]}, a discriminator with {counts[1]} inputs."
        )
    return 2 in counts


def _label_input(generator):
    if _input_count(generator) != 2:
        return None
    labels = generator.inputs[1]
    return keras.KerasTensor(labels.shape, labels.dtype)


def _check_codes(generator, latent_dim):
    if _input_count(generator) and tuple(generator.inputs[0].shape[1:]) != (latent_dim,):
        raise ValueError(
            f"`latent_dim` must be the width of the generator's input. Received: "
            f"latent_dim={latent_dim}, a generator for codes of shape "
            f"{tuple(generator.inputs[0].shape[1:])}."
        )


def _repeated(labels, n):
    """`n` labels from one or from `n`."""
    if labels is None:
        return None
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == 0:
        return ops.broadcast_to(labels, (n,))
    if labels.shape[0] != n:
        raise ValueError(
            f"`labels` must be one label or n of them. Received: labels of shape "
            f"{tuple(labels.shape)}, n={n}."
        )
    return labels
