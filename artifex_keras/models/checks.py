"""What a model refuses, said at the place where it enters."""

import keras

from artifex_keras import backend
from artifex_keras.backend import keras_internals, processes
from artifex_keras.backend.sources import describe, is_arrays
from artifex_keras.models import data_contract


def network(name, value):
    """A network: a Keras layer or model."""
    if not isinstance(value, keras.Layer):
        raise ValueError(
            f"`{name}` must be a keras.Model or keras.Layer. Received: {name}={value!r} "
            f"of type {type(value).__name__}."
        )
    if backend.name() != "tensorflow":
        _no_tensorflow_layers(name, value)
    return value


def _no_tensorflow_layers(name, network):
    """keras-cv's augmentations run on TensorFlow alone, and fail in a step compiled by another."""
    for layer in keras_internals.all_layers(network):
        if type(layer).__module__.startswith("keras_cv.src.layers.preprocessing"):
            raise ValueError(
                f"`{name}` holds {layer.name!r}, an augmentation of keras-cv, which only runs on "
                "TensorFlow. Put it into the data instead: "
                "fit(datasets.augmented(images, layers=[...]))."
            )


def compile_arguments(family, optimizer, unknown):
    """`compile` needs an optimizer and takes no loss: the family is its loss."""
    if optimizer is None:
        raise ValueError(
            f"`compile` needs an optimizer, for example {family}.compile(optimizer='adamw')."
        )
    if unknown:
        raise ValueError(
            f"{family}.compile takes no {', '.join(f'`{name}`' for name in sorted(unknown))}: "
            "the family defines its objective and its metrics; change them by its constructor."
        )


def arrays(model, x, y):
    """Looks at data given as arrays before `fit` starts; other sources are checked as they come."""
    leaves = [leaf for leaf in keras.tree.flatten((x, y)) if leaf is not None]
    if not is_arrays((x, y)):
        if not isinstance(x, dict) and describe(x).batches == 0:
            raise ValueError("The dataset is empty: there is nothing to train on.")
        return
    rows = min(len(leaf) for leaf in leaves)
    if rows == 0:
        raise ValueError(
            f"The dataset is empty. Received: arrays of shapes "
            f"{[tuple(leaf.shape) for leaf in leaves]}."
        )
    for name, part in (("x", x), ("y", y)):
        _check_numbers(name, part)
    model.check_condition(y)
    model.check_batch(*keras.tree.map_structure(lambda a: a[:256], (x, y), none_is_leaf=False))


def _check_numbers(name, part):
    kind = getattr(getattr(part, "dtype", None), "kind", "")
    if kind and kind in "OSU":  # of NumPy: objects and texts
        cure = (
            "numpy.unique(labels, return_inverse=True)[1] numbers labels that are texts."
            if name == "y"
            else "x.astype('float32') makes numbers of objects."
        )
        raise ValueError(f"`{name}` must hold numbers. Received: an array of {part.dtype}. {cure}")


def values(model, x, y=None, weight=None):
    """Holds every row of arrays to the model's contract; of one that isn't built what is known.

    Other sources are looked at as they come.
    """
    if not is_arrays((x, y)):
        return
    contract = model.data_contract() if model.built else data_contract.Contract()
    data_contract.check(contract.x, x)
    data_contract.check(contract.y, y)
    data_contract.check_weights(contract.weight, weight)


def first_batch(iterator):
    """The first batch of a Keras epoch iterator, all of it in each of several processes."""
    for _, _, source in iterator:
        batch = source[0] if isinstance(source, (list, tuple)) else next(source, None)
        if batch is None:
            break
        if processes.count() > 1:
            return keras.tree.map_structure(processes.to_host_array, batch, none_is_leaf=False)
        return batch
    raise ValueError("The dataset is empty: it gave no batch.")


def unconditional(family, y, hint):
    """Raises for labels given to a model that has no use for them."""
    if y is not None:
        raise ValueError(
            f"This {family} takes no labels. Received: targets of shape {tuple(y.shape)}. {hint}"
        )


def condition(family, given, spec, hint):
    """Raises for a condition that is missing, or given to a model that has no use for one.

    `spec` is that of the condition that its networks take, None for none.
    """
    if spec is None:
        unconditional(family, given, hint)
    elif given is None:
        raise ValueError(
            f"This {family} takes a condition of shape {tuple(spec.shape[1:])} per example: call "
            "fit(x, condition), sample(n, condition=...). Received: no condition."
        )


def condition_shape(given, spec):
    """Raises unless a condition, or none, has the shape that the networks take."""
    if given is not None and tuple(given.shape[1:]) != tuple(spec.shape[1:]):
        raise ValueError(
            "`condition` must have the shape that the networks take. Received: shape "
            f"{tuple(given.shape[1:])} for each example, and the networks take "
            f"{tuple(spec.shape[1:])}."
        )


def same_event_shape(name, shape, data_shape, *, expected=None):
    """Raises unless a network's output has the data's shape behind the batch axis."""
    expected = tuple(data_shape[1:]) if expected is None else tuple(expected)
    received = tuple(shape[1:])
    if received != expected:
        raise ValueError(
            f"The {name}'s output must have the shape {expected} per example, as the data has. "
            f"Received: an output of shape {received} for data of shape {tuple(data_shape[1:])}."
        )


def takes(name, network, shape, what):
    """Raises unless a functional network's first input takes arrays of this shape."""
    inputs = getattr(network, "inputs", None)
    if not inputs:
        return
    expected, received = tuple(inputs[0].shape[1:]), tuple(shape[1:])
    known = zip(expected, received, strict=False)
    if len(expected) != len(received) or any(
        None not in pair and len(set(pair)) > 1 for pair in known
    ):
        raise ValueError(
            f"{what} must have the shape that the {name} takes, {expected} per example. Received: "
            f"{received}. Make both networks with the same one."
        )
