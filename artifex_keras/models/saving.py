"""What a file keeps of a model: its options, its networks, its weights and its seeds."""

import warnings
from typing import Any

import keras
from keras import ops

from artifex_keras.backend import keras_internals
from artifex_keras.backend.frozen import KEY, freeze, frozen
from artifex_keras.backend.stacks import KeepsStacks
from artifex_keras.models.compile_config import KeepsCompiled
from artifex_keras.models.ema import without_averaged
from artifex_keras.models.lora import with_lora

__all__ = ["Saving"]


# Keras's warning where a file of weights has no state of an optimizer that took a step: none at
# all, or the steps and the rate of one that wasn't built, or of a group of two.
NO_STATE = r"Skipping variable loading for optimizer .* saved optimizer has (0|2|5) variables"


class Saving(KeepsStacks, KeepsCompiled):
    """The part of a model that `save` and `load_model` call."""

    _frozen_in_file = None  # what is frozen, and the places of the layers of which that is known

    def get_config(self):
        self.follow_networks()
        config = {**super().get_config(), **{name: getattr(self, name) for name in self.options}}
        networks = {name: getattr(self, name) for name in self.submodels}
        for name, network in networks.items():
            config[name] = keras.saving.serialize_keras_object(network)
        return with_lora(config, **networks) | {KEY: frozen(self)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {
            key: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            if isinstance(value, dict) and "class_name" in value
            else value
            for key, value in config.items()
        }
        listed = config.pop(KEY, None)
        model = cls(**config)
        if listed is not None:
            model._frozen_in_file = listed, freeze(model, listed)
        return model

    def freeze_late_layers(self):
        """Freezes what the file says of layers that weren't made before the model was built."""
        if self._frozen_in_file is not None:
            freeze(self, *self._frozen_in_file)
            self._frozen_in_file = None

    def save_own_variables(self, store):
        """Keras saves weights alone; the seeds are kept too, so that a loaded run goes on."""
        self.follow_networks()
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

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """The weights of a file by Keras, and the optimizer's state if the file has one."""
        if self.built and getattr(self, "optimizer", None) is not None:
            self.build_optimizer()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=NO_STATE)
            super().load_weights(filepath, *args, **kwargs)
