"""How a discriminator is trained: its loss, and what keeps it smooth."""

from keras import ops

from artifex_keras.backend import input_gradient, when
from artifex_keras.objectives import adversarial
from artifex_keras.objectives.masks import mean_event

__all__ = ["Discrimination"]


class Discrimination:
    """The part of a `GAN` that trains its discriminator."""

    def _discriminator_step(self, batch):
        with self.frozen_batch_stats(self.generator):
            fake = ops.stop_gradient(self._generated(batch.y, ops.shape(batch.x)[0], True))
        optimizer, variables = self.discriminator_optimizer, self.discriminator.trainable_variables
        logs = self.descend(
            lambda: self._d_logs(self._discriminator_terms(batch, fake), batch.weight),
            variables,
            optimizer,
            weight=batch.weight,
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
        a = self._logits(x, batch.y, training=True)
        b = self._logits(fake, batch.y, training=True)
        smoothing = (
            {"label_smoothing": self.label_smoothing} if self.uses("label_smoothing") else {}
        )
        loss = adversarial.GAN_LOSSES[self.loss_type].critic.per_example(a, b, **smoothing)
        terms = {"d_real": mean_event(a), "d_fake": mean_event(b)}
        if self.uses("gp_weight"):
            terms["gp_loss"] = self._gradient_penalty(x, fake, batch.y)
            loss += self.gp_weight * terms["gp_loss"]
        if self.uses("lecam_weight"):
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
            return input_gradient(lambda x: mean_event(self._logits(x, labels, training=True)), x)

    def _penalties(self, real, fake, labels):
        """½‖∇D‖² per example on real and on generated ones, those in use."""
        penalties = {}
        if self.uses("r1_weight"):
            penalties["r1_loss"] = adversarial.r1_penalty(self._slope(real, labels))
        if self.uses("r2_weight"):
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

        names = [f"{name}_loss" for name in ("r1", "r2") if self.uses(f"{name}_weight")]

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
            average_now = self.lecam_decay * old + (1 - self.lecam_decay) * mean
            average.assign(ops.where(first, mean, average_now))
        started = ops.cast(ops.greater_equal(self.step, max(self.lecam_warmup, 1)), "float32")
        return started * adversarial.lecam(a, b, *before)
