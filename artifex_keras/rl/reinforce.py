"""REINFORCE: the policy gradient, with what a reward is compared with."""

from typing import Any

import keras
from keras import ops

from artifex_keras.arguments import bounded, checked, choice, forbid_arguments, share
from artifex_keras.objectives import advantages as estimators
from artifex_keras.objectives import policy as objectives
from artifex_keras.objectives.masks import known_mean, weighted_mean
from artifex_keras.objectives.tokens import masked_sum
from artifex_keras.rl.algorithm import OnPolicy
from artifex_keras.rl.rollout import Experience

__all__ = ["REINFORCE", "RLOO"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    baseline=lambda name, value: choice(name, value, tuple(BASELINES)),
    entropy_coeff=bounded(),
    baseline_decay=bounded(minimum=0.0, below=1.0),
    importance_cap=bounded(above=0.0, optional=True),
)
class REINFORCE(OnPolicy):
    """REINFORCE: `fit(prompts)` with a `reward_fn`. The loss is

        -(R - b) Σ_t l_t,    R = r - β Σ_t k1_t,

    the sum over a completion's actions, the mean over completions, whose gradient is minus that of
    the expected reward. With γ < 1 action t has ``γ^(T-t) r`` and what follows of the penalty in
    place of R. A `Diffusion` as the policy makes this DDPO with the score function (2305.13301).

    Args:
        policy, reward_fn: see `OnPolicy`, where the other arguments stand too.
        max_new_tokens: C.
        baseline: b. "batch" is the mean of the batch, "loo" that of the other completions of the
            same prompt (RLOO, 2402.14740), "moving" that of earlier batches, "greedy" the reward of
            the likeliest tokens' completion of the same prompt (ReMax, 2310.10505), None nothing;
            "whiten" divides by the batch's spread besides, per action (REINFORCE++, 2501.03262).
            With "greedy" rewards are given G + 1 completions of each prompt in training, the last
            one being the greedy one; where they don't apply to it, the baseline is 0.
        entropy_coeff: how strongly the entropy per action is favoured.
        kl_coeff: β; 0 needs no reference.
        gamma: γ; 1 for rewards of whole completions.
        num_generations: G, at least 2 for "loo".
        baseline_decay: of the moving mean.
        importance_cap: c > 0; each action then weighs ``min(exp(l - l_rollout), c)``, a constant,
            where l_rollout is of the sampling, see `GRPO`. None weighs all alike.

    Metrics: those of `GRPO` but for `clip_fraction`; with "greedy" also `greedy_reward`, the mean
    reward of greedy completions.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        def sevens(prompts, completions):
            return [completion.count(7) for completion in completions]

        policy = ak.networks.CausalTransformer(10, 16, num_layers=1, num_heads=2, width=8)
        model = ak.REINFORCE(policy, sevens, max_new_tokens=3, num_generations=2, baseline="loo")
        model.compile("adam")
        history = model.fit(np.array([[1, 2], [3, 4]]), verbose=0).history
        print(history["reward"])
        ```
    """

    reduction = "grpo"
    options = (
        *OnPolicy.options,
        "kl_coeff",
        "baseline",
        "entropy_coeff",
        "gamma",
        "baseline_decay",
        "importance_cap",
    )

    live_options = ("kl_coeff", "entropy_coeff", "baseline_decay")
    zero_options = ("entropy_coeff",)
    derived_options = ("also_greedy", "update_metrics", "rollout_metrics")

    def __init__(
        self,
        policy: keras.Model,
        reward_fn: Any = None,
        *,
        max_new_tokens: int | None = None,
        baseline: str = "batch",
        entropy_coeff: float = 0.0,
        kl_coeff: float = 0.0,
        gamma: float = 1.0,
        num_generations: int = 1,
        baseline_decay: float = 0.99,
        importance_cap: float | None = None,
        **common: Any,
    ):
        forbid_arguments(
            common, ("kl_in", "kl_estimator"), "the divergence goes into the reward, by k1"
        )
        more = ("num_epochs", "num_minibatches", "target_kl")
        forbid_arguments(
            common, more, "a policy gradient has one update with a batch; see GRPO and PPO"
        )
        self.min_generations = 2 if baseline == "loo" else 1
        self.also_greedy = baseline == "greedy"
        self.rollout_metrics = {"greedy_reward": "max"} if self.also_greedy else {}
        self.update_metrics = {} if importance_cap is None else {"importance_weight": None}
        super().__init__(
            policy,
            reward_fn,
            max_new_tokens=max_new_tokens,
            kl_coeff=kl_coeff,
            num_generations=num_generations,
            **common,
        )
        if self.also_greedy and not self.actor.tokens:
            raise ValueError(
                "`baseline='greedy'` is for policies of tokens: a sample that grows out of noise "
                "has no likeliest way. Choose 'batch', 'loo' or 'moving'."
            )
        self.baseline = baseline
        self.entropy_coeff = entropy_coeff
        if self.entropy_coeff and not self.actor.tokens:
            raise ValueError(
                "`entropy_coeff` is for policies of tokens: a denoising step's entropy is given by "
                f"its schedule. Received: entropy_coeff={entropy_coeff}."
            )
        self.gamma = share("gamma", gamma)
        self.baseline_decay = baseline_decay
        self.importance_cap = importance_cap
        self.check_cap()
        self.mean_reward, self.seen_batches = (
            self.add_weight(name=name, shape=(), initializer="zeros", trainable=False)
            for name in ("mean_reward", "seen_batches")
        )

    def experience(self, rollout, rewards, kl):
        logs = {}
        if self.also_greedy:
            greedy = rollout.greedy_reward
            logs["greedy_reward"] = known_mean(greedy)
        if self.baseline == "whiten" or self.gamma < 1:
            return Experience(rollout, self._per_action(rollout, rewards, kl)), logs
        if kl is not None:
            rewards = rewards - self.kl_coeff * masked_sum(kl, rollout.mask)
        values = BASELINES[self.baseline](self, rewards, rollout)
        return Experience(rollout, ops.where(ops.isnan(values), 0.0, values)), logs

    def _per_action(self, rollout, rewards, kl):
        """(N, T): returns-to-go less the baseline, which whole completions have."""
        mask = rollout.mask
        applies = ops.cast(ops.logical_not(ops.isnan(rewards)), "float32")[:, None]
        scores = ops.where(ops.isnan(rewards), 0.0, rewards)
        given = estimators.token_rewards(scores, mask, kl, self.kl_coeff)
        returns = estimators.discounted_returns(given, mask, self.gamma)
        if self.baseline == "whiten":
            return estimators.whiten(returns, mask * applies)
        base = rewards - BASELINES[self.baseline](self, rewards, rollout)
        return applies * ops.where(applies > 0, returns - base[:, None], 0.0)

    def terms(self, experience):
        rollout = experience.rollout
        scores = self.actor.score(rollout, entropy=self.actor.tokens)
        log_probs, mask = scores.log_probs, rollout.mask
        advantages = experience.advantages
        logs = {"approx_kl": objectives.approx_kl(log_probs, rollout.log_probs, mask)}
        if self.importance_cap is not None:
            of_both = log_probs, rollout.log_probs
            weights = objectives.importance_weights(*of_both, self.importance_cap)
            logs["importance_weight"] = weighted_mean(weights, mask)
            per_action = advantages if ops.ndim(advantages) == 2 else advantages[:, None]
            advantages = weights * per_action
        loss = objectives.reinforce_loss(log_probs, advantages, mask)
        if self.actor.tokens:
            logs["entropy"] = weighted_mean(scores.entropy, mask)
            loss = loss - self.entropy_coeff * logs["entropy"]
        return {"loss": loss, **logs}


@keras.saving.register_keras_serializable(package="artifex_keras")
class RLOO(REINFORCE):
    """REINFORCE leave-one-out (2402.14740), by its own name: `REINFORCE` with ``baseline="loo"``.

    Each of the G completions of a prompt is compared with the mean reward of the G - 1 others:

        A_i = R_i - 1/(G-1) Σ_{j≠i} R_j,    R = r - β Σ_t k1_t.

    Args:
        policy, reward_fn: see `OnPolicy`.
        num_generations: G, at least 2.
        kl_coeff: β; 0 needs no reference.
        **options: those of `REINFORCE`, apart from `baseline`.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        def sevens(prompts, completions):
            return [completion.count(7) for completion in completions]

        policy = ak.networks.CausalTransformer(10, 16, num_layers=1, num_heads=2, width=8)
        model = ak.RLOO(policy, sevens, max_new_tokens=3)
        model.compile("adam")
        history = model.fit(np.array([[1, 2], [3, 4]]), verbose=0).history
        print(history["reward"])
        ```
    """

    options = tuple(
        name for name in REINFORCE.options if name not in ("baseline", "baseline_decay")
    )

    def __init__(
        self,
        policy: keras.Model,
        reward_fn: Any = None,
        *,
        num_generations: int = 4,
        **options: Any,
    ):
        fixed = ("baseline", "baseline_decay")
        forbid_arguments(options, fixed, "RLOO compares with the other completions; see REINFORCE")
        super().__init__(
            policy, reward_fn, baseline="loo", num_generations=num_generations, **options
        )


def _against_batch(model, rewards, rollout):
    return rewards - weighted_mean(rewards, ops.logical_not(ops.isnan(rewards)))


def _against_others(model, rewards, rollout):
    return estimators.leave_one_out(rewards, model.num_generations)


def _against_earlier(model, rewards, rollout):
    """The mean of earlier batches, which can't know these actions; then theirs joins it."""
    before = model.mean_reward + 0.0
    model.mean_reward.assign(
        estimators.moving_mean(before, rewards, model.seen_batches, model.baseline_decay)
    )
    model.seen_batches.assign_add(1.0)
    return rewards - before


def _against_greedy(model, rewards, rollout):
    greedy = rollout.greedy_reward
    return rewards - ops.where(ops.isnan(greedy), 0.0, greedy)


def _against_nothing(model, rewards, rollout):
    return rewards


BASELINES = {
    "batch": _against_batch,
    "loo": _against_others,
    "moving": _against_earlier,
    "greedy": _against_greedy,
    "whiten": _against_nothing,
    None: _against_nothing,
}
