"""What all policies have in common, and how their models are copied."""

import keras
from keras import ops

from artifex_keras.models.lora import enable_like, train_lora_alone

__all__ = ["Policy", "copy_weights", "frozen_copy", "kept_tokenizer"]


class Policy:
    """What every policy has.

    Attributes:
        model: the model that was given.
        variables: what training changes.
        feature_width: the width of the vectors that a critic may take, None without any.
        tokens: whether actions are tokens.
    """

    option_names = ()
    feature_width = None
    tokens = False
    tokenizer = None
    end_token_ids = None
    num_start_tokens = 0

    def __init__(self, model):
        self.model = model
        train_lora_alone(model)

    @property
    def sampled_by(self):
        """The layer that has all weights by which `rollout` samples."""
        return self.model

    def copy(self):
        """A frozen copy of the model."""
        return frozen_copy(self.model)

    def check_batch(self, x, algorithm):
        """Raises a ValueError for a batch of prompts that the policy can't take; `algorithm` is
        named in the message."""

    def kl(self, scores, reference):
        """The divergence from the reference at each action (N, T) where it is known in closed form
        from two results of `score`; None where it must be estimated from log-probabilities."""
        return None


def frozen_copy(model):
    """A model like this one with its weights of now, none of which training will change."""
    try:
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)  # an optimizer for nothing
        copy = keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"A {type(model).__name__} can't be copied for a reference: Keras can't make it from "
            "its config. Register the class and give it `get_config`, or give a `reference`."
        ) from error
    enable_like(copy, model)
    copy_weights(model, copy)
    copy.trainable = False
    return copy


def copy_weights(model, copy):
    """Gives `copy` the values of a model's weights, in arrays of its own, on the devices."""
    for weight, mine in zip(model.weights, copy.weights, strict=True):
        mine.assign(ops.copy(weight.value))


def kept_tokenizer(tokenizer, policy):
    """A tokenizer as Keras writes it down; None for one that it can't, and for the policy's own."""
    if tokenizer is policy.tokenizer or not hasattr(tokenizer, "get_config"):
        return None
    return keras.saving.serialize_keras_object(tokenizer)
