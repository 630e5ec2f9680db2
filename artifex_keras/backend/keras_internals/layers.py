"""Layers, and what each of them has made and keeps."""

import contextlib
import functools

import keras

from .names import keras_module, uses


@uses("layer", "_flatten_layers")
def all_layers(layer, include_self=True):
    """A layer and all layers inside it at any depth, a list; public `layers` goes one level."""
    return list(layer._flatten_layers(include_self=include_self))


def layers_of(layer):
    """The layers directly inside a layer, in the order in which it got them, a list."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


@uses("layer", "_trainable_variables")
def own_trainable_variables(layer):
    """The trainable variables that this layer itself has made, frozen or not."""
    return layer._trainable_variables


@uses("layer", "_non_trainable_variables")
def own_non_trainable_variables(layer):
    """What this layer itself keeps and doesn't train, such as statistics; no seeds."""
    return layer._non_trainable_variables


def own_variables(layer):
    """The variables that this layer itself has made, without those of layers inside it."""
    return [*own_trainable_variables(layer), *own_non_trainable_variables(layer)]


@uses("layer", "_trainable")
def set_own_trainable(layer, value):
    """Freezes or thaws a layer by itself: `layer.trainable` would do so with all that is in it."""
    layer._trainable = value


@uses("layer", "_seed_generators")
def seed_generators(layer):
    """The seed generators that this layer itself has made, as dropout does."""
    return layer._seed_generators


@uses("layer", "_remat_mode", "rematerialized_call")
def recompute_by(layer, recompute):
    """Lets a layer made in a `keras.RematScope` call `recompute(call, arguments, named)` wherever
    Keras computes the whole call once more for the gradient."""
    mode, decide = layer._remat_mode, layer.rematerialized_call
    if not mode or "rematerialized_call" in vars(layer):
        return

    def rematerialized_call(call, *arguments, **named):
        decided = decide(call, *arguments, **named)
        if decided is call or mode.mode == "activations":
            return decided
        return lambda *arguments, **named: recompute(call, arguments, named)

    object.__setattr__(layer, "rematerialized_call", rematerialized_call)


@uses("layer", "_tracker", "_lock_state")
@contextlib.contextmanager
def unlocked(layer):
    """Inside, a built layer takes further variables, layers and metrics, as an unbuilt one does."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._lock_state()


def untrack(layer, part):
    """Lets a layer forget a layer or a variable inside it, which is then no longer the layer's."""
    layer._tracker.untrack(part)


@uses("keras.src.quantizers.utils", "should_quantize_layer")
def passes_filters(layer, filters):
    """Whether `quantize(..., filters=filters)` of a model changes a layer."""
    return keras_module("quantizers.utils").should_quantize_layer(layer, filters)


@uses("keras.src.distribution.distribution_lib", "distribute_tensor")
def place_by_shape():
    """From now on a distribution's layout for a layer's output may have a method `for_shape(shape)`
    that gives those of an output of that shape, which it takes one after the other. Keras asks for
    one by the layer's path alone."""
    library = keras_module("distribution.distribution_lib")
    distribute = library.distribute_tensor
    if hasattr(distribute, "by_shape"):
        return

    @functools.wraps(distribute)
    def distribute_tensor(tensor, layout):
        symbolic = isinstance(tensor, keras.KerasTensor)  # which lies nowhere, and has open sizes
        if symbolic or not hasattr(layout, "for_shape") or not hasattr(tensor, "shape"):
            return distribute(tensor, layout)
        for each in layout.for_shape(tuple(tensor.shape)):
            tensor = distribute(tensor, each)
        return tensor

    distribute_tensor.by_shape = True
    library.distribute_tensor = distribute_tensor
