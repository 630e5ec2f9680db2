"""The door for data: whatever Keras users have, in the one form that families train on."""

import keras
import numpy as np

from artifex_keras.arguments import share
from artifex_keras.backend.columns import split
from artifex_keras.backend.sources import describe, is_arrays, readable_batches
from artifex_keras.models import checks, data_contract
from artifex_keras.models.batch import beside_weights

# What makes numbers of texts, where a model has nothing of its own for them.
TEXTS = (
    "A tokenizer makes ids of them, such as datasets.CharacterTokenizer; `SFT` takes texts as they "
    "are, with a tokenizer, or with that of a KerasHub model."
)

__all__ = ["evaluate_arguments", "fit_arguments", "inputs", "packed", "readable"]


def fit_arguments(model, arguments):
    """The arguments of `fit`, by name, as Keras reads them, after a look at the data."""
    if arguments.get("x") is None:
        raise ValueError("`fit` needs data to learn from: fit(x). Received: x=None.")
    _check_no_texts(arguments["x"], "fit", TEXTS)
    share("validation_split", arguments.get("validation_split") or 0.0)
    _check_end("steps_per_epoch", arguments.get("x"), arguments.get("steps_per_epoch"))
    _check_batched(model, arguments["x"])
    x, y, weight = _parts(model, arguments)
    checks.arrays(model, x, y)
    _hold(model, x, y, weight)
    if arguments.get("class_weight") is not None:
        _check_classes(x, y)
    held_out = arguments.get("validation_data")
    if held_out is not None:
        _check_end("validation_steps", held_out, arguments.get("validation_steps"))
        held_out = _validation(model, held_out)
    return {**arguments, **_named(x, y, weight), "validation_data": held_out}


def _check_no_texts(x, method, way):
    listed = isinstance(x, (list, tuple)) and bool(x) and all(isinstance(row, str) for row in x)
    if listed or isinstance(x, str) or getattr(getattr(x, "dtype", None), "kind", "") in ("U", "S"):
        raise ValueError(f"`{method}` takes numbers. Received: texts. {way}")


def evaluate_arguments(model, x, y, weight, steps):
    """`x`, `y` and `sample_weight` of `evaluate`, as Keras reads them."""
    _check_no_texts(x, "evaluate", TEXTS)
    _check_end("steps", x, steps)
    parts = readable(x, y, weight, columns=model.takes_columns)
    _hold(model, *parts)
    return _named(*parts)


def inputs(model, x, steps=None):
    """What `predict` is given, as Keras reads it: a list of arrays is several inputs there."""
    _check_no_texts(x, "predict", model.way_with_texts or TEXTS)
    several = isinstance(x, (list, tuple)) and len(x) > 1 and is_arrays(x)
    if not several and not model.takes_columns:
        _check_end("steps", x, steps)
        x = readable(x)[0]
    if is_arrays(x) and model.built:
        if not model.takes_columns:
            x = _examples(model, x) if several else x
            checks.call_inputs(model, x)
        data_contract.check_inputs(model.data_contract(), x)
    return x


def _examples(model, x):
    """A list of examples as one array, where `model` is called with one; else as it is."""
    wanted = keras.tree.flatten(model.call_signature())
    shapes = {tuple(getattr(part, "shape", ())) for part in x}
    if len(wanted) == 1 and shapes == {tuple(wanted[0].shape[1:])}:
        return np.stack([keras.ops.convert_to_numpy(part) for part in x])
    return x


def readable(x, y=None, sample_weight=None, columns=False):
    """`(x, y, sample_weight)` of data in any form, as Keras reads them; None for what is missing.

    - A tuple or a list of up to three arrays is (x, y, sample_weight); a longer list of arrays of
      one shape has an example in each, and so has a list of numbers.
    - A dict of arrays has its parts by the names in `backend.columns.NAMES`.
    - A table of pandas is an array of its numbers.
    - Batches, of any loader or iterator, stay batches: tensors, tuples or dicts.

    Args:
        columns: whether dicts are left as they are, for an algorithm with columns of its own.

    Raises:
        ValueError: for a dict of other columns, a table with columns that are no numbers, and what
            is no data.
    """
    if columns and isinstance(x, dict):
        return x, y, sample_weight
    x = keras.tree.map_structure(_without_pandas, _rows(x))
    if is_arrays(x):
        if isinstance(x, (tuple, list)) and (y is not None or sample_weight is not None):
            x = x[0] if len(x) == 1 else x
        elif not columns:
            x, *own = split(x)
            y, sample_weight = (
                (own[0] if y is None else y),
                (own[1] if sample_weight is None else sample_weight),
            )
    else:
        x = readable_batches(x)
    y, sample_weight = (
        keras.tree.map_structure(_without_pandas, _rows(part)) for part in (y, sample_weight)
    )
    return x, y, sample_weight


def packed(data, columns=False):
    """Data of a trainer, as `readable` makes them: x, or a tuple where there is more."""
    parts = readable(data, columns=columns)
    return parts[0] if parts[1] is None and parts[2] is None else parts


def _parts(model, arguments):
    given = (arguments.get(name) for name in ("x", "y", "sample_weight"))
    return readable(*given, columns=model.takes_columns)


def _hold(model, x, y, weight):
    """Holds all rows of arrays to the model's contract, and builds it by them before."""
    if is_arrays((x, y)):
        model.build_from_batch(lambda: (x, y))
        checks.values(model, x, y, weight)


def _named(x, y, weight):
    y = beside_weights(x, y, weight) if is_arrays(x) else y
    return {"x": x, "y": y, "sample_weight": weight}


def _validation(model, data):
    if isinstance(data, (tuple, list)) and len(data) <= 3:
        parts = keras.utils.unpack_x_y_sample_weight(tuple(data))
        x, y, weight = readable(*parts, columns=model.takes_columns)
    else:
        x, y, weight = readable(data, columns=model.takes_columns)
    _hold(model, x, y, weight)
    return tuple(_named(x, y, weight).values()) if is_arrays(x) else x


def _rows(data):
    """A list of numbers, or of more arrays of one shape than a batch has parts, as one array."""
    if isinstance(data, dict):
        return {name: _rows(column) for name, column in data.items()}
    if not isinstance(data, (list, tuple)) or not data:
        return data
    leaves = keras.tree.flatten(data)
    if all(isinstance(leaf, (int, float, np.number)) for leaf in leaves):
        return np.asarray(data)
    shapes = {tuple(leaf.shape) for leaf in leaves if hasattr(leaf, "shape")}
    if len(leaves) == len(data) > 3 and len(shapes) == 1 and is_arrays(data):
        return np.stack([keras.ops.convert_to_numpy(leaf) for leaf in leaves])
    return data


def _without_pandas(data):
    """A DataFrame as an array (N, columns), a Series as one of N; anything else as it is."""
    if not hasattr(data, "iloc"):
        return data
    kinds = data.dtypes if hasattr(data, "columns") else {data.name: data.dtype}
    others = [name for name, kind in kinds.items() if getattr(kind, "kind", "O") not in "biuf"]
    if others:
        raise ValueError(
            f"The columns of a table must be numbers. Received: the columns {others} of other "
            "types. Leave them out, or turn them into numbers."
        )
    array = data.to_numpy()
    return array.astype("float32") if array.dtype == object else array


def _check_batched(model, data):
    """Raises for a tf.data pipeline of single examples, where the model knows their shape."""
    spec = keras.tree.flatten(getattr(data, "element_spec", None))[0]
    example = getattr(model, "data_shape", None)
    rank = getattr(getattr(spec, "shape", None), "rank", None)
    if example and rank is not None and tuple(spec.shape) == tuple(example):
        raise ValueError(
            "A dataset must give batches. Received: one that gives single examples, of shape "
            f"{tuple(example)}. dataset.batch(32) makes batches of them."
        )


def _check_end(name, data, steps):
    """Raises for data that are known to have no end, without a number of steps."""
    if not steps and not _limit() and describe(data).endless:
        raise ValueError(
            f"The data have no end: say with `{name}` how many batches are read. Received: "
            f"{name}={steps}."
        )


def _limit():
    """How many steps `keras.config` allows an epoch, to debug it; None without a limit."""
    limit = getattr(keras.config, "max_steps_per_epoch", None)
    return limit() if limit else None


def _check_classes(x, y):
    """Raises for `class_weight` of data that have no classes, where that can be seen."""
    if is_arrays(x):
        missing = y is None
    elif hasattr(x, "element_spec"):
        missing = split(x.element_spec)[1] is None
    elif isinstance(x, keras.utils.PyDataset):
        missing = split(x[0])[1] is None
    else:
        return  # Keras says that it takes none there
    if missing:
        raise ValueError(
            "`class_weight` weighs examples by their class in `y`, and there is no `y`. Weigh them "
            "by `sample_weight`, or leave `class_weight` out."
        )
