"""The reward of an algorithm: it may be set again; models among it are frozen, and saved."""

import keras

from artifex_keras.backend import keras_internals
from artifex_keras.rl.asynchronous import AsynchronousRewards
from artifex_keras.rl.environments import (
    Environments,
    environment_config,
    environment_from_config,
)
from artifex_keras.rl.rewards import Rewards, rewards_config, rewards_from_config
from artifex_keras.rl.traced_turns import TraceableEnvironment

__all__ = ["Rewarded"]


class Rewarded(AsynchronousRewards):
    """The part of an on-policy algorithm that holds its `reward_fn`."""

    @property
    def reward_fn(self):
        """The reward. It may be set: a Python function isn't saved with its model."""
        return self._reward_fn

    @reward_fn.setter
    def reward_fn(self, reward_fn):
        self.rewards = self.rewards_of(reward_fn, self.environment, self.actor, self.tokenizer)
        for model in _reward_models(reward_fn):
            self._freeze(model)
        self._replace_reward(reward_fn)
        self.watch(self.metric_names_of(self.rewards, self.actor))
        self.forget_programs()

    @property
    def environment(self):
        """What makes the environments. It may be set: it is saved with its model only if it is
        registered by `keras.saving.register_keras_serializable`."""
        return getattr(self, "_environment", None)

    @environment.setter
    def environment(self, environment):
        given = (self.reward_fn, environment, self.actor, self.tokenizer)
        self.rewards = self.rewards_of(*given)
        self._environment = environment
        self.watch(self.metric_names_of(self.rewards, self.actor))
        self.forget_programs()

    def renew_rewards(self, *given):
        """Takes reward function and environment, by default those that there are, as new."""
        reward_fn, environment = given or (self.reward_fn, self.environment)
        self.reward_fn = reward_fn
        if environment is not None:
            self.environment = environment

    def rewards_of(self, reward_fn, environment, actor, tokenizer):
        """The `Rewards` of a reward function, or the `Environments` of an environment."""
        read_by = {"tokenizer": tokenizer, "end_token_ids": actor.end_token_ids}
        if environment is None:
            self._forbid_turns(reward_fn)
            rewards = Rewards(reward_fn, self.reward_weights, **read_by)
            self.check_asynchronous(rewards, self._plays(None))
            return rewards
        self._check_environment(actor, reward_fn)
        traced = getattr(environment, "_traceable", False) is True
        return (TraceableEnvironment if traced else Environments)(environment, **read_by)

    def _plays(self, environment):
        """Whether episodes are played; of a model without a reward `max_turns` says it."""
        return environment is not None or self.max_turns is not None

    def _forbid_turns(self, reward_fn):
        if reward_fn is not None and self.max_turns is not None:
            raise ValueError(
                "`max_turns` is for an `environment`: a `reward_fn` is asked once, for a whole "
                f"completion. Received: max_turns={self.max_turns} and a `reward_fn`."
            )

    def _check_environment(self, actor, reward_fn):
        """Raises a ValueError for what doesn't go with an environment."""
        if reward_fn is not None:
            raise ValueError(
                "`reward_fn` and `environment` can't both be given: the environment gives the "
                f"rewards. Received: reward_fn={reward_fn!r}. Leave one out."
            )
        if not actor.tokens:
            raise ValueError(
                "`environment` is for policies of tokens, which write and read in turns. Received: "
                f"policy={type(actor.model).__name__}. Give a `reward_fn`."
            )
        if self.also_greedy:
            raise ValueError(
                "`baseline='greedy'` doesn't go with an `environment`: there is no likeliest "
                "episode. Choose 'batch', 'loo' or 'moving'."
            )
        self.check_asynchronous(None, plays=True)
        for name in ("reward_weights", "reward_retries"):
            value = getattr(self, name)
            if value:
                raise ValueError(
                    f"`{name}` is for a `reward_fn`: an environment gives one reward, and can't do "
                    f"a turn again. Received: {name}={value!r}."
                )

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
        rewards = {"reward_fn": self.reward_fn, "environment": self.environment}
        return super().constructor_networks() | rewards

    def get_config(self):
        config = super().get_config() | {"reward_fn": rewards_config(self.reward_fn)}
        return config | {"environment": environment_config(self.environment)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["reward_fn"] = rewards_from_config(config.get("reward_fn"), custom_objects)
        environment = config.get("environment")
        if environment is not None:
            config["environment"] = environment_from_config(environment, custom_objects)
        return super().from_config(config, custom_objects)


def _reward_models(reward_fn):
    """The models among rewards."""
    rewards = reward_fn if isinstance(reward_fn, (list, tuple)) else [reward_fn]
    return [reward for reward in rewards if isinstance(reward, keras.Layer)]
