"""Policies: how a trained model acts, and how likely its actions are.

A policy is made of a model by `policy_of`. It samples trajectories, N rows of T actions (tokens, or
steps of a denoising chain), in `rollout`, and says in `score` how likely these actions are under
the weights of the moment. Both run inside a compiled step, dropout off, at one temperature, so that
right after a rollout the scores are the log-probabilities that it was sampled with.
"""

from artifex_keras.arguments import unknown_name
from artifex_keras.models import Diffusion, FlowMatching, checks
from artifex_keras.models.autoregressive.hub import is_backbone, is_causal_lm
from artifex_keras.rl.policies.base import Policy
from artifex_keras.rl.policies.denoising import DiffusionPolicy, FlowPolicy
from artifex_keras.rl.policies.hub import HubPolicy
from artifex_keras.rl.policies.tokens import TokenPolicy

__all__ = [
    "DiffusionPolicy",
    "FlowPolicy",
    "HubPolicy",
    "Policy",
    "TokenPolicy",
    "kind_of",
    "policy_of",
]


def policy_of(model, argument="policy", **options):
    """The policy that a model is: of tokens, or of denoising steps.

    Args:
        model: an `Autoregressive`, a KerasHub `CausalLM` or any `keras.Model` from ids (B, T) to
            logits (B, T, V); a `Diffusion`, whose chain of DDIM steps with η = 1 is the trajectory,
            or a `FlowMatching`, whose stochastic differential equation is.
        argument: what errors call the model.
        **options: of the kind of policy; None leaves the default.

    Raises:
        ValueError: for a model that isn't built or is none of these, and for options that the kind
            of policy hasn't got.
    """
    checks.network(argument, model)
    if not model.built:
        raise ValueError(
            f"`{argument}` must be built: call it once, or build it for the shape of its data. "
            f"Received: {type(model).__name__} {model.name!r}, not built."
        )
    kind = kind_of(model)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in kind.option_names:
            raise ValueError(unknown_name(name, kind.option_names, f"option of a {kind.__name__}"))
    return kind(model, **given)


def kind_of(model):
    """The class of policies for a model."""
    if isinstance(model, Diffusion):
        return DiffusionPolicy
    if isinstance(model, FlowMatching):
        return FlowPolicy
    if is_causal_lm(model) or is_backbone(model):
        return HubPolicy
    return TokenPolicy
