"""Computing in half the bits, keeping in full: for models that are already built.

`keras.config.set_dtype_policy("mixed_bfloat16")` does it for layers made afterwards. Here the
layers of a finished model are switched, and back. Variables, the model's losses and averages stay
float32 in either case; for float16 the optimizer scales the loss, which `GenerativeModel.compile`
sees to.
"""

import weakref

import keras

from artifex_keras.arguments import checked, instance_of, lookup
from artifex_keras.backend import keras_internals

__all__ = ["PRECISIONS", "set_precision"]

PRECISIONS = {
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
    "float32": "float32",
    "mixed_bfloat16": "mixed_bfloat16",
    "mixed_float16": "mixed_float16",
}

# The policy that a layer had before it was switched here.
_before = weakref.WeakKeyDictionary()


@checked(model=instance_of(keras.Layer, what="a Keras layer or model"))
def set_precision(model: keras.Model, precision: bool | str = True):
    """Lets the networks of `model` compute in `precision`; afterwards the model must be compiled.

    A layer that was declared `dtype="float32"` on purpose, as output heads are, keeps it. Such
    a layer is recognised because its policy isn't the session's default one. In a model loaded from
    a file the two kinds look the same, and all layers are switched.

    Args:
        model: a family's model, whose parts are switched, or any Keras layer.
        precision: True or `"bfloat16"`; `"float16"`; `"float32"`, which takes mixed precision away
            whoever chose it; False, which takes back what this function did, and no more.

    Raises:
        ValueError: for an unknown name.

    Example:

        ```python
        import artifex_keras as ak

        encoder = ak.networks.mlp_encoder((6,), 2, (8,))
        vae = ak.VAE(encoder, ak.networks.mlp_decoder(2, (6,), (8,)))
        ak.set_precision(vae, "bfloat16")
        print(vae.encoder.layers[1].compute_dtype)  # bfloat16
        ```
    """
    precision = "bfloat16" if precision is True else precision
    policy = None
    if precision is not False:
        policy = keras.DTypePolicy(lookup(PRECISIONS, precision, "precision"))
    for network in _networks(model):
        _switch(network, policy)
    _forget_programs(model)


def _networks(model):
    """The parts of a family's model: it itself must hand them its data in float32."""
    parts = [getattr(model, name) for name in getattr(model, "submodels", ())]
    return [part for part in parts if isinstance(part, keras.Layer)] or [model]


def _switch(network, policy):
    layers = keras_internals.all_layers(network)
    if policy is None:
        for layer in layers:
            if layer in _before:
                layer.dtype_policy = _before.pop(layer)
    elif policy.name == "float32":
        for layer in layers:
            if layer.dtype_policy.name.startswith("mixed_"):
                layer.dtype_policy = _before.pop(layer, policy)
    else:
        for layer in _switchable(layers):
            _before.setdefault(layer, layer.dtype_policy)
            layer.dtype_policy = policy


def _switchable(layers):
    mixed = [layer for layer in layers if layer.dtype_policy.name.startswith("mixed_")]
    plain = [layer for layer in layers if layer.dtype_policy.name == "float32"]
    default = keras.config.dtype_policy()
    by_default = [layer for layer in plain if layer.dtype_policy is default]
    # A file says the policy of each layer, though not of the networks that contain them.
    loaded = not mixed and not any(map(keras_internals.own_variables, by_default))
    return mixed + (plain if loaded else by_default)


def _forget_programs(model):
    """Drops what was compiled for the other precision; float16 needs another optimizer besides."""
    if hasattr(model, "compiled_methods"):
        model.compiled_methods = {}
    if getattr(model, "compiled", False):
        model.predict_function = None
        model.compiled = False
