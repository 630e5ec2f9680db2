"""Sharding a built model again, under another distribution."""

from typing import Any

import keras

from artifex_keras.backend import keras_internals
from artifex_keras.backend.placement import place_variable
from artifex_keras.backend.stacks import stand_in

__all__ = ["is_sharded", "layouts_of", "redistribute"]


def redistribute(model: keras.Model, distribution: Any):
    """Shards a built model over the devices of `distribution`.

    All its variables move: weights, their exponential moving average, seeds, metrics, and the
    optimizer's state of each weight. Those that are in place already aren't touched.

    Args:
        model: a `keras.Model`.
        distribution: a `keras.distribution` object; None brings all to the default device.

    Raises:
        ValueError: for a model that isn't built.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        encoder = ak.networks.mlp_encoder((6,), 2, (8,))
        vae = ak.VAE(encoder, ak.networks.mlp_decoder(2, (6,), (8,)))
        vae.compile(optimizer="adamw")
        x = np.random.default_rng(0).uniform(size=(32, 6)).astype("float32")
        vae.fit(x, epochs=1, verbose=0)
        distribution = ak.distributed.data_parallel(1)
        ak.distributed.redistribute(vae, distribution)
        with distribution.scope():
            vae.fit(x, epochs=1, verbose=0)
        ```
    """
    if not model.built:
        raise ValueError(
            f"`model` must be built before it can be sharded: {type(model).__name__} "
            f"{model.name!r} isn't. Build it, or build it under the distribution's scope."
        )
    before = getattr(model, "_sharded_as", (None,))[0]
    changed = getattr(before, "actors", None) is not getattr(distribution, "actors", None)
    layouts = layouts_of(model, distribution)
    for variable in _variables(model):
        layout = layouts.get(id(variable)) or _replicated_layout(variable, distribution)
        changed |= place_variable(variable, layout)
    if changed:  # what was compiled was compiled for the old places
        model.train_function = model.test_function = model.predict_function = None
        if hasattr(model, "compiled_methods"):
            model.compiled_methods = {}
    # Not by Keras's `__setattr__`, which would look through it for layers.
    object.__setattr__(model, "_sharded_as", (distribution, _state_of(model)))


def is_sharded(model, distribution):
    """Whether `redistribute` has done just this, and the model has the same variables still."""
    return getattr(model, "_sharded_as", None) == (distribution, _state_of(model))


def _state_of(model):
    return id(getattr(model, "optimizer", None)), len(_variables(model))


def _variables(model):
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *model.metrics_variables]
    variables += [] if optimizer is None else optimizer.variables
    return list({id(variable): variable for variable in variables}.values())


def layouts_of(model, distribution):
    """The layout of each weight that has one, and of what is kept of it, by the variable's id."""
    if distribution is None:
        return {}
    named = distribution.layouts(model) if hasattr(distribution, "layouts") else None
    found = {}
    for variable in model.variables:
        layout = _by_keras(variable, distribution) if named is None else named.get(variable.path)
        if layout is not None and len(layout.axes) == len(stand_in(variable).shape):
            layout = _over_layers(layout, variable)
        if layout is not None and len(layout.axes) == len(variable.shape):
            found[id(variable)] = layout
    for average, weight in _averages(model):
        found[id(average)] = found.get(id(weight))
    slots = getattr(getattr(model, "optimizer", None), "variables", [])
    weights = {weight.path.replace("/", "_"): weight for weight in model.trainable_variables}
    for slot in slots:
        weight = _weight_of(slot, weights)
        if weight is not None:
            found[id(slot)] = found.get(id(weight))
    return found


def _over_layers(layout, variable):
    """The layout of a layer's weight as that of those of all layers, where they are stacked."""
    if stand_in(variable) is variable:
        return layout
    return type(layout)((None, *layout.axes), layout.device_mesh)


def _by_keras(variable, distribution):
    before = keras_internals.layout_of(variable)
    keras_internals.set_layout(variable, None)  # or Keras would give it back
    layout = distribution.get_variable_layout(variable)
    keras_internals.set_layout(variable, before)
    return layout


def _averages(model):
    return zip(getattr(model, "_average", []), getattr(model, "_averaged", []), strict=True)


def _weight_of(slot, weights):
    """The weight that a variable of an optimizer belongs to, entry by entry; None for others.

    Keras names it after the weight's path.
    """
    names = [name for name in weights if slot.name.startswith(name)]
    weight = weights[max(names, key=len)] if names else None
    return weight if weight is not None and tuple(weight.shape) == tuple(slot.shape) else None


def _replicated_layout(variable, distribution):
    if distribution is None:
        return None
    return keras.distribution.TensorLayout([None] * len(variable.shape), distribution.device_mesh)
