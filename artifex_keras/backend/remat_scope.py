"""Layers that were made in a `keras.RematScope`: Keras gives all arguments of a call, `training`
among them, to the framework as tensors, and lets the second computation draw other noise."""

import keras
from keras import ops

from artifex_keras.backend import keras_internals

__all__ = ["follow_remat_scopes"]


def follow_remat_scopes(model, recomputed):
    """Lets layers of a model that were made in a `keras.RematScope` compute once more for the
    gradient what Keras would, by `recomputed`: with the same noise, and state assigned once."""

    def recompute(call, arguments, named):
        leaves = keras.tree.flatten((arguments, named))
        places = [place for place, leaf in enumerate(leaves) if ops.is_tensor(leaf)]

        def run(*tensors):
            filled = dict(enumerate(leaves)) | dict(zip(places, tensors, strict=True))
            given = keras.tree.pack_sequence_as((arguments, named), list(filled.values()))
            result = call(*given[0], **given[1])
            _check_losses(call)
            return result

        return recomputed(run, *(leaves[place] for place in places))

    for layer in keras_internals.all_layers(model):
        keras_internals.recompute_by(layer, recompute)


def _check_losses(call):
    """A loss that is added inside a computation that is done twice would be lost."""
    if keras_internals.stateless_scope().losses:
        layer = getattr(call, "__self__", None)
        name = getattr(layer, "name", "a layer")
        raise ValueError(
            "`keras.RematScope` must be around layers that add no losses inside, as "
            f"`activity_regularizer` does. Received: a loss inside {name!r}. Make the layers that "
            "hold others, such as a `Sequential`, outside the scope, or take `remat=` of our "
            "networks (`CausalTransformer`, `unet`, `dit`)."
        )
