"""Sets of examples as rows of float64 numbers, checked where they enter."""

import keras
import numpy as np

from artifex_keras.arguments import broken_rule

__all__ = ["checked_pair", "checked_rows", "squared_distances"]

CHUNK = 1024  # rows whose distances are held at once
LARGEST = 1e150  # in absolute value: squares of what is larger are no numbers


def checked_rows(name, values, *, least=1):
    """`values` as float64 rows (N, D): (N, ...) flattened, (N,) as (N, 1).

    Raises:
        ValueError: for fewer than `least` rows, or numbers that aren't real and finite.
    """
    try:
        array = np.asarray(keras.ops.convert_to_numpy(values))
        rows = array.astype("float64", casting="same_kind")
    except (TypeError, ValueError) as error:
        raise broken_rule(name, values, "an array of real numbers, (N, D) or (N, ...)") from error
    if rows.ndim == 0 or len(rows) < least or rows.size == 0:
        raise ValueError(
            f"`{name}` must be an array of at least {least} rows, (N, D) or (N, ...). Received: "
            f"an array of shape {rows.shape}."
        )
    rows = rows.reshape(len(rows), -1)
    fits = (np.abs(rows) < LARGEST).all(axis=1)  # NaN doesn't
    if not fits.all():
        raise ValueError(
            f"`{name}` must hold finite numbers, whose squares are finite too. Received: "
            f"{rows[fits.argmin()].tolist()[:5]} in row {fits.argmin()}."
        )
    return rows


def checked_pair(first, second, names=("real", "generated"), *, least=1):
    """Two arrays as rows of equal width, by `checked_rows`."""
    a, b = (
        checked_rows(name, x, least=least) for name, x in zip(names, (first, second), strict=True)
    )
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must have rows of one shape. Received: "
            f"{a.shape[1]} and {b.shape[1]} numbers in a row."
        )
    return a, b


def squared_distances(a, b):
    """Squared Euclidean distances (N, M) between the rows of `a` and of `b`."""
    centre = b.mean(axis=0)  # far from the origin a difference of squares loses digits
    a, b = a - centre, b - centre
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squares, 0.0, out=squares)


def in_chunks(rows):
    """Slices of at most `CHUNK` rows that cover `rows` rows."""
    return [slice(start, start + CHUNK) for start in range(0, rows, CHUNK)]
