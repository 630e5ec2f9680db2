"""What a file keeps of a model: its options, its optimizer, its weights and its seeds."""

import keras
from keras import ops

from artifex_keras.backend import keras_internals
from artifex_keras.gradient_accumulation import portable
from artifex_keras.models.ema import without_averaged

__all__ = ["Saving"]


class Saving:
    """The part of a model that `save` and `load_model` call."""

    def get_config(self):
        config = {**super().get_config(), **{name: getattr(self, name) for name in self.options}}
        for name in self.submodels:
            config[name] = keras.saving.serialize_keras_object(getattr(self, name))
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {
            key: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            if isinstance(value, dict) and "class_name" in value
            else value
            for key, value in config.items()
        }
        return cls(**config)

    def get_compile_config(self):
        if not self.compiled:
            return {}
        return {
            "optimizer": portable(keras.saving.serialize_keras_object(self.optimizer)),
            "steps_per_execution": self.steps_per_execution,
            "run_eagerly": self.run_eagerly,
            "jit_compile": self.jit_compile,
            "on_nan": self.on_nan,
        }

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(portable(config)))
        if self.built:
            self.build_optimizer()

    def save_own_variables(self, store):
        """Keras saves weights alone; the seeds are kept too, so that a loaded run goes on."""
        super().save_own_variables(store)
        for name, seed in self._saved_seeds().items():
            store[name] = ops.convert_to_numpy(seed.state.value)

    def load_own_variables(self, store):
        weights = {key: store[key] for key in store.keys() if not key.endswith("_seed")}
        own = keras_internals.own_trainable_variables(self)
        rest = keras_internals.own_non_trainable_variables(self)
        super().load_own_variables(without_averaged(self, (own, rest), weights))
        for name, seed in self._saved_seeds().items():
            if name in store.keys():
                seed.state.assign(store[name])
