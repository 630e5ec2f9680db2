"""Equal layers as one scan on JAX: a program has one of them, with the weights of each in turn.

The weights of all layers are one variable for each weight of a layer, with the layers as its first
axis. That is what a step takes, gives and updates, so it is as small for 80 layers as for two, and
no copy of the weights is made. Layers that are `Stacked` see their parts of those variables, so
that all else finds the layers that it would find without: files, names, generation.
"""

import jax
import keras
from jax import numpy as jnp

from artifex_keras.backend import keras_internals, looped
from artifex_keras.backend.jax.gradients import SAVED
from artifex_keras.backend.scope import ReadThroughScope
from artifex_keras.utils import attribute_of

__all__ = ["Stacked", "through_layers"]


def through_layers(body, layers, x, *, remat=None, stack=None):
    """What becomes of `x` by ``x = body(layer, x)`` for each of `layers`, in order.

    With their `stack` a program has the body once, however many layers there are. Outside of
    programs, where nothing is compiled, they run one by one.

    Args:
        body: a function of a layer and a tensor; it may assign the layer's own variables.
        layers: built layers.
        x: a tensor, of which the body makes one of the same shape and dtype.
        remat: the mode of `recomputed`, or None to keep all for the gradient.
        stack: a `Stacked` of these layers, or None.
    """
    if stack is None or not isinstance(x, jax.core.Tracer):
        return looped.through_layers(body, layers, x, remat=remat)
    first, assigned = layers[0], []
    own = [variable.slices[0] for variable in stack.variables]

    def scanned(x, values):
        with ReadThroughScope(zip(own, values, strict=True)) as scope:
            x = body(first, x)
            assigned[:], changes = scope.updates()
        return x, changes

    if remat is not None:  # a loop is a barrier: nothing undoes the second computation
        scanned = jax.checkpoint(scanned, policy=SAVED[remat], prevent_cse=False)
    x, changes = jax.lax.scan(scanned, x, [variable.value for variable in stack.variables])
    for variable, values in zip(assigned, changes, strict=True):
        variable.stack.assign(values)
    return x


class Stacked(keras.Layer):
    """The variables of equal layers, stacked: one for each of a layer's, (layers, ...).

    The layers are built already. From now on their variables are parts of these. They must not be
    sublayers of any layer; files are written and read by them.
    """

    def __init__(self, layers, **kwargs):
        super().__init__(**kwargs)
        columns = list(zip(*(layer.variables for layer in layers), strict=True))
        weights = {id(weight) for weight in layers[0].weights}
        self.stacks = [_stack(column) for column in columns if id(column[0]) in weights]
        self.seeds = [_seed(column) for column in columns if id(column[0]) not in weights]
        object.__setattr__(self, "parts", tuple(layers))  # past Keras, which looks for layers
        self.built = True
        for layer in layers:
            for part in keras_internals.all_layers(layer):
                part.__class__ = _part_class(type(part))

    def save_own_variables(self, store):
        pass  # its parts do

    def load_own_variables(self, store):
        pass

    def enable_lora(self, *args, **kwargs):
        """Not offered: raises."""
        raise _unsupported("LoRA", self)

    def quantize(self, *args, **kwargs):
        """Not offered: raises."""
        raise _unsupported("`quantize`", self)


def _unsupported(what, layer):
    return ValueError(
        f"`scan_layers=True` keeps the weights of all blocks together, which excludes {what} of "
        "blocks. Make the network with `scan_layers=False` and load the weights into it: files, "
        f"checkpoints and `set_weights` are the same. Received: {what} of {layer.name!r}."
    )


def _stack(column):
    first = column[0]
    variable = keras.Variable(
        jnp.stack([each.value for each in column]),
        dtype=first.dtype,
        trainable=first.trainable,
        autocast=keras_internals.autocasts(first),
        name=first.name,
    )
    keras_internals.set_path(variable, first.path)
    for place, each in enumerate(column):
        keras_internals.set_value(each, None)
        each.__class__, each.stack, each.place = _Slice, variable, place
    variable.slices = tuple(column)
    return variable


def _seed(column):
    generator = keras.random.SeedGenerator(0)
    generator.state = _stack(column)
    return generator


class _Slice(keras.Variable):
    """A layer's part of a stacked variable: what it is assigned is assigned there."""

    @property
    def value(self):
        if keras_internals.stateless_value(self) is not None:
            return super().value
        return self.stack.value[self.place]

    def assign(self, value):
        if keras_internals.stateless_value(self) is not None:
            return super().assign(value)
        value = jnp.asarray(value, dtype=self.dtype)
        if value.shape != tuple(self.shape):
            raise ValueError(
                f"The value of {self.path!r} must have the shape {tuple(self.shape)}. "
                f"Received: shape {value.shape}."
            )
        self.stack.assign(self.stack.value.at[self.place].set(value))
        return value

    trainable = attribute_of("stack", "trainable")


SETTINGS = {"activation", "dtype_policy", "epsilon", "rate", "trainable"}  # of one of the layers


class _Part:
    """What a layer whose variables are stacked doesn't do by itself."""

    def __setattr__(self, name, value):
        if name in SETTINGS:
            raise _unsupported(f"setting `{name}`", self)
        super().__setattr__(name, value)

    def enable_lora(self, *args, **kwargs):
        """Not offered: raises."""
        raise _unsupported("LoRA", self)

    def quantize(self, *args, **kwargs):
        """Not offered: raises."""
        raise _unsupported("`quantize`", self)


def _part_class(kind):
    """The class of that name, as files ask for it, of layers with stacked variables."""
    if kind not in _part_classes:
        _part_classes[kind] = type(kind.__name__, (_Part, kind), {"__module__": kind.__module__})
    return _part_classes[kind]


_part_classes = {}
