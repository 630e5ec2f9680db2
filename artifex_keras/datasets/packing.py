"""Rows of several lengths, packed into rows of one length that are nearly full."""

import warnings

import numpy as np

from artifex_keras.aliases import Data
from artifex_keras.arguments import checked, integer, lookup
from artifex_keras.datasets.rows import ids_of

__all__ = ["PACKINGS", "pack_columns", "packed"]


@checked()
def packed(rows: Data, length: int, strategy: str = "best_fit"):
    """Rows of ids of any lengths as few rows of `length`: a dict of int32 arrays (N, length).

    | name | holds |
    |---|---|
    | "ids" | the ids, 0 at padding |
    | "segments" | 1, 2, ... for the pieces of a row, 0 at padding |
    | "positions" | the place of each id in its piece, from 0 |

    A network that is called with `[ids, segments]` sees each piece alone, as if it had a row of its
    own: see `CausalTransformer`.

    Args:
        rows: a list of rows of ids.
        length: of the rows that come out.
        strategy: `"best_fit"` puts each row, the longest first, into the fullest place where it
            fits, so every row stays whole; only rows above `length` lose their ends, of which a
            warning says how many. `"wrapped"` joins all rows and cuts them every `length` ids: no
            padding but in the last row, and a row that is cut goes on in the next one as a piece
            of its own.

    Raises:
        ValueError: for no rows, an empty row, what are no ids, and an unknown strategy.

    Example:

    ```python
    import artifex_keras as ak

    arrays = ak.datasets.packed([[5, 6, 7], [8], [9, 9]], length=4)
    print(arrays["ids"])  # [[5 6 7 8], [9 9 0 0]]
    print(arrays["segments"])  # [[1 1 1 2], [1 1 0 0]]
    ```
    """
    return pack_columns({"ids": ids_of(rows, "rows")}, length, strategy)


def pack_columns(columns, length, strategy="best_fit"):
    """`packed`, of several columns whose rows have the same lengths: a dict of arrays by their
    names, of their dtypes, and "segments" and "positions"."""
    length = integer("length", length, minimum=1)
    plan = lookup(PACKINGS, strategy, "packing")
    rows = next(iter(columns.values()))
    lengths = np.array([len(row) for row in rows], "int64")
    if not lengths.size:
        raise ValueError("There must be at least one row. Received: none.")
    if not lengths.all():
        raise ValueError(
            f"A row must have at least one id. Received: none in row {int(np.argmin(lengths))}."
        )
    return _filled(columns, plan(lengths, length), length)


# A plan is a list of rows, each a list of pieces `(row, start, stop)`.


def best_fit(lengths, length):
    """Best-fit decreasing: each row, the longest first, goes where the least room is left."""
    lengths = _shortened(lengths, length)
    plan, waiting = [], [[] for _ in range(length + 1)]  # places in `plan` by the room they have
    rooms = 0  # bit r is 1 where a place has room r
    for row in np.argsort(-lengths, kind="stable").tolist():
        size = int(lengths[row])
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            place = waiting[room].pop()
            if not waiting[room]:
                rooms ^= 1 << room
        else:
            room, place = length, len(plan)
            plan.append([])
        plan[place].append((row, 0, size))
        if room > size:
            waiting[room - size].append(place)
            rooms |= 1 << room - size
    return plan


def _shortened(lengths, length):
    longer = int(np.sum(lengths > length))
    if longer:
        warnings.warn(
            f"{longer} of {len(lengths)} rows are longer than {length} ids, the longest has "
            f"{lengths.max()}: their ends are cut off. A greater length keeps them, and "
            "'wrapped' cuts nothing off.",
            stacklevel=4,
        )
    return np.minimum(lengths, length)


def wrapped(lengths, length):
    """All rows joined and cut every `length` ids."""
    ends = np.cumsum(lengths)
    plan = [[] for _ in range(-(-int(ends[-1]) // length))]
    for row, (end, size) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
        start = end - size
        for place in range(start // length, (end - 1) // length + 1):
            first, last = max(start, place * length), min(end, (place + 1) * length)
            plan[place].append((row, first - start, last - start))
    return plan


PACKINGS = {"best_fit": best_fit, "wrapped": wrapped}


def _filled(columns, plan, length):
    names = {name: np.asarray(rows[0]).dtype for name, rows in columns.items()}
    names |= {"segments": "int32", "positions": "int32"}
    arrays = {name: np.zeros((len(plan), length), dtype) for name, dtype in names.items()}
    counted = np.arange(length, dtype="int32")
    for index, pieces in enumerate(plan):
        at = 0
        for number, (row, start, stop) in enumerate(pieces, 1):
            here = index, slice(at, at + stop - start)
            for name, rows in columns.items():
                arrays[name][here] = rows[row][start:stop]
            arrays["segments"][here] = number
            arrays["positions"][here] = counted[: stop - start]
            at += stop - start
    return arrays
