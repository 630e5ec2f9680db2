"""The reference of a policy: a frozen copy, the policy without LoRA, another model, or nothing."""

import functools

import keras
from keras import ops

from artifex_keras.backend import when, without_gradient
from artifex_keras.models.lora import foreign_weights, has_lora, without_lora

__all__ = [
    "PRECOMPUTED",
    "check_syncable",
    "reference_scores",
    "resolve_reference",
    "sync_reference",
]

LORA_OFF = "lora_off"
PRECOMPUTED = "precomputed"


def resolve_reference(reference, policy, needed):
    """The reference that an algorithm keeps: a frozen model, "lora_off", or None if none is needed.

    Args:
        reference: what the user gave: None, "lora_off", or a model.
        policy: the policy, of `rl.policies`.
        needed: whether the algorithm looks at a reference at all.

    Raises:
        ValueError: for a model of another vocabulary, the policy's own model, anything else.
    """
    if reference is None:
        return policy.copy() if needed else None
    if not needed:
        raise ValueError(
            "`reference` would not be looked at: nothing holds the policy to it. Give a "
            f"`kl_coeff` above 0, or leave it out. Received: reference={reference!r}."
        )
    if isinstance(reference, str):
        if reference != LORA_OFF:
            raise ValueError(
                f"`reference` must be None, 'lora_off' or a model. Received: {reference!r}."
            )
        if not has_lora(policy.model):
            raise ValueError(
                "`reference='lora_off'` needs a policy with LoRA: call `enable_lora(rank)` on its "
                "layers, or on a KerasHub backbone, before the algorithm is made; or leave "
                "`reference` out for a frozen copy of the policy."
            )
        others = [weight.path for weight in foreign_weights(policy.model)]
        if others:
            raise ValueError(
                "`reference='lora_off'` needs a policy of which LoRA weights alone are trained: "
                f"without them it would not be what it was. Received: {', '.join(others[:3])} "
                f"among {len(others)} other weights that are trained. Freeze them before the "
                "algorithm is made, as by `layer.bias.trainable = False`, or leave `reference` out "
                "for a frozen copy of the policy."
            )
        return reference
    _check(reference, policy)
    reference.trainable = False
    return reference


def _check(reference, policy):
    if not isinstance(reference, keras.Model):
        raise ValueError(
            "`reference` must be None, 'lora_off' or a model like the policy. Received: "
            f"{type(reference).__name__}."
        )
    shared = {id(w) for w in reference.weights} & {id(w) for w in policy.model.weights}
    if shared:
        raise ValueError(
            "`reference` must not share weights with the policy, which would move it along. "
            "Leave it out for a frozen copy."
        )
    if policy.tokens:
        theirs, ours = type(policy)(reference).vocabulary_size, policy.vocabulary_size
        if theirs != ours:
            raise ValueError(
                "`reference` must have the policy's vocabulary. Received: a reference of "
                f"{theirs} tokens, a policy of {ours}."
            )


def check_syncable(reference, policy):
    """Raises a ValueError unless `sync_reference` can move the reference towards the policy."""
    if not isinstance(reference, keras.Model):
        raise ValueError(
            "`reference_sync_steps` moves a reference of its own weights: `kl_coeff` (`beta`) must "
            "be above 0 and `reference` None or a model. Received: "
            f"reference={reference!r}."
        )
    shapes = [[tuple(w.shape) for w in model.weights] for model in (reference, policy.model)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "`reference_sync_steps` needs a reference with weights like the policy's. Received: "
            f"{reference.name!r} and {policy.model.name!r}, whose weights differ in shape."
        )


def reference_scores(reference, policy, score):
    """`score(model)` under a reference that `resolve_reference` gave, without gradient."""
    if reference != LORA_OFF:
        return without_gradient(functools.partial(score, reference))
    with without_lora(policy.model):
        return without_gradient(functools.partial(score, policy.model))


def sync_reference(reference, policy, due, mixup):
    """Where `due`, moves a frozen copy by the share `mixup` of the way to the policy."""

    def move():
        for old, new in zip(reference.weights, policy.model.weights, strict=True):
            if "float" in keras.backend.standardize_dtype(old.dtype):
                old.assign(old + mixup * (ops.cast(new, old.dtype) - old))
        return ops.zeros(())

    when(due, move, lambda: ops.zeros(()))
