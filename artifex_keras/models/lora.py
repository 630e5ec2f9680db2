"""Networks with LoRA (2106.09685): what they are without it, and how they are saved and copied.

A layer with LoRA adds ``alpha/rank · A B`` to its kernel. Keras merges that into the kernel when it
saves a model, and a config of KerasHub's doesn't know of it: both would end a run. What stands here
writes A, B and the kernel apart, so that a saved model goes on as it was.
"""

import contextlib
import weakref
from types import MappingProxyType

import keras
from keras import ops

from artifex_keras.arguments import boolean, integer, number
from artifex_keras.backend import ReadThroughScope, assign_all, keras_internals
from artifex_keras.trust import saved_value

__all__ = [
    "KeepsLora",
    "WithLora",
    "enable_like",
    "foreign_weights",
    "has_lora",
    "lora_config",
    "train_lora_alone",
    "Unmerged",
    "with_lora",
    "without_lora",
]

_trained_alone = weakref.WeakSet()  # layers
SECOND = ("lora_kernel_b", "lora_embeddings_b")  # factors that begin at 0


def has_lora(model):
    """Whether a layer of the model has LoRA."""
    return bool(_lora_layers(model))


def train_lora_alone(model):
    """Freezes what else the layers with LoRA have: Keras's `enable_lora` leaves them their biases,
    with which the model without LoRA would no longer be the one it began as.

    Each layer once: what is thawed later is meant to train.
    """
    for layer in _lora_layers(model).values():
        if layer in _trained_alone:
            continue
        _trained_alone.add(layer)
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
    """`config`, of a model, in which those of its `models` that have LoRA keep it."""
    changed = {
        name: lora_config(model, config[name])
        for name, model in models.items()
        if isinstance(model, keras.Layer) and has_lora(model)
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
        if not isinstance(model, keras.Layer):
            raise ValueError(f"LoRA must be that of a network. Received: {model!r}.")
        trainable = saved_value(cls, config, "trainable", list)
        for layer, value in zip(_weighted(model), trainable, strict=True):
            layer.trainable = boolean("trainable", value)
        _enable(model, saved_value(cls, config, "lora", list))
        train_lora_alone(model)
        return model


class KeepsLora:
    """The part of a model that saves LoRA in its networks, whenever it was enabled."""

    @property
    def unmerged(self):
        """An `Unmerged` where there is LoRA, by whose name files have its weights; else None."""
        return self._unmerged_of([name for name in self.submodels if name < "unmerged"])

    @property
    def _later_unmerged(self):
        # Keras loads what has a private name last, after networks such as `value`.
        return self._unmerged_of([name for name in self.submodels if name >= "unmerged"])

    def _unmerged_of(self, names):
        networks = [getattr(self, name, None) for name in names]
        networks = [network for network in networks if isinstance(network, keras.Layer)]
        if not any(map(has_lora, networks)):
            return None
        key = tuple(map(id, networks))
        kept = vars(self).get("_unmerged_kept", {})
        if key not in kept:
            # A view, in which Keras looks for no layers.
            kept = MappingProxyType({**kept, key: Unmerged(lambda: networks)})
            vars(self)["_unmerged_kept"] = kept
        return kept[key]


class Unmerged(keras.Layer):
    """A layer without weights of its own, which saves and loads those of the layers with LoRA as
    they are.

    An attribute of this must come after those of the models by its name: Keras loads in
    alphabetical order. A file from before LoRA was enabled has none of it: then nothing is loaded.

    Args:
        models: a function that gives the models; LoRA may be enabled later.
    """

    def __init__(self, models):
        super().__init__(name="unmerged")
        self._models = models
        self.built = True

    def _others(self):
        layers = [layer for model in self._models() for layer in _lora_layers(model).values()]
        return [variable for layer in layers for variable in keras_internals.own_variables(layer)]

    def save_own_variables(self, store):
        for index, variable in enumerate(self._others()):
            store[str(index)] = ops.convert_to_numpy(variable.value)

    def load_own_variables(self, store):
        for index, variable in enumerate(self._others() if store.keys() else ()):
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
