"""How a model is built: from the first batch that it is given, or as `load_model` remembers it."""

import keras
import numpy as np
from keras import ops

from artifex_keras.backend import (
    keras_internals,
    processes,
    recomputed,
    shard_batches,
    stacks,
    watch_batches,
)
from artifex_keras.backend.adapters import innermost
from artifex_keras.backend.fitting import exact_steps
from artifex_keras.backend.quantized_heads import give_heads_gradients
from artifex_keras.backend.remat_scope import follow_remat_scopes
from artifex_keras.backend.workers import workers_of
from artifex_keras.models import checks
from artifex_keras.models.batch import spec_of, unpacked
from artifex_keras.models.data_contract import Stream, Weighed
from artifex_keras.models.traced import optimizers_in

__all__ = ["Building"]


class Building:
    """The part of a model that builds it before its first step."""

    def _symbolic_build(self, iterator=None, data_batch=None):
        # Keras calls this before the first step of fit, evaluate and train_on_batch. Its own
        # version calls the model on symbols; ours builds the networks and what hangs on them.
        if iterator is not None:
            self._look_at_batches(iterator.data_adapter)
            workers_of(innermost(iterator.data_adapter))
            shard_batches(iterator)
            exact_steps(iterator)
        if iterator is not None or data_batch is not None:
            self.build_from_batch(
                lambda: checks.first_batch(iterator) if data_batch is None else data_batch
            )
        if data_batch is not None:
            Stream(self)(data_batch)
        self.follow_networks()
        if self.optimizer is not None:
            self.build_optimizer()
        shard = getattr(keras.distribution.distribution(), "shard", None)
        if shard is not None:
            shard(self)
        if iterator is not None and self.running_fit is not None:
            self.running_fit.begin(iterator)

    def _look_at_batches(self, adapter, predicting=False):
        """Lets each batch of Keras's adapter be looked at, of data that aren't arrays."""
        if not keras_internals.has_arrays(adapter):
            weighed = None if predicting or processes.count() > 1 else Weighed.of(adapter)
            watch_batches(adapter, lambda: Stream(self, predicting, weighed))
            object.__setattr__(self, "_weighed", weighed)  # past Keras, which looks for layers

    def build_from_batch(self, first_batch):
        """Builds the model, if it isn't, by what `first_batch()` gives of the data to come."""
        if not self.built:
            x, y, _ = unpacked(first_batch())
            self.check_batch(x, y)
            self.build(tuple(x.shape), None if y is None else spec_of(y))

    def _check_built(self, method, x=None, condition=None):
        """Builds the model by the data that a method was given; raises where there are none."""
        if not self.built and x is not None:
            condition = None if condition is None else ops.convert_to_tensor(condition)
            self.build(tuple(np.shape(x)), None if condition is None else spec_of(condition))
        elif x is not None and getattr(self, "data_shape", None) is not None:
            checks.data_shape(x, self.data_shape)
        if not self.built:
            raise ValueError(
                f"`{method}` needs networks that know their shapes: call `fit` or "
                "`build((None, *data_shape))` first, or give `input_shape` where the family takes "
                "it."
            )

    def finish_build(self, input_shape, condition=None):
        """What a family calls at the end of `build`: keeps what `load_model` builds from."""
        self.build_average()
        follow_remat_scopes(self, recomputed)
        give_heads_gradients(self)
        self.built = True
        self.freeze_late_layers()
        self._build_config = {
            "input_shape": [None, *input_shape[1:]],
            "condition": None
            if condition is None
            else {"shape": [None, *condition.shape[1:]], "dtype": condition.dtype},
        }

    def get_build_config(self):
        return self._build_config if self.built else {}

    def build_from_config(self, config):
        condition = config.get("condition")
        if config:
            self.build(tuple(config["input_shape"]), condition and keras.KerasTensor(**condition))

    def follow_networks(self):
        """Takes notice of weights that networks have got since the model was built, as by LoRA."""
        follow_remat_scopes(self, recomputed)
        give_heads_gradients(self)
        if self.built and self.running_fit is None:
            with keras_internals.unlocked(self):
                self.build_average()

    def build_optimizer(self):
        """Creates the optimizer's variables."""
        if not self.optimizer.built:
            stacks.check_optimizers(optimizers_in(self.optimizer), self.trainable_variables)
            self.optimizer.build(self.trainable_variables)
