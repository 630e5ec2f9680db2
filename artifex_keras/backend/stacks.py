"""Variables that hold those of several equal layers, and their parts: what files and lists of
weights have in their place, so that these are the same with and without a scan over layers.

A stacked variable has the attribute `slices`, a tuple of the layers' variables, which are parts of
it. A layer with stacked variables has the attribute `parts`, the layers.
"""

import keras

from artifex_keras.backend import keras_internals

__all__ = [
    "KeepsStacks",
    "check_optimizers",
    "each_by_itself",
    "expanded",
    "owned_parts",
    "parts_and_values",
    "stack_of",
    "stacked_in",
    "stand_in",
]


def stacked_in(variables):
    """Those of some variables that are stacked, a list."""
    return [variable for variable in variables if hasattr(variable, "slices")]


def parts_and_values(layer):
    """Pairs of each layer's part of the stacked weights inside a layer, and its value."""
    stacked = stacked_in(getattr(layer, "weights", ()))
    return [(part, part.value) for variable in stacked for part in variable.slices]


def stack_of(variable):
    """`(stacked variable, place)` of what is a part of one; of others themselves and None."""
    if hasattr(variable, "stack") and hasattr(variable, "place"):
        return variable.stack, variable.place
    return variable, None


def stand_in(variable):
    """The first layer's part of a stacked variable, the variable itself where it isn't stacked."""
    slices = getattr(variable, "slices", None)
    return variable if slices is None else slices[0]


def each_by_itself(variables):
    """The variables of a model without stacks, in its order: layer by layer."""
    found, run = [], []
    for variable in [*variables, None]:
        slices = getattr(variable, "slices", None)
        if run and (slices is None or len(slices) != len(run[0])):
            found += [part for layer in zip(*run, strict=True) for part in layer]
            run = []
        if slices is not None:
            run.append(slices)
        elif variable is not None:
            found.append(variable)
    return found


# Optimizers that move each entry of a weight by itself, whatever it is a part of.
ENTRYWISE = {
    *("SGD", "Adam", "AdamW", "Nadam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "Ftrl", "Lion"),
    "ScheduleFreeAdamW",
}


def check_optimizers(optimizers, variables):
    """Raises for an optimizer that would update stacked variables in another way than their parts.

    `optimizers` are one and those inside it; a wrapper is as what it wraps.
    """
    if not stacked_in(variables):
        return
    for optimizer in optimizers:
        if getattr(optimizer, "clipnorm", None) is not None:
            raise _unequal(
                f"clipnorm={optimizer.clipnorm}, a norm of each weight", "global_clipnorm"
            )
        wraps = getattr(optimizer, "inner_optimizer", None) or getattr(optimizer, "parts", None)
        if not wraps and not ENTRYWISE & {kind.__name__ for kind in type(optimizer).__mro__}:
            name = type(optimizer).__name__
            raise _unequal(f"{name}, which isn't known to move each entry by itself", "AdamW")


def _unequal(received, example):
    return ValueError(
        "`scan_layers=True` keeps the weights of all blocks together, and needs an optimizer that "
        f"updates them as it would apart, such as `{example}`. Or make the network with "
        "`scan_layers=False`; its files and checkpoints are the same. Received: "
        f"{received}."
    )


def owned_parts(layer):
    """The layers whose variables a layer holds in stacks; none for other layers."""
    return getattr(layer, "parts", ()) if getattr(layer, "stacks", None) else ()


class PartOfState:
    """A layer's part of what an optimizer or an average keeps of a stacked weight."""

    def __init__(self, kept, weight, place):
        self.stack, self.place = kept, place
        self.path = kept.path.replace(_key(weight), _key(weight.slices[place]))
        self.name, self.dtype, self.shape = kept.name, kept.dtype, tuple(kept.shape)[1:]

    @property
    def value(self):
        """Its values of now."""
        return self.stack.value[self.place]


def expanded(variables, stacked):
    """`variables`, in which the parts stand for each stacked one and for what is kept of one."""
    keys = {_key(variable): variable for variable in stacked}
    found = []
    for variable in variables:
        slices = getattr(variable, "slices", None)
        weight = None if slices else _weight_of(variable, keys)
        if slices:
            found += slices
        elif weight is not None:
            places = range(len(weight.slices))
            found += [PartOfState(variable, weight, place) for place in places]
        else:
            found.append(variable)
    return found


def _weight_of(variable, keys):
    """The stacked variable of whose path and shape a variable is, by its name; None for others."""
    names = [key for key in keys if key in variable.path]
    weight = keys[max(names, key=len)] if names else None
    same = weight is not None and tuple(weight.shape) == tuple(variable.shape)
    return weight if same else None


def _key(variable):
    return variable.path.replace("/", "_")


class KeepsStacks:
    """A model whose list of weights is that of one without stacks, and which no `quantize` leaves
    half done.

    The class stands before `keras.Model` among the bases.
    """

    def get_weights(self):
        """The values of all weights, layer by layer."""
        return [keras.ops.convert_to_numpy(w.value) for w in each_by_itself(self.weights)]

    def set_weights(self, weights):
        """Sets all weights, from a list like that of `get_weights`, or one like `weights`."""
        own = each_by_itself(self.weights)
        if len(own) == len(self.weights) or len(weights) != len(own):
            super().set_weights(weights)
            return
        for variable, value in zip(own, weights, strict=True):
            variable.assign(value)

    def quantize(self, mode=None, config=None, filters=None, **options):
        """Quantises the layers as Keras does; refused before any where stacked ones are among them.

        Raises:
            ValueError: where the weights of blocks are kept together, as by `scan_layers=True`.
        """
        for layer in keras_internals.all_layers(self):
            parts = [p for part in owned_parts(layer) for p in keras_internals.all_layers(part)]
            if any(keras_internals.passes_filters(part, filters) for part in parts):
                layer.quantize(mode)
        return super().quantize(mode, config, filters, **options)
