"""Policies with LoRA (2106.09685): what they are without it, and how they are saved and copied.

A layer with LoRA adds ``alpha/rank · A B`` to its kernel. Keras merges that into the kernel when it
saves a model, and a config of KerasHub's doesn't know of it: both would end a run. What stands here
writes A, B and the kernel apart, so that a saved algorithm goes on as it was.
"""

import contextlib

import keras
from keras import ops

from artifex_keras.arguments import boolean, integer, number
from artifex_keras.backend import ReadThroughScope, assign_all, keras_internals
from artifex_keras.trust import saved_value

__all__ = [
    "WithLora",
    "enable_like",
    "foreign_weights",
    "has_lora",
    "lora_config",
    "train_lora_alone",
    "unmerged",
    "with_lora",
    "without_lora",
]

SECOND = ("lora_kernel_b", "lora_embeddings_b")  # factors that begin at 0


def has_lora(model):
    """Whether a layer of the model has LoRA."""
    return bool(_lora_layers(model))


def train_lora_alone(model):
    """Freezes what else the layers with LoRA have: KerasHub's `enable_lora` leaves them their
    biases, with which the model without LoRA would no longer be the one it began as."""
    for layer in _lora_layers(model).values():
        for variable in keras_internals.own_variables(layer):
            if not _is_factor(variable):
                variable.trainable = False


def foreign_weights(model):
    """The weights that are trained and are not LoRA's."""
    return [weight for weight in model.trainable_variables if not _is_factor(weight)]


@contextlib.contextmanager
def without_lora(model):
    """Inside, the model is what it was before its LoRA weights learned anything."""
    factors = [variable for variable in model.variables if variable.name in SECOND]
    pairs = [(factor, ops.zeros_like(factor.value)) for factor in factors]
    with ReadThroughScope(pairs) as scope:
        yield
        assigned, values = scope.updates(excluding=factors)
    assign_all(assigned, values)


# Copying and saving


def enable_like(model, other):
    """Gives the layers of `model` LoRA where those of `other`, made of the same config, have it."""
    _enable(model, _settings(other))


def lora_config(model, config):
    """`config`, as Keras wrote the model down, with its LoRA."""
    return {
        "module": __name__,
        "class_name": "WithLora",
        "registered_name": "artifex_keras>WithLora",
        "config": {
            "model": config,
            "lora": _settings(model),
            "trainable": [layer.trainable for layer in _weighted(model)],
        },
    }


def with_lora(config, **models):
    """`config`, of an algorithm, in which those of its `models` that have LoRA keep it."""
    changed = {
        name: lora_config(model, config[name])
        for name, model in models.items()
        if isinstance(model, keras.Model) and has_lora(model)
    }
    return config | changed


@keras.saving.register_keras_serializable(package="artifex_keras")
class WithLora:
    """What `lora_config` writes down: reading it gives the model itself."""

    def get_config(self):
        """Keras wants one; there are no objects of this class."""
        return {}

    @classmethod
    def from_config(cls, config):
        """The model, with LoRA enabled and the rest frozen as it was."""
        model = keras.saving.deserialize_keras_object(saved_value(cls, config, "model", dict))
        if not isinstance(model, keras.Model):
            raise ValueError(f"LoRA must be that of a keras.Model. Received: {model!r}.")
        trainable = saved_value(cls, config, "trainable", list)
        for layer, value in zip(_weighted(model), trainable, strict=True):
            layer.trainable = boolean("trainable", value)
        _enable(model, saved_value(cls, config, "lora", list))
        train_lora_alone(model)
        return model


def unmerged(*models):
    """What saves and loads the weights of the models' layers with LoRA as they are; None if there
    is no LoRA. An attribute of this must come after those of the models by its name: Keras loads in
    alphabetical order."""
    variables = [
        variable
        for model in models
        if isinstance(model, keras.Model)
        for layer in _lora_layers(model).values()
        for variable in keras_internals.own_variables(layer)
    ]
    return Unmerged(variables) if variables else None


class Unmerged(keras.Layer):
    """A layer without weights of its own, which saves and loads those of others."""

    def __init__(self, variables):
        super().__init__(name="unmerged")
        self._others = lambda: variables  # which Keras would take for weights of this layer
        self.built = True

    def save_own_variables(self, store):
        for index, variable in enumerate(self._others()):
            store[str(index)] = ops.convert_to_numpy(variable.value)

    def load_own_variables(self, store):
        for index, variable in enumerate(self._others()):
            variable.assign(store[str(index)])


def _weighted(model):
    inside = keras_internals.all_layers(model, include_self=False)
    return [layer for layer in inside if layer.weights]


def _lora_layers(model):
    """The layers with LoRA, by their place among those with weights."""
    layers = enumerate(_weighted(model))
    return {place: layer for place, layer in layers if getattr(layer, "lora_enabled", False)}


def _settings(model):
    """Place, rank and alpha of each LoRA."""
    layers = _lora_layers(model).items()
    return [[place, layer.lora_rank, layer.lora_alpha] for place, layer in layers]


def _enable(model, settings):
    layers = _weighted(model)
    for place, rank, alpha in settings:
        layer = layers[integer("place of LoRA", place, maximum=len(layers) - 1)]
        rank, alpha = integer("rank", rank, minimum=1), number("alpha", alpha, optional=True)
        if not layer.lora_enabled:
            layer.enable_lora(rank, lora_alpha=alpha)
        elif alpha is not None:
            layer.lora_alpha = alpha  # which a Keras layer forgets when it is made of its config


def _is_factor(variable):
    return variable.name.startswith("lora_")
