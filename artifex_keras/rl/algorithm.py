"""What all algorithms that learn from rewards are given, and check: their options and parts."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from artifex_keras.arguments import (
    boolean,
    bounded,
    checked,
    dictionary,
    factor,
    integer,
    lookup,
    number,
    optional,
    row_of,
    share,
)
from artifex_keras.datasets.tokenizers import as_tokenizer
from artifex_keras.models.metrics import KnownMean
from artifex_keras.objectives import policy as objectives
from artifex_keras.rl.data import PromptData
from artifex_keras.rl.learning import Learning
from artifex_keras.rl.policies import policy_of
from artifex_keras.rl.policies.references import check_syncable, resolve_reference
from artifex_keras.rl.rewarded import Rewarded
from artifex_keras.rl.rollout_weights import DTYPES
from artifex_keras.rl.step import RewardStep
from artifex_keras.rl.traced_turns import TracedPlaying
from artifex_keras.rl.turns import Playing

__all__ = ["OnPolicy"]

KL_PLACES = {"loss": "loss", "reward": "reward"}


@checked(
    asynchronous_rewards=boolean,
    rollout_dtype=optional(row_of(DTYPES, "dtype")),
    sampling=optional(dictionary),
    mask_truncated=boolean,
    temperature=factor,
    kl_coeff=bounded(minimum=0.0),
    target_kl=bounded(above=0.0, optional=True),
    reference_mixup=share,
)
class OnPolicy(RewardStep, PromptData, Rewarded, Playing, TracedPlaying, Learning):
    """The base of the algorithms that learn from the policy's own completions.

    A step of `fit` takes a batch of P prompts, samples G completions of each, has them rewarded,
    and updates the policy. All of it is one compiled program where all rewards are Keras models or
    `traceable`; otherwise two, between which Python rewards run on the host.

    A subclass gives in `experience(rollout, rewards, kl)` the advantages of a rollout's actions,
    and in `terms(experience)` the loss.

    Args:
        policy: the model to train, see `rl.policies.policy_of`.
        reward_fn: ``reward_fn(prompts, completions, **columns)`` gives N = P·G numbers, None where
            it doesn't apply; or a list of such functions, see `rl.rewards.Rewards`.
        environment: in place of `reward_fn`: a class, or a function without arguments, that makes
            what the policy plays with in turns, one for each completion. ``reset(**columns)``
            gives the text that follows the prompt ("" for none), ``step(text)`` is given what the
            policy wrote, up to `max_new_tokens` a turn, and gives the text that it reads next, a
            reward and whether the episode is over. The reward of an episode is the sum of those
            of its turns. See `rl.environments.Environments`. A class marked `rl.traceable` has
            methods of tensors, inside the compiled step.
        max_turns: turns of an episode at most, 10 by default. One that isn't over then is cut off,
            as is one that the network's context has no room for: `truncated` is their share.
        reward_weights: of the functions, 1 each by default.
        reward_timeout: seconds in which a Python reward must answer, else a TimeoutError ends
            `fit`; None waits for ever. It then runs in a thread of its own, which Python can't end.
            Of environments the seconds of a turn, all of a batch together.
        reward_retries: how often a Python reward that raises an `Exception`, is late, or gives
            something else than N numbers is asked again for the same completions.
        asynchronous_rewards: whether Python rewards run in a thread while the next batch is
            sampled, for rewards that take as long as that or longer. Each batch of an epoch but the
            first is then sampled with the weights before the last update; the first, and the one
            after a checkpoint within an epoch, with those of the moment. An `importance_cap` weighs
            for that; PPO's ratio does so itself. Not with an `environment`, nor in several
            processes. Validation waits for its rewards. After Ctrl-C `fit` waits for the reward
            that is running.
        max_new_tokens: how long a completion may get; for policies of tokens.
        max_prompt_length: tokens of a prompt at most, the last ones; None cuts nothing. For prompts
            that are not batches yet.
        num_generations: G, how many completions of each prompt.
        temperature: of sampling, and of all log-probabilities.
        end_token_id: an id, or several, of which any ends a completion.
        pad_token_id: what stands after the end, and what is taken off the end of an array's
            prompts.
        tokenizer: `encode` and `decode`: then prompts may be texts, and rewards are given texts.
        sampling: options of a policy of denoising steps: `num_steps`, `guidance_scale`, ...
        rollout_dtype: "bfloat16" samples with a copy of the weights in that dtype, made once a
            step: half the bytes to send under a `rollout_mesh` of `distributed.model_parallel`,
            and to read for each token where the network computes in it, as under
            `mixed_bfloat16`. Quantised layers keep theirs. Completions are then those of a
            slightly different policy, for which an `importance_cap` weighs. "float16" and
            "float32" likewise, None samples with the weights as they are. On TensorFlow weights
            are rounded alone, which spares nothing.
        kl_coeff: β, how much a divergence from the reference costs; 0 needs no reference.
        kl_estimator: a row of `objectives.policy.KL_ESTIMATORS`.
        kl_in: where the divergence goes, "loss" or "reward".
        reference: what the policy is compared with: None copies it as it is now, "lora_off" is the
            policy without its LoRA weights, or another model.
        reference_sync_steps: moves the reference after so many steps towards the policy, by the
            share `reference_mixup` of the way.
        num_epochs: updates with each completion.
        num_minibatches: updates that a batch is divided into, in a fresh order each epoch.
        target_kl: no further updates with a batch once the policy has moved 1.5 times as far, in
            nats per action.
        mask_truncated: completions that didn't end by themselves, or episodes that were cut off,
            teach nothing.
        chunk_size: how many tokens' logits exist at a time, see `SFT`.
        ema_decay, seed: see `GenerativeModel`.
    """

    options = (
        "reward_weights",
        "reward_timeout",
        "reward_retries",
        "asynchronous_rewards",
        "max_turns",
        "num_generations",
        "max_new_tokens",
        "max_prompt_length",
        "temperature",
        "end_token_id",
        "pad_token_id",
        "sampling",
        "rollout_dtype",
        "reference_sync_steps",
        "reference_mixup",
        "mask_truncated",
        "chunk_size",
        "ema_decay",
        "seed",
    )
    remedies = (
        "rewards of a size near 1",
        "a smaller `clip_param`, or a `target_kl`",
        "a divergence from the reference (`kl_coeff`; `beta` of GRPO)",
    )
    live_options = ("temperature", "reference_mixup")
    derived_options = ("kl_coeff", "num_epochs", "_has_end_token", "min_generations")
    counts = "completions"
    kl_name = "kl_coeff"  # what β is called
    min_generations = 1
    reduction = "bnpo"  # a row of `objectives.policy.REDUCTIONS`: what the loss is a mean over
    also_greedy = False  # rewards a greedy completion of each prompt too, in training
    update_metrics = {}  # of each update, besides those of all algorithms, as in `metric_names`
    rollout_metrics = {}  # of each rollout, besides those of all algorithms

    def __init__(
        self,
        policy: keras.Model,
        reward_fn: Any = None,
        *,
        environment: Any = None,
        max_turns: int | None = None,
        reward_weights: Sequence[float] | None = None,
        reward_timeout: float | None = None,
        reward_retries: int = 0,
        asynchronous_rewards: bool = False,
        max_new_tokens: int | None = None,
        max_prompt_length: int | None = None,
        num_generations: int = 1,
        temperature: float = 1.0,
        end_token_id: int | None = None,
        pad_token_id: int | None = None,
        tokenizer: Any = None,
        sampling: Mapping[str, Any] | None = None,
        rollout_dtype: str | None = None,
        kl_coeff: float = 0.0,
        kl_estimator: str = "k1",
        kl_in: str = "reward",
        reference: keras.Model | str | None = None,
        reference_sync_steps: int | None = None,
        reference_mixup: float = 1.0,
        num_epochs: int = 1,
        num_minibatches: int = 1,
        target_kl: float | None = None,
        mask_truncated: bool = False,
        chunk_size: int | str | None = "auto",
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        actor = policy_of(
            policy,
            max_new_tokens=max_new_tokens,
            temperature=None if temperature == 1 else temperature,
            end_token_id=end_token_id,
            pad_token_id=pad_token_id,
            **(sampling or {}),
        )
        if actor.tokens and max_new_tokens is None:
            raise ValueError("`max_new_tokens` must say how long a completion may get.")
        tokenizer = actor.tokenizer if tokenizer is None else as_tokenizer(tokenizer)
        self.rollout_dtype = rollout_dtype
        self.max_turns = integer("max_turns", max_turns, minimum=1, optional=True)
        self.reward_weights = reward_weights
        self.reward_retries = integer("reward_retries", reward_retries)
        self.asynchronous_rewards = asynchronous_rewards
        rewards = self.rewards_of(reward_fn, environment, actor, tokenizer)
        self.kl_in = lookup(KL_PLACES, kl_in, "place of the divergence")
        self.kl_estimator = kl_estimator
        lookup(objectives.KL_ESTIMATORS, kl_estimator, "KL estimator")
        if self.kl_in == "loss" and kl_estimator == "k1":
            raise ValueError(
                "`kl_estimator='k1'` has no gradient in the loss, in expectation: it would hold "
                "nothing. Choose 'k3_is' (or 'k2'), or kl_in='reward'."
            )
        reference = resolve_reference(reference, actor, kl_coeff > 0)
        self._has_reference = reference is not None
        self._has_end_token = actor.tokens and actor.end_token_ids is not None
        if mask_truncated and not self._has_end_token and not self._plays(environment):
            raise ValueError(
                "`mask_truncated` needs an `end_token_id`: without one nothing ends by itself."
            )
        self.num_generations = integer(
            "num_generations", num_generations, minimum=self.min_generations
        )
        names = self.metric_names_of(rewards, actor)
        super().__init__(ema_decay=ema_decay, seed=seed, metric_names=names, **kwargs)
        self.keep_policy(policy, actor, reference)
        self.keep_chunks(chunk_size, actor)
        self.keep_tokens(tokenizer, end_token_id, pad_token_id, sampling)
        self.reward_timeout = number("reward_timeout", reward_timeout, above=0.0, optional=True)
        if rewards and not rewards.on_host and (reward_timeout is not None or reward_retries):
            raise ValueError(
                "`reward_timeout` and `reward_retries` are for Python rewards: models and "
                "traceable functions are part of the compiled step. Received: "
                f"reward_timeout={reward_timeout}, reward_retries={reward_retries}."
            )
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self._follow_temperature()
        self.max_prompt_length = integer(
            "max_prompt_length", max_prompt_length, minimum=1, optional=True
        )
        self.kl_coeff = kl_coeff
        self.reference_sync_steps = integer(
            "reference_sync_steps", reference_sync_steps, minimum=1, optional=True
        )
        if self.reference_sync_steps is not None:
            check_syncable(reference, actor)
        self.reference_mixup = reference_mixup
        self.num_epochs = integer("num_epochs", num_epochs, minimum=1)
        self.num_minibatches = integer("num_minibatches", num_minibatches, minimum=1)
        self.target_kl = target_kl
        self.mask_truncated = mask_truncated
        self._tables, self._example = {}, None
        self.renew_rewards(reward_fn, environment)
        self._keep_updating = self.add_weight(
            name="going",  # files of earlier versions have this weight by this name
            shape=(),
            dtype="bool",
            initializer="ones",
            trainable=False,
        )
        self.build_average()
        self.built = True

    # Options that are set later

    def _is_live(self, name):
        if name == "temperature":  # denoising steps have none
            return self.actor.tokens
        if name in ("kl_coeff", "beta"):
            return self._has_reference
        return super()._is_live(name)

    def get_config(self):
        return super().get_config() | self._without_reference()

    def constructor_networks(self):
        return super().constructor_networks() | self._without_reference()

    def _without_reference(self):
        """What leaves a reference out that nothing looks at."""
        return {} if getattr(self, self.kl_name) else {"reference": None}

    def _adopt(self, probe):
        super()._adopt(probe)
        self._follow_temperature()
        self.renew_rewards()

    def _follow_temperature(self):
        """Lets the policy act at the temperature of the moment."""
        if self.actor.tokens:
            self.actor.temperature = functools.partial(getattr, self, "temperature")

    def metric_names_of(self, rewards, actor):
        each = [f"reward_{name}" for name in rewards.names] if len(rewards.names) > 1 else []
        in_use = {
            "flat_groups": self.num_generations > 1,
            "entropy": actor.tokens,
            "kl": self._has_reference,
            "completion_length": actor.tokens,
            "truncated": self._has_end_token or rewards.plays,
            "turns": rewards.plays,
            "approx_kl": True,
        }
        return {
            "reward": "max",
            "reward_std": None,
            **dict.fromkeys(each, "max"),
            **dict.fromkeys(name for name, used in in_use.items() if used),
            **self.update_metrics,
            **self.rollout_metrics,
        }

    def _tracker_type(self, name):
        rewards = name.startswith("reward") or name == "greedy_reward"
        return KnownMean if rewards else super()._tracker_type(name)
