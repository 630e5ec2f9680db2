"""The place of each layer and variable in a model's tree of layers: its identity in checkpoints,
and what the files of models say about it.

A path says how a variable came into being: it has the scopes that were open then and the numbers of
a process. A place is the same however and after whatever else the model was built.
"""

from collections import Counter

import keras

from artifex_keras.backend import keras_internals
from artifex_keras.backend.stacks import owned_parts

__all__ = ["layer_places", "places"]


def places(model):
    """The places of the model's variables by `id`, such as "encoder/dense_1/kernel".

    A network has the name of the model's attribute; a layer that of its class, numbered among those
    of its class beside it. The variables of a shared layer have the first of its places.
    """
    found = {}
    for place, layer in layer_places(model).items():
        _note_own(layer, place, found)
    return found


def layer_places(model):
    """The model and the layers inside it by their places, which end in "/"; the model's is ""."""
    found, seen = {"": model}, {id(model)}
    for name in getattr(model, "submodels", ()):
        network = getattr(model, name, None)
        if isinstance(network, keras.Layer):
            _walk(network, f"{name}/", found, seen)
    _walk_inside(model, "", found, seen)
    return found


def _walk(layer, place, found, seen):
    if id(layer) not in seen:
        seen.add(id(layer))
        found[place] = layer
        _walk_inside(layer, place, found, seen)


def _walk_inside(layer, place, found, seen):
    times = Counter()
    children = keras_internals.layers_of(layer)
    for child in [part for each in children for part in owned_parts(each) or (each,)]:
        kind = type(child).__name__.lower()
        times[kind] += 1
        _walk(child, f"{place}{_numbered(kind, times[kind])}/", found, seen)


def _note_own(layer, prefix, found):
    times = Counter()
    seeds = [seed.state for seed in keras_internals.seed_generators(layer)]
    for variable in (*keras_internals.own_variables(layer), *seeds):
        times[variable.name] += 1
        found.setdefault(id(variable), prefix + _numbered(variable.name, times[variable.name]))


def _numbered(name, time):
    return name if time == 1 else f"{name}_{time - 1}"
