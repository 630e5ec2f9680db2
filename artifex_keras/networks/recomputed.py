"""Networks of which training keeps less: the gradient computes parts of them once more."""

import inspect

import keras

from artifex_keras import backend
from artifex_keras.arguments import optional, row_of
from artifex_keras.backend import keras_internals

__all__ = ["Recomputed", "assembled", "layers_between", "recompute", "recomputable"]


def layers_between(output, *inputs):
    """The names of the layers that make the symbolic `output` of `inputs`, its own last."""
    names, known = [], {*map(id, inputs)}

    def visit(tensor):
        if id(tensor) not in known:
            known.add(id(tensor))
            operation, needed = keras_internals.origin(tensor)
            for x in needed:
                visit(x)
            names.append(operation.name)

    visit(output)
    return tuple(dict.fromkeys(names))


def assembled(inputs, outputs, remat, parts, name):
    """A functional model, of whose `parts` the gradient keeps less if `remat`."""
    return Recomputed(inputs, outputs, name=name, parts=parts, remat=remat)


def recomputable(model):
    """The networks inside a model that have the attribute `remat` and are trained, a list."""
    layers = keras_internals.all_layers(model)
    return [each for each in layers if _has_remat(each) and each.trainable_variables]


def _has_remat(layer):
    return getattr(layer, "remat_modes", ()) and getattr(layer, "parts", True)


def recompute(model, mode):
    """Sets `remat` of all networks in a model that have it.

    Raises:
        ValueError: where there are none, or one of them hasn't this mode.
    """
    found = recomputable(model)
    if not found:
        raise ValueError(
            "`remat` needs a network that can compute parts of itself once more: a "
            "`CausalTransformer`, `unet` or `dit`. "
            f"Received: remat={mode!r} for {type(model).__name__} {model.name!r}, which trains "
            "none. Leave it out, and make the layers of other networks in a `keras.RematScope`. "
            "A U-Net or DiT of a file of earlier versions: make it anew and load its weights."
        )
    for network in found:
        network.remat = mode


@keras.saving.register_keras_serializable(package="artifex_keras")
class Recomputed(keras.Model):
    """The functional model of these inputs and outputs, with the same layers and weights in the
    same order. Of each of its `parts` the gradient keeps what goes in, and computes the rest of it
    once more: more time, less memory, the same numbers.

    A part is a tuple of names of layers. The last of them makes all that leaves the part.
    `keras.models.clone_model` makes a network of the same function without parts, which keeps all.
    The attribute `remat` is "full", or None to keep all; it may be set before `compile`.
    """

    remat_modes = ("full",)

    def __init__(self, inputs, outputs, name=None, **kwargs):  # as Keras's own, for `from_config`
        parts = kwargs.pop("parts", ())
        remat = kwargs.pop("remat", "full" if parts else None)  # earlier files have parts alone
        super().__init__(inputs, outputs, name=name, **kwargs)
        self.parts = tuple(map(tuple, parts))
        self.place = {layer: place for place, part in enumerate(self.parts) for layer in part}
        self.given = tuple(map(self._given, self.parts))
        self.training_ones = {
            operation.name
            for operation in self.operations
            if "training" in inspect.signature(operation.call).parameters
        }
        self.remat = remat

    @property
    def remat(self):
        """ "full", or None where the gradient keeps all."""
        return self._remat

    @remat.setter
    def remat(self, mode):
        mode = optional(row_of(dict.fromkeys(self.remat_modes), "remat"))("remat", mode)
        if mode is not None and not self.parts:
            raise ValueError(
                f"`remat` needs a network with parts: {self.name!r} is a copy without them. Make "
                f"it anew, and load its weights. Received: remat={mode!r}."
            )
        self._remat = mode

    def _given(self, part):
        """The symbolic tensors that go into a part."""
        given = {}
        for operation in map(self.get_layer, part):
            for x in keras_internals.call_inputs(operation):
                if keras_internals.origin(x)[0].name not in part:
                    given[id(x)] = x
        return tuple(given.values())

    def call(self, inputs, training=None, mask=None):
        if self.remat is None:
            return super().call(inputs, training=training, mask=mask)
        tensors = keras_internals.functional_inputs(self, inputs)
        values = dict(zip(map(id, self.inputs), tensors, strict=True))
        made = [self._value(output, values, training) for output in self.outputs]
        return made[0] if len(made) == 1 else made

    def _value(self, tensor, values, training, inside=None):
        """What a symbolic tensor is, where `values` holds those known so far by their ids."""
        if id(tensor) in values:
            return values[id(tensor)]
        operation, needed = keras_internals.origin(tensor)
        place = self.place.get(operation.name)
        if place not in (None, inside):
            needed = self.given[place]
        xs = [self._value(x, values, training, inside) for x in needed]
        if place in (None, inside):
            said = training is not None and operation.name in self.training_ones
            keras_internals.compute(tensor, values, **({"training": training} if said else {}))
        else:
            values[id(tensor)] = backend.recomputed(
                lambda *xs: self._value(
                    tensor, dict(zip(map(id, needed), xs, strict=True)), training, place
                ),
                *xs,
            )
        return values[id(tensor)]

    def get_config(self):
        return {**super().get_config(), "parts": self.parts, "remat": self.remat}
