"""Rows of texts or ids in the forms that people have them: as columns, as ids, as one array."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from keras import ops

from artifex_keras.arguments import integer, lookup, unknown_name
from artifex_keras.datasets.columns import read_columns
from artifex_keras.datasets.text import chat_text, is_chat
from artifex_keras.datasets.tokenizers import as_tokenizer

__all__ = [
    "bucket",
    "columns_of",
    "filled",
    "ids_of",
    "kept_end",
    "length_limit",
    "required",
    "shown",
    "started",
]


def bucket(length):
    """The width that rows up to `length` are padded to: a power of two from 16 to 64, then a
    multiple of 64, so that few programs serve all lengths."""
    for width in (16, 32):
        if length <= width:
            return width
    return 64 * -(-length // 64)


def filled(rows, width, pad=0):
    """int32 (B, `width`), each row of ids with `pad` after it."""
    ids = np.full((len(rows), width), pad, "int32")
    for place, row in zip(ids, rows, strict=True):
        place[: len(row)] = row
    return ids


# Columns


def columns_of(rows):
    """`{name: column}` of rows: a list of dicts, a dict of columns, or the path of a .jsonl, .csv,
    .tsv or .parquet file.

    A key that a row hasn't got is None there.

    Raises:
        ValueError: for no rows, a row that is no dict, columns of several lengths, and a file that
            holds no rows.
        FileNotFoundError: for a path that is not there.
    """
    if isinstance(rows, (str, os.PathLike)):
        rows = read_columns(Path(rows).expanduser())
    columns = dict(rows) if isinstance(rows, Mapping) else _transposed(list(rows))
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"All columns must have the same number of rows. Received: {lengths}.")
    if not any(lengths.values()):
        raise ValueError("There must be at least one row. Received: none.")
    return columns


def _transposed(rows):
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"Each row must be a dict. Received: {shown(row)} in row {index}.")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def required(columns, name):
    """The column of that name, which every row must have.

    Raises:
        ValueError: with the nearest name there is.
    """
    column = lookup(columns, name, "column")
    for index, value in enumerate(column):
        if value is None:
            others = [key for key, values in columns.items() if values[index] is not None]
            raise ValueError(f"Row {index} has no {name!r}. {unknown_name(name, others, 'key')}")
    return column


# Ids


def ids_of(column, name, *, tokenizer=None, template=None, pad=None):
    """The rows of a column as a list of int32 arrays.

    Args:
        column: of texts and chats, which `tokenizer` makes ids, or of rows of ids.
        name: what errors call it.
        tokenizer: whatever `as_tokenizer` takes; None where there are ids already.
        template: of chats, see `chat_text`.
        pad: an id that is taken off the ends of an array's rows; None leaves them.

    Raises:
        ValueError: for text without a tokenizer, and for what are no ids.
    """
    tokenizer = None if tokenizer is None else as_tokenizer(tokenizer)
    is_array = hasattr(column, "shape")
    rows = ops.convert_to_numpy(column) if is_array else column
    ids = [_ids(row, f"`{name}`", index, tokenizer, template) for index, row in enumerate(rows)]
    return [_stripped(row, pad) for row in ids] if is_array and pad is not None else ids


def _ids(value, name, index, tokenizer, template):
    if is_chat(value):
        value = chat_text(value, template)
    if isinstance(value, str):
        if tokenizer is None:
            raise ValueError(
                f"{name} must be token ids where there is no `tokenizer`. Received: {shown(value)} "
                f"in row {index}."
            )
        return np.asarray(tokenizer.encode(value), "int32")
    ids = _array(value)
    if ids is None or ids.ndim != 1 or ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0):
        raise ValueError(
            f"{name} must be texts, chats or rows of token ids, integers of at least 0. Received: "
            f"{shown(value)} in row {index}."
        )
    return ids.astype("int32")


def _array(value):
    if hasattr(value, "shape"):
        return np.asarray(ops.convert_to_numpy(value))
    try:
        return np.asarray(value)
    except ValueError:  # lists of several lengths
        return None


def _stripped(row, pad):
    real = np.flatnonzero(row != pad)
    return row[: real[-1] + 1] if len(real) else row[:0]


def started(row, start):
    """`row` with the id `start` before it, unless it is there or None."""
    if start is None or (len(row) and row[0] == start):
        return row
    return np.concatenate([[start], row]).astype("int32")


def kept_end(row, length, start=None):
    """The last `length` ids of `row`; a `start` with which it begins stays, and counts."""
    if len(row) <= length:
        return row
    if start is None:
        return row[len(row) - length :]
    return started(row[len(row) - length + 1 :], start)


def length_limit(name, value, start=None, extra=0):
    """The limit on a length, or None; it leaves room for a token, a `start`, and `extra`."""
    return integer(name, value, minimum=1 + (start is not None) + extra, optional=True)


def shown(value):
    """What an error says of a value, in short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
