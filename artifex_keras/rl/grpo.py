"""Group-relative policy optimisation: completions are compared with others of their prompt."""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import (
    bounded,
    broken_rule,
    checked,
    count,
    forbid_arguments,
    known_name,
)
from artifex_keras.backend import without_gradient
from artifex_keras.objectives import advantages as estimators
from artifex_keras.objectives import policy as objectives
from artifex_keras.objectives.masks import weighted_mean
from artifex_keras.objectives.tokens import masked_sum
from artifex_keras.rl.algorithm import OnPolicy
from artifex_keras.rl.replay import GroupReplay
from artifex_keras.rl.rollout import Experience

__all__ = ["GRPO"]

# What a loss type is, besides its reduction, unless it is asked for otherwise.
LOSS_TYPES = {
    "grpo": {},
    "bnpo": {},
    "dr_grpo": {"scale": "none"},
    "dapo": {"clip_high": 0.28},
    "cispo": {"surrogate": "cispo", "reduction": "dapo", "clip_low": 1.0, "clip_high": 4.0},
}
SCALES = {True: "group", False: "none"} | {name: name for name in estimators.SCALES}


def _scale(name, value):
    plain = bool(value) if isinstance(value, np.bool_) else value
    if not isinstance(plain, bool | str) or plain not in SCALES:
        raise broken_rule(name, value, f"one of {', '.join(map(repr, SCALES))}")
    return plain


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    num_iterations=count(),
    scale_rewards=_scale,
    beta=bounded(minimum=0.0),
    clip_param=bounded(minimum=0.0),
    clip_high=bounded(minimum=0.0, optional=True),
    dual_clip=bounded(above=1.0, optional=True),
    advantage_clip=bounded(above=0.0, optional=True),
    importance_cap=bounded(above=0.0, optional=True),
    oversample=bounded(minimum=1.0),
    replay_buffer_size=count(minimum=0),
)
class GRPO(OnPolicy):
    """GRPO and its relatives: `fit(prompts)` with a `reward_fn` (2402.03300).

    Of each prompt G completions are sampled; the advantage of one is how much better it is than
    the others, ``A = (r - mean)/(std + 1e-4)``. The loss of an action is

        -min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A) + β KL,    ρ = exp(l - l_old),

    reduced over a batch as `loss_type` says. With one update per batch ρ is 1: the loss is then
    about 0 by its value, and says nothing; the reward says how it goes.

    A `Diffusion` as the policy makes this DDPO with its importance sampling (2305.13301), a
    `FlowMatching` makes it Flow-GRPO (2505.05470).

    Args:
        policy, reward_fn: see `OnPolicy`, where the other arguments stand too.
        num_generations: G, at least 2.
        max_new_tokens: C.
        temperature: of sampling.
        clip_param: ε_low, and ε_high unless `clip_high` says otherwise.
        clip_high: ε_high; with "dapo" .28 by default (2503.14476).
        beta: β; 0 needs no reference.
        kl_estimator: "k2", "k3", or "k3_is", whose gradient is that of KL(π‖π_ref) also off
            policy. "k1" is for `kl_in="reward"` alone.
        kl_in: "loss", or "reward", from which β Σ k1 is taken.
        loss_type: "grpo" means over rows of means over tokens; "bnpo" the mean over all tokens;
            "dapo" too, with its wider clip; "dr_grpo" sums divided by `max_new_tokens`, and
            advantages that aren't divided by the spread (2503.20783); "cispo" the mean over all
            tokens of ``-sg(min(ρ, 1 + ε_high)) A l``, so that no token loses its gradient
            (2506.13585), with an ε_high of 4 by default (2510.13786) and no `clip_param`.
        scale_rewards: what advantages are divided by: True or "group", "batch", False or "none".
        num_iterations: updates with each completion, μ.
        level: "token", or "sequence" for one ratio per completion (GSPO, 2507.18071), which wants
            a `clip_param` of about 3e-4.
        dual_clip: c > 1, the bound of the loss where A < 0 (1912.09729).
        advantage_clip: bounds |A|; DDPO has 5.
        importance_cap: c > 0; the loss of an action then weighs ``min(exp(l' - l_rollout), c)``, a
            constant, where l' scores the completions before the first update and l_rollout is of
            the sampling: truncated importance sampling, for rollouts of another policy or in other
            arithmetic (a cache, bfloat16). ρ is then exp(l - l'). None weighs all alike.
        oversample: learns from ``1/oversample`` of a batch's groups, rounded up, those with a
            spread of rewards first: DAPO's dynamic sampling (2503.14476). A batch of 24 prompts
            with `oversample=3` is an update with 8 groups. Where fewer than these have a spread,
            groups without any, whose advantages are 0, fill up; with no spread at all the update
            has no gradient but that of `beta`. 1 learns from all.
        replay_buffer_size: how many past groups are kept, the newest with a spread of rewards. One
            of them, chosen at random, takes the place of each group without a spread. They have the
            log-probabilities of when they were sampled, so an `importance_cap` is needed; and a
            `max_prompt_length`, as all have one width. For policies of tokens with a `reward_fn`.
            A new `reward_fn` doesn't change the rewards that are kept. 0 keeps none.

    Metrics: `reward` and each reward, `reward_std`, `flat_groups` (the share of groups without any
    spread, which teach nothing), `kl`, `approx_kl` (how far the policy has moved with this batch),
    `clip_fraction`, `entropy`, `completion_length`, `truncated`; with `oversample` `spread_groups`
    (the share with a spread of the groups learned from), with `importance_cap`
    `importance_weight`, the mean weight, with `replay_buffer_size` `replayed_groups` (the share
    of the groups learned from that are past ones). Rewards are those of all fresh groups,
    learned from or not.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        def sevens(prompts, completions):
            return [completion.count(7) for completion in completions]

        policy = ak.networks.CausalTransformer(10, 16, num_layers=1, num_heads=2, width=8)
        model = ak.GRPO(policy, sevens, max_new_tokens=3, num_generations=4)
        model.compile("adam")
        history = model.fit(np.array([[1, 2], [3, 4]]), verbose=0).history
        print(history["reward"])
        ```
    """

    min_generations = 2
    kl_name = "beta"
    update_metrics = {"clip_fraction": None}
    live_options = (
        "clip_param",
        "clip_high",
        "beta",
        "target_kl",
        "dual_clip",
        "advantage_clip",
    )
    options = (
        *OnPolicy.options,
        "clip_param",
        "clip_high",
        "beta",
        "kl_estimator",
        "kl_in",
        "loss_type",
        "scale_rewards",
        "num_iterations",
        "num_minibatches",
        "target_kl",
        "level",
        "dual_clip",
        "advantage_clip",
        "importance_cap",
        "oversample",
        "replay_buffer_size",
    )
    derived_options = ("update_metrics", "rollout_metrics")

    def __init__(
        self,
        policy: keras.Model,
        reward_fn: Any = None,
        *,
        num_generations: int = 8,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        clip_param: float = 0.2,
        clip_high: float | None = None,
        beta: float = 0.0,
        kl_estimator: str = "k3_is",
        kl_in: str = "loss",
        loss_type: str = "grpo",
        scale_rewards: bool | str = True,
        num_iterations: int = 1,
        level: str = "token",
        dual_clip: float | None = None,
        advantage_clip: float | None = None,
        importance_cap: float | None = None,
        oversample: float = 1.0,
        replay_buffer_size: int = 0,
        **common: Any,
    ):
        forbid_arguments(common, ("kl_coeff",), "GRPO's coefficient is `beta`")
        forbid_arguments(
            common, ("num_epochs",), "GRPO's updates with a completion are `num_iterations`"
        )
        if importance_cap is not None:
            self.update_metrics = {**self.update_metrics, "importance_weight": None}
        if oversample > 1:
            self.rollout_metrics = {**self.rollout_metrics, "spread_groups": "max"}
        if replay_buffer_size:
            self.rollout_metrics = {**self.rollout_metrics, "replayed_groups": None}
        super().__init__(
            policy,
            reward_fn,
            num_generations=num_generations,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            kl_coeff=beta,
            kl_estimator=kl_estimator,
            kl_in=kl_in,
            num_epochs=num_iterations,
            **common,
        )
        self.beta, self.num_iterations = beta, num_iterations
        self.clip_param = clip_param
        self.clip_high = clip_high
        self.loss_type = known_name(loss_type, LOSS_TYPES, "loss type")
        self.scale_rewards = scale_rewards
        self.level = known_name(level, objectives.LEVELS, "level of the ratio")
        self.dual_clip, self.advantage_clip = dual_clip, advantage_clip
        self.importance_cap, self.oversample = importance_cap, oversample
        self.check_cap()
        self._forbid_unused_bounds()
        self.replay_buffer_size = replay_buffer_size
        self._keep_groups()

    def _keep_groups(self):
        """Makes the replay buffer, if there is to be one."""
        self._replay = None
        if not self.replay_buffer_size:
            return
        needs = {
            "an `importance_cap`, as past groups are of older policies": self.importance_cap,
            "a policy of tokens": self.actor.tokens,
            "a `reward_fn`, and no `environment`": not self._plays(self.environment),
            "a `max_prompt_length`, the width of what is kept": self.max_prompt_length,
        }
        for need, there in needs.items():
            if not there:
                raise ValueError(
                    f"`replay_buffer_size` needs {need}. "
                    f"Received: replay_buffer_size={self.replay_buffer_size} without."
                )
        self._replay = GroupReplay(
            self,
            self.replay_buffer_size,
            self.num_generations,
            self.max_prompt_length + self.actor.num_start_tokens,
            self.max_new_tokens,
            self.actor.pad_token_id,
        )

    def _check_environment(self, actor, reward_fn):
        super()._check_environment(actor, reward_fn)
        if getattr(self, "_replay", None) is not None:
            raise ValueError(
                "`environment` doesn't go with a replay buffer, whose groups have one length. "
                f"Received: replay_buffer_size={self.replay_buffer_size}. Make a model without."
            )

    def _forbid_unused_bounds(self):
        if self.loss_type != "cispo":
            return
        for name, unused in (("clip_param", 0.2), ("dual_clip", None)):
            if getattr(self, name) != unused:
                raise ValueError(
                    f"`{name}` isn't used by loss_type='cispo', whose weights are bounded by "
                    f"`clip_high` alone: leave it out. Received: {name}={getattr(self, name)}."
                )

    def _is_live(self, name):
        unused = self.loss_type == "cispo" and name in ("clip_param", "dual_clip")
        return not unused and super()._is_live(name)

    @property
    def _variant(self):
        return LOSS_TYPES[self.loss_type]

    @property
    def reduction(self):
        return self._variant.get("reduction", self.loss_type)

    def learned_prompts(self, prompts):
        return math.ceil(prompts / self.oversample)

    def learn(self, rollout, rewards):
        logs = {}
        if self.oversample > 1:
            count = self.learned_prompts(rewards.shape[0] // self.num_generations)
            rows, share = estimators.groups_with_spread(rewards, self.num_generations, count)
            rollout, rewards = keras.tree.map_structure(
                lambda each: ops.take(each, rows, axis=0), (rollout, rewards), none_is_leaf=False
            )
            logs["spread_groups"] = share
        if self._replay is not None:
            draws = self.uniform((self.replay_buffer_size,), rows=None)
            rollout, rewards, share = self._replay.exchange(rollout, rewards, draws)
            logs["replayed_groups"] = share
        return {**logs, **super().learn(rollout, rewards)}

    @property
    def _learns_once(self):
        """Whether there is one update with a rollout, in which l' is l."""
        return self.num_epochs == self.num_minibatches == 1

    def experience(self, rollout, rewards, kl):
        if kl is not None:
            rewards = rewards - self.beta * masked_sum(kl, rollout.mask)
        scale = SCALES[self.scale_rewards]
        if self.scale_rewards is True:
            scale = self._variant.get("scale", scale)
        values = estimators.group_relative(rewards, self.num_generations, scale)
        if self.advantage_clip is not None:
            values = ops.clip(values, -self.advantage_clip, self.advantage_clip)
        if self.importance_cap is None or self._learns_once:
            return Experience(rollout, values), {}
        scores = without_gradient(functools.partial(self.actor.score, rollout))
        of_both = scores.log_probs, rollout.log_probs
        weights = objectives.importance_weights(*of_both, self.importance_cap)
        rollout = rollout._replace(log_probs=scores.log_probs)
        return Experience(rollout, values, weights=weights), {}

    def terms(self, experience):
        rollout, advantages = experience.rollout, experience.advantages
        scores = self.actor.score(rollout, entropy=self.actor.tokens)
        log_probs, mask = scores.log_probs, rollout.mask
        old, weights = rollout.log_probs, experience.weights
        if self._learns_once:
            old = ops.stop_gradient(log_probs)
            if self.importance_cap is not None:
                of_both = old, rollout.log_probs
                weights = objectives.importance_weights(*of_both, self.importance_cap)
        kl = None
        if self._has_reference and self.kl_in == "loss":
            kl = self.actor.kl(scores, experience.reference)
            if kl is None:
                pair = scores.log_probs, experience.reference.log_probs
                kl = objectives.kl_estimate(*pair, self.kl_estimator, old)
        high = self._variant.get("clip_high") if self.clip_high is None else self.clip_high
        clip = {
            "clip_low": self._variant.get("clip_low", self.clip_param),
            "clip_high": high,
            "level": self.level,
            "surrogate": self._variant.get("surrogate", "ppo"),
        }
        loss = objectives.clipped_surrogate(
            log_probs,
            old,
            advantages,
            mask,
            dual_clip=self.dual_clip,
            reduction=self.reduction,
            max_length=self.max_new_tokens or mask.shape[1],
            kl=kl,
            kl_coeff=0.0 if kl is None else self.beta,
            weights=weights,
            **clip,
        )
        logs = {
            "loss": loss,
            "approx_kl": objectives.approx_kl(log_probs, old, mask),
            "clip_fraction": objectives.clip_fraction(log_probs, old, advantages, mask, **clip),
        }
        if weights is not None:
            logs["importance_weight"] = weighted_mean(weights, mask)
        if self.actor.tokens:
            logs["entropy"] = weighted_mean(scores.entropy, mask)
        return logs
