"""What a model refuses, said at the place where it enters."""

import math

import keras

from artifex_keras import backend
from artifex_keras.arguments import nearest
from artifex_keras.backend import keras_internals, processes
from artifex_keras.backend.sources import describe, is_arrays
from artifex_keras.models import data_contract

COMPILE = ("steps_per_execution", "run_eagerly", "jit_compile", "on_nan")  # of Keras and ours


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


def compile_arguments(family, optimizer, given, accepted=()):
    """`compile` needs an optimizer and takes no loss: the family is its loss."""
    accepted = ("optimizer", *accepted, *COMPILE)
    unknown = given.keys() - set(accepted)
    if unknown:
        near = "".join(nearest(name, accepted) for name in sorted(unknown))
        raise ValueError(
            f"{family}.compile takes no {', '.join(f'`{name}`' for name in sorted(unknown))}."
            f"{near} The family defines its objective and its metrics; its constructor changes "
            "them."
        )
    if optimizer is None:
        raise ValueError(
            f"`compile` needs an optimizer, for example {family}.compile(optimizer='adamw')."
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
            f"This {family} takes no labels. Received: "
            f"{_form(_example(y.shape))} per example. Leave them out: it learns x alone. {hint}"
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


def condition_shape(given, spec, integral=False):
    """Raises unless a condition, or none, has the shape that the networks take, `spec`.

    `integral`: whether labels must be integers, and not only whole numbers.
    """
    if given is None or spec is None:
        return
    expected, received = _example(spec.shape), _example(given.shape)
    dtype = keras.backend.standardize_dtype(given.dtype)
    integers = "int" in keras.backend.standardize_dtype(spec.dtype)
    if received != expected or (integral and integers and "int" not in dtype):
        raise ValueError(
            f"The condition must be {'integer labels' if integers else 'floats'} of shape "
            f"{expected} per example, as the networks take it. Received: shape {received}, {dtype}."
            f"{_way_out(received) if integers else ''}"
        )


def _way_out(shape):
    """How labels of another form become integers (B,)."""
    if shape == (1,):
        return " Labels (N, 1) become (N,) by labels[:, 0]."
    if len(shape) == 1:
        return " One-hot labels become integers by labels.argmax(axis=-1)."
    return " Whole numbers in floats become integers by labels.astype('int32')."


def same_event_shape(name, shape, data_shape, *, expected=None):
    """Raises unless a network's output has the data's shape behind the batch axis."""
    received, data = _example(shape), _example(data_shape)
    wanted = data if expected is None else tuple(expected)
    if received != wanted:
        raise ValueError(
            f"The {name}'s output must have the shape {wanted} per example, as the data has. "
            f"Received: an output of shape {received} for data of shape {data}."
            f"{_reshaped(data, received)}"
        )


def data_shape(x, expected, what="The data"):
    """Raises unless `x` has the shape behind the batch axis for which the model was built."""
    received, expected = _example(x.shape), tuple(expected)
    if received == expected and len(x.shape):
        return
    if tuple(x.shape) == expected:
        found = f"an array of shape {expected}"
        cure = " That is one example, without an axis for the batch: array[None] gives it one."
    else:
        found, cure = f"shape {received} per example", _reshaped(received, expected)
    raise ValueError(
        f"{what} must have the shape {expected} per example, for which the networks were built. "
        f"Received: {found}.{cure}"
    )


def call_inputs(model, inputs):
    """Raises unless `inputs` are as many, and of such shapes, as `model` is called with."""
    wanted = keras.tree.flatten(model.call_signature())
    given = [part for part in keras.tree.flatten(inputs) if hasattr(part, "shape")]
    names = [spec.name for spec in wanted]
    form = names[0] if len(names) == 1 else f"[{', '.join(names)}]"
    for spec, part in zip(wanted, given, strict=False):
        data, expected = _example(part.shape), _example(spec.shape)
        if model.takes_shorter and len(data) == 1:  # rows of tokens
            expected = (None,)
        if len(given) == len(wanted) and not _fits(data, expected):
            one = tuple(part.shape) == expected
            cure = f" One example needs an axis for the batch: {spec.name}[None]." if one else ""
            raise ValueError(
                f"This {type(model).__name__} is called with {form}, where {spec.name} has the "
                f"shape {expected} per example. Received: {spec.name} of shape "
                f"{tuple(part.shape)}.{cure or _reshaped(data, expected)}"
            )
    if len(given) != len(wanted):
        shapes = ", ".join(str(tuple(part.shape)) for part in given[:4])
        raise ValueError(
            f"This {type(model).__name__} is called with {form}. Received: {len(given)} "
            f"array{'s' * (len(given) != 1)}, of shape {shapes}{', ...' * (len(given) > 4)}."
        )


def _example(shape):
    """The shape of an example, by that of a batch."""
    return tuple(shape[1:])


def _form(shape):
    return f"targets of shape {shape}" if shape else "one number"


def _fits(shape, expected):
    """Whether Keras takes `shape` for `expected`: it adds and drops a last axis of 1."""
    forms = [shape, (*shape, 1), *([shape[:-1]] if shape[-1:] == (1,) else [])]
    return any(
        len(form) == len(expected)
        and all(None in pair or len(set(pair)) == 1 for pair in zip(form, expected, strict=True))
        for form in forms
    )


def _reshaped(shape, wanted):
    """How data of `shape` per example become data of shape `wanted`; nothing if they can't."""
    if None in (*shape, *wanted) or math.prod(shape) != math.prod(wanted) or shape == wanted:
        return ""
    if (*shape, 1) == wanted:
        return " Give the data an axis of channels: x[..., None]."
    if (*wanted, 1) == shape:
        return " Take the data's last axis away: x[..., 0]."
    return f" The data become so by x.reshape({', '.join(map(str, (-1, *wanted)))})."


def takes(name, network, shape, what):
    """Raises unless a functional network's first input takes arrays of this shape."""
    inputs = getattr(network, "inputs", None)
    if not inputs:
        return
    expected, received = _example(inputs[0].shape), _example(shape)
    known = zip(expected, received, strict=False)
    cure = "Make both networks with the same one."
    if what == "The data":
        cure = _reshaped(received, expected).strip() or "Make the network for this shape."
    if len(expected) != len(received) or any(
        None not in pair and len(set(pair)) > 1 for pair in known
    ):
        raise ValueError(
            f"{what} must have the shape that the {name} takes, {expected} per example. Received: "
            f"{received}. {cure}"
        )
