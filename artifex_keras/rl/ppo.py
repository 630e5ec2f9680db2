"""Proximal policy optimisation, with a critic that predicts the reward of a completion so far."""

from typing import Any

import keras
from keras import ops

from artifex_keras.arguments import bounded, checked, forbid_arguments, share
from artifex_keras.backend import without_gradient
from artifex_keras.models import checks
from artifex_keras.objectives import advantages as estimators
from artifex_keras.objectives import policy as objectives
from artifex_keras.objectives.masks import weighted_mean
from artifex_keras.rl.algorithm import OnPolicy
from artifex_keras.rl.rollout import Experience

__all__ = ["PPO"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    clip_param=bounded(minimum=0.0),
    value_clip=bounded(above=0.0, optional=True),
    vf_coeff=bounded(minimum=0.0),
    entropy_coeff=bounded(),
    kl_target=bounded(above=0.0, optional=True),
    kl_horizon=bounded(above=0.0),
)
class PPO(OnPolicy):
    """PPO: `fit(prompts)` with a `reward_fn` (1707.06347; details of 2403.17031).

    Token t has the reward ``-β k1_t``, the last one the completion's score besides. Advantages are
    generalised estimates from these and the critic's values, whitened over the batch. The loss is

        mean over tokens of -min(ρ A, clip(ρ, 1 ± ε) A) + c_v L_value - c_e entropy.

    Args:
        policy: a model of tokens; see `OnPolicy` for it and for the arguments not named here.
        reward_fn: see `OnPolicy`.
        value: the critic: None puts a layer on the policy's last hidden vectors, which needs a
            network that has some (`networks.transformer`, a KerasHub model, a functional one). Or
            a model from ids (B, T) to values (B, T) or (B, T, 1), where value t sees ids up to t.
        max_new_tokens: C.
        clip_param: ε.
        value_clip: how far values may move from those of the rollout, in rewards; None doesn't
            bound them.
        vf_coeff: c_v.
        gamma, gae_lambda: γ and λ; γ = 1 for rewards of whole completions.
        entropy_coeff: c_e.
        kl_coeff: β; 0 needs no reference.
        kl_target: adapts β so that the divergence per completion stays near it, in nats
            (1909.08593), over a `kl_horizon` of completions.
        target_kl: ends the updates with a batch early, see `OnPolicy`.
        num_epochs, num_minibatches: passes over a batch of completions, and updates per pass.
        num_generations: completions of each prompt.

    Metrics: those of `GRPO`, with `value_loss`, `explained_variance`, and `kl_coeff` where it
    adapts.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        def sevens(prompts, completions):
            return [completion.count(7) for completion in completions]

        policy = ak.networks.CausalTransformer(10, 16, num_layers=1, num_heads=2, width=8)
        model = ak.PPO(policy, sevens, max_new_tokens=3, num_epochs=1)
        model.compile("adam")
        history = model.fit(np.array([[1, 2], [3, 4]]), verbose=0).history
        print(history["reward"])
        ```
    """

    submodels = (*OnPolicy.submodels, "value")
    options = (
        *OnPolicy.options,
        "clip_param",
        "value_clip",
        "vf_coeff",
        "kl_coeff",
        "gamma",
        "gae_lambda",
        "entropy_coeff",
        "target_kl",
        "kl_target",
        "kl_horizon",
        "num_epochs",
        "num_minibatches",
    )
    live_options = (
        "clip_param",
        "value_clip",
        "vf_coeff",
        "entropy_coeff",
        "kl_coeff",
        "target_kl",
        "kl_target",
        "kl_horizon",
    )
    derived_options = ("rollout_metrics",)
    update_metrics = {"clip_fraction": None, "value_loss": "min"}

    def __init__(
        self,
        policy: keras.Model,
        reward_fn: Any = None,
        *,
        value: keras.Model | None = None,
        max_new_tokens: int | None = None,
        clip_param: float = 0.2,
        value_clip: float = 0.2,
        vf_coeff: float = 0.5,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        entropy_coeff: float = 0.0,
        kl_coeff: float = 0.05,
        kl_target: float | None = None,
        kl_horizon: int = 10000,
        target_kl: float | None = None,
        num_epochs: int = 4,
        num_minibatches: int = 1,
        **common: Any,
    ):
        forbid_arguments(
            common, ("kl_in", "kl_estimator"), "PPO takes the divergence from the reward, by k1"
        )
        adapts = kl_target is not None
        if adapts and not kl_coeff:
            raise ValueError(
                "`kl_target` adapts `kl_coeff`, which must begin above 0. Received: "
                f"kl_target={kl_target}, kl_coeff={kl_coeff}."
            )
        adapted = {"kl_coeff": None} if adapts else {}
        self.rollout_metrics = {"explained_variance": "max", **adapted}
        super().__init__(
            policy,
            reward_fn,
            max_new_tokens=max_new_tokens,
            kl_coeff=kl_coeff,
            target_kl=target_kl,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            **common,
        )
        if not self.actor.tokens:
            raise ValueError(
                "PPO's critic predicts values of tokens. For a denoising model use GRPO, which "
                f"compares samples, or REINFORCE. Received: policy={type(policy).__name__}."
            )
        self.value = self._critic(value)
        self.clip_param = clip_param
        self.value_clip = value_clip
        self.vf_coeff = vf_coeff
        self.gamma = share("gamma", gamma)
        self.gae_lambda = share("gae_lambda", gae_lambda)
        self.entropy_coeff = entropy_coeff
        self.kl_target, self.kl_horizon = kl_target, kl_horizon
        self.adapted_kl_coeff = None
        if adapts:
            self.adapted_kl_coeff = self.add_weight(
                name="kl_coeff",
                shape=(),
                initializer=keras.initializers.Constant(kl_coeff),
                trainable=False,
            )

    def _keep(self, name, value):
        super()._keep(name, value)
        if name == "kl_coeff" and self.adapted_kl_coeff is not None:  # goes on from there
            if hasattr(self, "jax_state_sync"):
                self.jax_state_sync()
            self.adapted_kl_coeff.assign(value)

    def _critic(self, value):
        if value is not None:
            if not checks.network("value", value).built:
                raise ValueError(
                    "`value` must be built: call it once, or build it for the shape of its data. "
                    f"Received: {type(value).__name__} {value.name!r}, not built."
                )
            return value
        if self.actor.feature_width is None:
            raise ValueError(
                "`value` is needed: the policy's network has no hidden vectors to put a value on. "
                "Give a model from ids (B, T) to values (B, T, 1)."
            )
        head = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="value")
        head.build((None, self.actor.feature_width))
        return head

    def values(self, rollout: Any, scores: Any):
        """The critic's values before each token, (N, C)."""
        if isinstance(self.value, keras.layers.Dense):
            return self.value(ops.cast(scores.features, "float32"))[..., 0]
        ids = self.actor.inputs(rollout.sequence)
        values = self.value(ids, training=False)
        if len(values.shape) == 2:
            values = values[..., None]
        if tuple(values.shape) != (*ids.shape, 1):
            raise ValueError(
                "`value` must give a value for each id, (B, T) or (B, T, 1). Received: shape "
                f"{tuple(values.shape)} for ids of shape {tuple(ids.shape)}."
            )
        return self.actor.before_tokens(ops.cast(values, "float32"), rollout)[..., 0]

    def experience(self, rollout, rewards, kl):
        applies = ops.logical_not(ops.isnan(rewards))
        mask = rollout.mask * ops.cast(applies, "float32")[:, None]
        scores = ops.where(applies, rewards, 0.0)
        coeff = self.kl_coeff if self.adapted_kl_coeff is None else self.adapted_kl_coeff + 0.0
        given = estimators.token_rewards(scores, mask, kl, coeff)
        values = without_gradient(lambda: self.values(rollout, self.actor.score(rollout)))
        advantages, returns = estimators.gae(given, values, mask, self.gamma, self.gae_lambda)
        logs = {"explained_variance": objectives.explained_variance(values, returns, mask)}
        if self.adapted_kl_coeff is not None:
            logs["kl_coeff"] = coeff
            self._adapt(ops.mean(ops.sum(kl * mask, axis=1)), coeff, kl.shape[0])
        experience = Experience(
            rollout._replace(mask=mask),
            estimators.whiten(advantages, mask),
            values=values,
            returns=returns,
        )
        return experience, logs

    def _adapt(self, kl, coeff, count):
        self.adapted_kl_coeff.assign(
            objectives.adaptive_kl_coeff(
                coeff, kl, target=self.kl_target, horizon=self.kl_horizon, num_samples=count
            )
        )

    def terms(self, experience):
        rollout = experience.rollout
        scores = self.actor.score(rollout, entropy=True)
        log_probs, mask = scores.log_probs, rollout.mask
        of_ratio = (log_probs, rollout.log_probs, experience.advantages, mask)
        surrogate = objectives.clipped_surrogate(
            *of_ratio, clip_low=self.clip_param, reduction=self.reduction
        )
        value_loss = objectives.value_loss(
            self.values(rollout, scores),
            experience.values,
            experience.returns,
            mask,
            self.value_clip,
        )
        entropy = weighted_mean(scores.entropy, mask)
        return {
            "loss": surrogate + self.vf_coeff * value_loss - self.entropy_coeff * entropy,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": objectives.approx_kl(log_probs, rollout.log_probs, mask),
            "clip_fraction": objectives.clip_fraction(*of_ratio, clip_low=self.clip_param),
        }
