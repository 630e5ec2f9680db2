"""The reward of an algorithm: it may be set again; models among it are frozen, and saved."""

import keras

from artifex_keras.backend import keras_internals
from artifex_keras.rl.base import FineTuning
from artifex_keras.rl.rewards import Rewards, rewards_config, rewards_from_config

__all__ = ["Rewarded"]


class Rewarded(FineTuning):
    """The part of an on-policy algorithm that holds its `reward_fn`."""

    @property
    def reward_fn(self):
        """The reward. It may be set: a Python function isn't saved with its model."""
        return self._reward_fn

    @reward_fn.setter
    def reward_fn(self, reward_fn):
        self.rewards = Rewards(
            reward_fn,
            self.reward_weights,
            tokenizer=self.tokenizer,
            end_token_ids=self.actor.end_token_ids,
        )
        for model in _reward_models(reward_fn):
            self._freeze(model)
        self._replace_reward(reward_fn)
        self.watch(self.metric_names_of(self.rewards, self.actor))
        self.forget_programs()

    def _replace_reward(self, reward_fn):
        """Takes the place of the reward before, whose weights are forgotten."""
        with keras_internals.unlocked(self):
            if hasattr(self, "_reward_fn"):
                for model in _reward_models(self._reward_fn):
                    keras_internals.untrack(self, model)
                del self._reward_fn  # torch would only put a model in a model's place
            self._reward_fn = reward_fn

    def guarded_layers(self):
        return _reward_models(self._reward_fn) + super().guarded_layers()

    def _freeze(self, reward):
        """Freezes a reward model: neither gradients nor weight decay reach it."""
        if {id(w) for w in reward.weights} & {id(w) for w in self.policy.weights}:
            raise ValueError(
                "`reward_fn` must not share weights with the policy, which would train its own "
                f"reward. Received: {reward.name!r}. Give a copy."
            )
        sizes = [getattr(a, "vocabulary_size", None) for a in (reward, self.actor)]
        if self.actor.tokens and None not in sizes and sizes[0] != sizes[1]:
            raise ValueError(
                "`reward_fn` must read the policy's tokens. Received: the reward model "
                f"{reward.name!r} with {sizes[0]} tokens, for a policy of {sizes[1]}."
            )
        reward.trainable = False

    def constructor_networks(self):
        return super().constructor_networks() | {"reward_fn": self.reward_fn}

    def get_config(self):
        return super().get_config() | {"reward_fn": rewards_config(self.reward_fn)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["reward_fn"] = rewards_from_config(config.get("reward_fn"), custom_objects)
        return super().from_config(config, custom_objects)


def _reward_models(reward_fn):
    """The models among rewards."""
    rewards = reward_fn if isinstance(reward_fn, (list, tuple)) else [reward_fn]
    return [reward for reward in rewards if isinstance(reward, keras.Layer)]
