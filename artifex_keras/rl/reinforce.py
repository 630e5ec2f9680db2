"""REINFORCE: the policy gradient, with what a reward is compared with."""

import keras
from keras import ops

from artifex_keras.arguments import forbid_arguments, known_name, number, share
from artifex_keras.objectives import advantages as worths
from artifex_keras.objectives import policy as objectives
from artifex_keras.objectives.masks import weighted_mean
from artifex_keras.objectives.tokens import masked_sum
from artifex_keras.rl.base import OnPolicy

__all__ = ["REINFORCE"]


@keras.saving.register_keras_serializable(package="artifex_keras")
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

    Metrics: those of `GRPO` but for `clip_fraction`; with "greedy" also `greedy_reward`, the mean
    reward of greedy completions.
    """

    options = (
        *OnPolicy.options,
        "kl_coeff",
        "baseline",
        "entropy_coeff",
        "gamma",
        "baseline_decay",
    )

    def __init__(
        self,
        policy,
        reward_fn=None,
        *,
        max_new_tokens=None,
        baseline="batch",
        entropy_coeff=0.0,
        kl_coeff=0.0,
        gamma=1.0,
        num_generations=1,
        baseline_decay=0.99,
        **common,
    ):
        forbid_arguments(
            common, ("kl_in", "kl_estimator"), "the divergence goes into the reward, by k1"
        )
        more = ("num_epochs", "num_minibatches", "target_kl")
        forbid_arguments(
            common, more, "a policy gradient has one update with a batch; see GRPO and PPO"
        )
        known_name(baseline, BASELINES, "baseline")
        self.least_generations = 2 if baseline == "loo" else 1
        self.also_greedy = baseline == "greedy"
        self.told_metrics = ("greedy_reward",) if self.also_greedy else ()
        super().__init__(
            policy,
            reward_fn,
            max_new_tokens=max_new_tokens,
            kl_coeff=kl_coeff,
            num_generations=num_generations,
            **common,
        )
        if self.also_greedy and not self.acting.tokens:
            raise ValueError(
                "`baseline='greedy'` is for policies of tokens: a sample that grows out of noise "
                "has no likeliest way. Choose 'batch', 'loo' or 'moving'."
            )
        self.baseline = baseline
        self.entropy_coeff = number("entropy_coeff", entropy_coeff)
        if self.entropy_coeff and not self.acting.tokens:
            raise ValueError(
                "`entropy_coeff` is for policies of tokens: a denoising step's entropy is given by "
                f"its schedule. Received: entropy_coeff={entropy_coeff}."
            )
        self.gamma = share("gamma", gamma)
        self.baseline_decay = share("baseline_decay", baseline_decay)
        self.mean_reward, self.seen_batches = (
            self.add_weight(name=name, shape=(), initializer="zeros", trainable=False)
            for name in ("mean_reward", "seen_batches")
        )

    def worth(self, rows, rewards, kl):
        mask = rows["mask"]
        worth = {"logs": self._of_greedy(rows)} if self.also_greedy else {}
        if self.baseline == "whiten" or self.gamma < 1:
            return worth | {"advantages": self._per_action(rows, rewards, kl)}
        if kl is not None:
            rewards = rewards - self.kl_coeff * masked_sum(kl, mask)
        values = BASELINES[self.baseline](self, rewards, rows)
        return worth | {"advantages": ops.where(ops.isnan(values), 0.0, values)}

    def _of_greedy(self, rows):
        told = rows["greedy_reward"]
        return {"greedy_reward": weighted_mean(told, ops.logical_not(ops.isnan(told)))}

    def _per_action(self, rows, rewards, kl):
        """(N, T): returns-to-go less the baseline, which whole completions have."""
        mask = rows["mask"]
        applies = ops.cast(ops.logical_not(ops.isnan(rewards)), "float32")[:, None]
        scores = ops.where(ops.isnan(rewards), 0.0, rewards)
        given = worths.token_rewards(scores, mask, kl, self.kl_coeff)
        returns = worths.discounted_returns(given, mask, self.gamma)
        if self.baseline == "whiten":
            return worths.whiten(returns, mask * applies)
        base = rewards - BASELINES[self.baseline](self, rewards, rows)
        return applies * ops.where(applies > 0, returns - base[:, None], 0.0)

    def terms(self, rows):
        scores = self.acting.score(rows, entropy=self.acting.tokens)
        log_probs, mask = scores["log_probs"], rows["mask"]
        loss = objectives.reinforce_loss(log_probs, rows["advantages"], mask)
        logs = {"approx_kl": objectives.approx_kl(log_probs, rows["old_log_probs"], mask)}
        if self.acting.tokens:
            logs["entropy"] = weighted_mean(scores["entropy"], mask)
            loss = loss - self.entropy_coeff * logs["entropy"]
        return {"loss": loss, **logs}


def _against_batch(model, rewards, rows):
    return rewards - weighted_mean(rewards, ops.logical_not(ops.isnan(rewards)))


def _against_others(model, rewards, rows):
    return worths.leave_one_out(rewards, model.num_generations)


def _against_earlier(model, rewards, rows):
    """The mean of earlier batches, which can't know these actions; then theirs joins it."""
    before = model.mean_reward + 0.0
    model.mean_reward.assign(
        worths.moving_mean(before, rewards, model.seen_batches, model.baseline_decay)
    )
    model.seen_batches.assign_add(1.0)
    return rewards - before


def _against_greedy(model, rewards, rows):
    greedy = rows["greedy_reward"]
    return rewards - ops.where(ops.isnan(greedy), 0.0, greedy)


def _against_nothing(model, rewards, rows):
    return rewards


BASELINES = {
    "batch": _against_batch,
    "loo": _against_others,
    "moving": _against_earlier,
    "greedy": _against_greedy,
    "whiten": _against_nothing,
    None: _against_nothing,
}
