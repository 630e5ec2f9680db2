"""For tests of sampling beside learning: a slow sampler, and what notes who was first."""

import jax
import keras
from keras import ops

from artifex_keras.backend.keras_internals import model_of
from artifex_keras.rl import GRPO

__all__ = ["SampledYet", "Slow"]


class Slow(GRPO):
    """Takes long to sample."""

    def begin_on(self, data, training):
        rollout = super().begin_on(data, training)
        if not training:
            return rollout
        first = rollout.log_probs[0, 0]
        last = jax.lax.fori_loop(0, 5_000_000, lambda _, x: ops.sin(x) + 1.0, first)
        return rollout._replace(log_probs=rollout.log_probs + 0.0 * last)


class SampledYet(keras.callbacks.Callback):
    """Whether the next batch has been sampled when an update is done."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        jax.block_until_ready(logs)
        following = model_of(self).running_fit.overlap._next
        if following is not None:
            self.seen.append(following[1].log_probs.is_ready())
