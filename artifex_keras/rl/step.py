"""Learning from rewards: a step of `fit` samples completions, rewards them and updates the policy.

`begin_on` samples, `on_host` asks the Python rewards, `finish_on` asks the others and updates. With
an environment episodes are played between the two, see `turns.py`.
"""

import functools

import keras
import numpy as np
from keras import ops

from artifex_keras.backend import SHAPES_ARE_KNOWN, processes
from artifex_keras.backend.actors import actors
from artifex_keras.objectives.advantages import group_std
from artifex_keras.objectives.masks import known_mean
from artifex_keras.rl import rollout_weights
from artifex_keras.rl.data import device_view, host_view
from artifex_keras.rl.policies.references import sync_reference
from artifex_keras.rl.turns import on_devices

__all__ = ["RewardStep"]


class RewardStep:
    """The part of an on-policy algorithm that is a step on a batch of prompts."""

    @property
    def interrupted(self):
        """Whether a step is two programs: it stops on the host between them, or others sample."""
        return self.rewards.on_host or not SHAPES_ARE_KNOWN or actors() is not None

    @property
    def has_host_part(self):
        """Whether a step asks Python for rewards."""
        return self.rewards.on_host

    def train_on(self, data, training=True):
        """One step on a batch of prompts as `fit` delivers it. Gives the logs."""
        rollout = self.begin_on(data, training)
        host_values = self.on_host(data, rollout, training)
        return self.finish_on(data, rollout, host_values, training)

    def test_on(self, data):
        return self.train_on(data, training=False)

    def begin_on(self, data, training):
        """Samples completions of a batch of prompts: a `Rollout`. With an environment what its
        episodes begin with."""
        with self._in_phase("train" if training else "evaluate"):
            x = keras.utils.unpack_x_y_sample_weight(data)[0]
            prompts = self.actor.unpack(keras.tree.map_structure(ops.convert_to_tensor, x))
            if self.rewards.plays and self.rewards.on_host:
                return self.begin_episodes(prompts)
            sample = self.sample_rollout
            if self.rewards.plays:
                sample = functools.partial(self.traced_rollout, x)
            if training:
                return sample(prompts, greedy=self.also_greedy)
            with self.ema_weights():
                return sample(prompts)

    def sample_rollout(self, prompts, greedy=False):
        """A `Rollout` of G completions of each prompt, with the weights of the moment."""
        options = {"greedy": True} if greedy else {}
        options |= {"group_size": self.num_generations, "draw": self}
        rollout = functools.partial(self.actor.rollout, **options)
        return rollout_weights.sample(rollout, prompts, self.actor, self.rollout_dtype)

    def _group_size(self, training):
        """How many completions of each prompt are rewarded; the last may be the greedy one."""
        return self.num_generations + int(training and self.also_greedy)

    def on_host(self, data, rollout, training):
        """The values of the rewards that run on the host: NumPy (N, number of these)."""
        phase = "train" if training else "evaluate"
        x = keras.utils.unpack_x_y_sample_weight(data)[0]
        values = self.host_rewards(x, rollout, phase, self._group_size(training))
        self.rewards.require_one(values)
        return values

    def host_rewards(self, x, rollout, phase, group_size):
        """What `on_host` gives, for prompts of "train", "evaluate" or "table"."""
        if not self.rewards.on_host:
            return ()
        view = host_view(self, x, rollout, phase, group_size)
        # One process asks for the rewards, and all learn from the same answer.
        patience = {"timeout": self.reward_timeout, "retries": self.reward_retries}
        return processes.on_first_process(functools.partial(self.rewards.host, *view, **patience))

    def symbolic_on_host(self, rollout):
        """What `on_host` gives for rollouts of such a shape, as symbols, for plans."""
        if self.rewards.plays:
            raise ValueError(
                "A step with an `environment` can't be planned: how long episodes are is known "
                "when they are played. Plan a `reward_fn` with `max_new_tokens` of a whole episode."
            )
        rows = rollout.completion.shape[0]
        return keras.KerasTensor((rows, self.rewards.count_on_host), "float32")

    def finish_on(self, data, rollout, host_values, training):
        """Rewards a rollout and, in training, learns from it. Gives the logs."""
        group_size = self._group_size(training)
        x = keras.utils.unpack_x_y_sample_weight(data)[0]
        if self.rewards.plays and self.rewards.on_host:
            rollout = on_devices(rollout)
        view = device_view(self.actor, x, rollout, group_size)
        values = self.rewards.values(host_values, view)
        rewards = self.rewards.combined(values)
        if group_size > self.num_generations:
            rollout, values, rewards = _split_greedy(group_size, rollout, values, rewards)
        logs = self._rollout_logs(rollout, values, rewards)
        if training:
            with self._in_phase("train"):
                logs |= self.learn(rollout, rewards)
                if self.mask_truncated:
                    logs["loss"] = _shown_as_nan(logs["loss"], rollout)
            self.step.assign_add(1)
            if self.reference_sync_steps is not None:
                due = self.step % self.reference_sync_steps == 0
                sync_reference(self.reference, self.actor, due, self.reference_mixup)
        weights = self._weights(values, rewards)
        if training:
            counts = dict.fromkeys(self._means_over_actions, logs.pop("actions"))
            weights |= {**counts, "kl": logs.pop("tokens")}
            # A loss that is no number is seen, even if nothing counts.
            counted = logs.pop("counted")
            weights["loss"] = ops.where(ops.isfinite(logs["loss"]), counted, 1.0)
        return self._recorded(logs, ops.ones_like(rewards), weights)

    def _weights(self, values, rewards):
        """How much a batch's rewards count in the means of an epoch: as the completions to which
        they apply."""
        each = {f"reward_{name}": values[:, i] for i, name in enumerate(self.rewards.names)}
        each |= {"reward": rewards, "reward_std": rewards}
        applies = {name: ops.logical_not(ops.isnan(value)) for name, value in each.items()}
        return {name: ops.sum(ops.cast(each, "float32")) for name, each in applies.items()}

    def _rollout_logs(self, rollout, values, rewards):
        """The metrics of a rollout and its rewards."""
        mean = known_mean(rewards)
        variance = known_mean(ops.square(rewards - mean))
        logs = {"reward": mean, "reward_std": ops.sqrt(variance)}
        if len(self.rewards.names) > 1:
            for index, name in enumerate(self.rewards.names):
                logs[f"reward_{name}"] = known_mean(values[:, index])
        if self.num_generations > 1:
            flat = group_std(rewards, self.num_generations) == 0
            logs["flat_groups"] = ops.mean(ops.cast(flat, "float32"))
        if self.actor.tokens:
            logs["completion_length"] = ops.mean(ops.sum(rollout.mask, axis=1))
        if self._has_end_token or self.rewards.plays:
            logs["truncated"] = 1.0 - ops.mean(rollout.ended)
        if self.rewards.plays:
            logs["turns"] = ops.mean(rollout.turns)
        return logs


def _shown_as_nan(loss, rollout):
    """The loss, NaN where the policy is: all its completions may be truncated and count nothing."""
    scores = ops.where(rollout.mask > 0, rollout.log_probs, 0.0)
    return ops.where(ops.any(ops.isnan(scores)), np.nan, loss)


def _split_greedy(size, rollout, values, rewards):
    """Rollout, values and rewards without the last, greedy one of each `size` rows, whose reward
    the others of its group get as `greedy_reward`."""

    def others(rows):
        groups = ops.reshape(rows, (-1, size, *rows.shape[1:]))[:, :-1]
        return ops.reshape(groups, (-1, *rows.shape[1:]))

    rollout, values = keras.tree.map_structure(others, (rollout, values), none_is_leaf=False)
    last = ops.repeat(ops.reshape(rewards, (-1, size))[:, -1], size - 1, axis=0)
    return rollout._replace(greedy_reward=last), values, others(rewards)
