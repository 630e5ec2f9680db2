"""Learning from a rollout: its advantages, and the updates of the policy."""

import functools

import keras
from keras import ops

from artifex_keras.backend import repeat, when
from artifex_keras.objectives import policy as objectives
from artifex_keras.objectives.masks import weighted_mean
from artifex_keras.rl.base import FineTuning
from artifex_keras.rl.policies.references import reference_scores

__all__ = ["Learning"]

STOP_FACTOR = 1.5  # of `target_kl`, at which the updates with a batch end


class Learning(FineTuning):
    """The part of an on-policy algorithm that updates its policy."""

    def learn(self, rollout, rewards):
        """Updates the policy with a rollout and its rewards (N,). Gives the logs, means over the
        updates, with what they are means over: `tokens`, `actions`, and `counted` by the loss's
        reduction."""
        mask, kl, reference, logs = rollout.mask, None, None, {}
        if self.mask_truncated:
            mask = mask * rollout.ended[:, None]
            rollout = rollout._replace(mask=mask)
        if self._has_reference:
            score = functools.partial(self.actor.score, rollout)
            reference = reference_scores(self.reference, self.actor, score)
            reference = reference._replace(features=None)
            x = rollout.log_probs, reference.log_probs
            far = ops.where(mask > 0, objectives.kl_estimate(*x, "k3"), 0.0)
            logs["kl"] = weighted_mean(far, mask)
            if self.kl_in == "reward":
                kl = ops.where(mask > 0, objectives.kl_estimate(*x, "k1"), 0.0)
        experience, more = self.experience(rollout, rewards, kl)
        experience, logs = experience._replace(reference=reference), logs | more
        counts = self._counts(experience)
        logs |= {"tokens": ops.sum(mask), **counts}
        if self.num_epochs == self.num_minibatches == 1:
            return logs | self._update(experience, counts)
        count = mask.shape[0]
        self.check_minibatches(count)
        self._keep_updating.assign(ops.ones((), "bool"))
        order = ops.argsort(self.uniform((self.num_epochs, count), rows=None), axis=1)
        order = ops.reshape(order, (-1, count // self.num_minibatches))
        updates = repeat(functools.partial(self._update_with_rows, experience), order)
        ran, actions, counted = map(updates.pop, ("ran", "actions", "counted"))
        weights = {**dict.fromkeys(self._means_over_actions, actions), "loss": counted}
        return logs | {n: weighted_mean(v, weights.get(n, ran)) for n, v in updates.items()}

    @property
    def _means_over_actions(self):
        return ("approx_kl", "entropy", *self.update_metrics)

    def _counts(self, experience):
        """The actions that count, and what the loss is a mean over."""
        mask = experience.rollout.mask
        weight = objectives.reduction_weight(mask, self.reduction)
        return {"actions": ops.sum(mask), "counted": weight}

    def experience(self, rollout, rewards, kl):
        """`(Experience, logs)`: the advantages of a rollout's actions, and metrics of them.

        Args:
            rewards: (N,), NaN where none applies.
            kl: the divergence of each action from the reference (N, T), in nats, where it is part
                of the reward; else None.
        """
        raise NotImplementedError

    def terms(self, experience):
        """The terms of an update: `loss` and metrics, scalars."""
        raise NotImplementedError

    def _update(self, experience, counts):
        """One step of the optimizer, with what `_counts` gives. Gives the logs."""

        def objective():
            logs = self.terms(experience)
            for loss in self.actor.model.losses:
                logs["loss"] += ops.cast(loss, "float32")
            return logs

        return self.descend(objective, self.trainable_variables, weight=counts["counted"])

    def _update_with_rows(self, experience, index):
        """One update with the rows `index`, unless the policy has moved beyond `target_kl`."""
        minibatch = keras.tree.map_structure(
            lambda rows: ops.take(rows, index, axis=0), experience, none_is_leaf=False
        )
        counts = {"ran": ops.ones(()), **self._counts(minibatch)}
        if self.target_kl is None:
            return self._update(minibatch, counts) | counts

        def update():
            logs = self._update(minibatch, counts)
            self._keep_updating.assign(logs["approx_kl"] <= STOP_FACTOR * self.target_kl)
            return logs | counts

        def skip():
            names = ["loss", "approx_kl", *self.update_metrics, *counts]
            names += ["entropy"] if self.actor.tokens else []
            names += [self._norm_name(self.optimizer)] if self.gradient_norms else []
            return {name: ops.zeros(()) for name in names}

        return when(ops.convert_to_tensor(self._keep_updating), update, skip)

    def learned_prompts(self, prompts):
        """From how many of a batch's prompts the updates learn."""
        return prompts

    def check_minibatches(self, *counts):
        """Raises a ValueError unless `num_minibatches` divides the completions of each batch."""
        for count in counts:
            if count % self.num_minibatches:
                raise ValueError(
                    "`num_minibatches` must divide the completions of each batch. Received: "
                    f"num_minibatches={self.num_minibatches}, {count} completions "
                    f"({count // self.num_generations} prompts, {self.num_generations} each)."
                )
