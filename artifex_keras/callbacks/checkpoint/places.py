"""The place of each variable in a model's tree of layers, which is its identity in checkpoints.

A path says how a variable came into being: it has the scopes that were open then and the numbers of
a process. A place is the same however and after whatever else the model was built.
"""

from collections import Counter

import keras

from artifex_keras.backend import keras_internals

__all__ = ["places"]


def places(model):
    """The places of the model's variables by `id`, such as "encoder/dense_1/kernel".

    A network has the name of the model's attribute; a layer that of its class, numbered among those
    of its class beside it. The variables of a shared layer have the first of its places.
    """
    found, seen = {}, {id(model)}
    _note_own(model, "", found)
    for name in getattr(model, "submodels", ()):
        network = getattr(model, name, None)
        if isinstance(network, keras.Layer):
            _walk(network, f"{name}/", found, seen)
    _walk_inside(model, "", found, seen)
    return found


def _walk(layer, prefix, found, seen):
    if id(layer) not in seen:
        seen.add(id(layer))
        _note_own(layer, prefix, found)
        _walk_inside(layer, prefix, found, seen)


def _walk_inside(layer, prefix, found, seen):
    times = Counter()
    for child in keras_internals.layers_of(layer):
        kind = type(child).__name__.lower()
        times[kind] += 1
        _walk(child, f"{prefix}{_numbered(kind, times[kind])}/", found, seen)


def _note_own(layer, prefix, found):
    times = Counter()
    seeds = [seed.state for seed in keras_internals.seed_generators(layer)]
    for variable in (*keras_internals.own_variables(layer), *seeds):
        times[variable.name] += 1
        found.setdefault(id(variable), prefix + _numbered(variable.name, times[variable.name]))


def _numbered(name, time):
    return name if time == 1 else f"{name}_{time - 1}"
