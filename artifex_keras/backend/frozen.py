"""Which layers and weights of a model are frozen or quantised, as its file says it.

The config of a layer describes that layer alone: what is frozen among the layers that it makes for
itself would be forgotten, and with it which weights the optimizer's state belongs to.
"""

from artifex_keras.arguments import broken_rule
from artifex_keras.backend import keras_internals
from artifex_keras.backend.places import layer_places, places

__all__ = ["KeepsFrozen", "freeze", "frozen"]

KEY, QUANTISED = "frozen", "quantised"  # in a config


def frozen(model):
    """The places of the layers and of the weights that are frozen, a list of texts."""
    layers, where = layer_places(model), places(model)
    found = [place for place, layer in layers.items() if not layer.trainable]
    for layer in layers.values():
        weights = keras_internals.own_trainable_variables(layer)
        found += [where[id(weight)] for weight in weights if not weight.trainable]
    return sorted(found)


def freeze(model, listed, seen=()):
    """Freezes what `frozen` has listed of such a model, and thaws all else.

    Args:
        model: the model; layers that it hasn't made yet are left out.
        listed: the list.
        seen: the places of layers that are left as they are.

    Returns:
        The places of the layers that there are.

    Raises:
        ValueError: for anything but a list of texts.
    """
    if not isinstance(listed, list) or not all(isinstance(place, str) for place in listed):
        raise broken_rule(KEY, listed, "a list of places in the model")
    listed, where, layers = set(listed), places(model), layer_places(model)
    for place in layers.keys() - set(seen):
        keras_internals.set_own_trainable(layers[place], place not in listed)
        for weight in keras_internals.own_trainable_variables(layers[place]):
            weight.trainable = where[id(weight)] not in listed
    return set(layers)


def quantised(model):
    """The modes of the layers inside that are quantised, such as "int8", by their places."""
    layers = {place: layer for place, layer in layer_places(model).items() if place}
    modes = {place: layer.quantization_mode for place, layer in layers.items()}
    return {place: mode for place, mode in modes.items() if mode is not None}


def quantise(model, modes):
    """Quantises what `quantised` has listed of such a model, and what isn't yet.

    Raises:
        ValueError: for anything but texts by places; as Keras does, for an unknown mode.
    """
    if not isinstance(modes, dict) or not all(isinstance(mode, str) for mode in modes.values()):
        raise broken_rule(QUANTISED, modes, "a dict from places in the model to modes")
    for place, layer in layer_places(model).items():
        if place in modes and layer.built and layer.quantization_mode is None:
            layer.quantize(modes[place])


class KeepsFrozen:
    """A layer whose config says which of the layers that it makes for itself are frozen, and which
    are quantised.

    The class stands before `keras.Layer` among the bases.
    """

    def get_config(self):
        return {**super().get_config(), **self.frozen_config()}

    def frozen_config(self):
        """What the config says of what is frozen and quantised."""
        listed, modes = frozen(self), quantised(self)
        return ({KEY: listed} if listed else {}) | ({QUANTISED: modes} if modes else {})

    @classmethod
    def from_config(cls, config, **options):
        config = dict(config)
        listed, modes = config.pop(KEY, None), config.pop(QUANTISED, None)
        layer = super().from_config(config, **options)
        layer.frozen_in_file, layer.quantised_in_file = listed, modes
        layer.freeze_again()
        return layer

    def build_from_config(self, config):
        super().build_from_config(config)
        self.freeze_again()

    def freeze_again(self, seen=()):
        """Freezes and quantises what the file that the layer comes from says; gives the places
        there are."""
        quantise(self, getattr(self, "quantised_in_file", None) or {})
        listed = getattr(self, "frozen_in_file", None)
        return seen if listed is None else freeze(self, listed, seen)
