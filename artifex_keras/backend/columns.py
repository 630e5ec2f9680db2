"""The parts of a batch or of arrays: data, targets and sample weights, by place or by name."""

import keras

__all__ = ["NAMES", "split", "split_columns"]

# What a column of a dict may be called, by the part that it is.
NAMES = {
    "x": (
        "x",
        "image",
        "images",
        "tokens",
        "input_ids",
        "features",
        "inputs",
        "data",
        "pixel_values",
    ),
    "y": ("y", "label", "labels", "condition", "target", "targets"),
    "sample_weight": ("sample_weight", "sample_weights", "weight", "weights"),
}


def split(data):
    """`(x, y, sample_weight)` of `x`, `(x,)`, `(x, y)`, `(x, y, sample_weight)` or a dict of them.

    A part that isn't there is None. The columns of a dict are known by `NAMES`.

    Raises:
        ValueError: for a dict of other columns.
    """
    x, *others = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(x, dict):
        return x, *others
    x, *named = split_columns(x)
    for place, (given, column) in enumerate(zip(others, named, strict=True)):
        if given is not None and column is not None:
            name = tuple(NAMES)[place + 1]
            raise ValueError(
                f"`{name}` is there twice: as a column of the dict and beside it. Leave one out."
            )
    return x, *(b if a is None else a for a, b in zip(others, named, strict=True))


def split_columns(columns):
    """`(x, y, sample_weight)` of a dict of columns, None for a part that it lacks.

    Raises:
        ValueError: without a column of data, with two of one part, or with any other.
    """
    parts = {part: [name for name in names if name in columns] for part, names in NAMES.items()}
    known = {name for names in parts.values() for name in names}
    if len(parts["x"]) != 1 or max(map(len, parts.values())) > 1 or known != set(columns):
        x, y, weight = (" or ".join(map(repr, names)) for names in NAMES.values())
        raise ValueError(
            f"A dict of data has one column of data ({x}), and may have one of targets ({y}) and "
            f"one of weights ({weight}), no others. Received: the columns {list(columns)}. Rename "
            "them, leave others out, or pass a tuple: (columns['a'],) or (columns['a'], "
            "columns['b']), in a dataset by its `map`."
        )
    return tuple(columns[names[0]] if names else None for names in parts.values())
