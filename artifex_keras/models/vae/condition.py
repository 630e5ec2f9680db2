"""The condition that both networks of a VAE may take beside data and codes."""

import keras
from keras import ops

from artifex_keras.models import checks, data_contract
from artifex_keras.models.conditioning import label_values, network_inputs, repeated

__all__ = ["Conditioned", "beside"]


class Conditioned:
    """The part of a `VAE` that knows whether its networks take a condition."""

    @property
    def conditional(self):
        """Whether the networks take a condition; known once the model is built."""
        return self.condition_spec is not None

    def _spec_of_networks(self):
        """The condition's spec by the networks' own inputs; None where they don't say.

        Raises:
            ValueError: if one of them takes a condition and the other doesn't.
        """
        encoder, decoder = map(network_inputs, (self.encoder, self.decoder))
        if encoder and decoder and len(encoder) != len(decoder):
            raise ValueError(
                "Encoder and decoder must both take a condition, [x, condition] and [z, "
                f"condition], or neither. Received: an encoder with {len(encoder)}, a decoder with "
                f"{len(decoder)} inputs."
            )
        if not encoder or len(encoder) < 2:
            return None
        return keras.KerasTensor(encoder[1].shape, encoder[1].dtype)

    def _check_condition(self, condition):
        """Raises a ValueError unless the networks take such a condition, an array or None."""
        if self.built:
            hint = "Let the networks take [x, condition] and [z, condition]."
            checks.condition("VAE", condition, self.condition_spec, hint)
            checks.condition_shape(condition, self.condition_spec)

    def condition_values(self):
        """What values a condition may have."""
        return label_values([self.encoder, self.decoder], self.condition_spec)

    def _conditions(self, condition, n):
        """`n` conditions as a tensor, from one or from `n`; None without."""
        data_contract.check(self.condition_values(), condition)
        condition = repeated(condition, n, self.condition_spec)
        self._check_condition(condition)
        return condition


def beside(x, condition):
    """What a network takes: `x`, or `[x, condition]`."""
    if condition is None:
        return x
    floats = "float" in keras.backend.standardize_dtype(condition.dtype)
    return [x, ops.cast(condition, "float32") if floats else condition]
