"""Rows of texts or ids in the forms that people have them: as columns, as ids, as one array."""

import os
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import integer, lookup, unknown_name
from artifex_keras.arguments import share as share_rule
from artifex_keras.datasets.columns import read_columns
from artifex_keras.datasets.text import chat_text, is_chat
from artifex_keras.datasets.tokenizers import as_tokenizer
from artifex_keras.remote import local_path

__all__ = [
    "another_name",
    "are_rows",
    "bucket",
    "columns_of",
    "filled",
    "ids_of",
    "kept_end",
    "length_limit",
    "required",
    "shown",
    "split_rows",
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

# What other people's data call a column, by its name here.
ELSEWHERE = {
    "prompt": ("instruction", "question", "query", "problem", "input"),
    "completion": ("response", "output", "answer", "solution", "target"),
    "chosen": ("accepted", "preferred", "chosen_response"),
    "rejected": ("dispreferred", "rejected_response"),
    "messages": ("conversations", "conversation", "chat", "dialog"),
    "text": ("content", "document", "sentence"),
    "label": ("labels", "preference"),
}


def are_rows(x):
    """Whether data are rows of texts or ids, of which arrays must be made first: a list, a path, a
    table (of pandas, polars or `datasets`), an array of texts, a dict with a column like these."""
    if isinstance(x, Mapping):
        return any(are_rows(column) or not _is_array(column) for column in x.values())
    return isinstance(x, (list, tuple, str, os.PathLike)) or _is_table(x) or _holds_texts(x)


def _is_array(column):
    return isinstance(column, Mapping) or hasattr(column, "shape")


def columns_of(rows, column=None):
    """`{name: column}` of rows: a list of dicts, a dict of columns, a table of pandas, polars or
    `datasets`, or the path of a .jsonl, .csv, .tsv or .parquet file.

    A key that a row hasn't got is None there.

    Args:
        column: what rows that are no dicts are called: texts, chats, rows of ids. None refuses
            them.

    Raises:
        ValueError: for no rows, a row that is no dict, columns of several lengths, and a file that
            holds no rows.
        FileNotFoundError: for a path that is not there.
    """
    if isinstance(rows, (str, os.PathLike)):
        rows = read_columns(_file(rows))
    if _is_table(rows):
        rows = {str(name): rows[name] for name in _names(rows)}
    if not isinstance(rows, Mapping):
        rows = _transposed(rows, column)
    columns = {n: _listed(c) if _holds_texts(c) else c for n, c in rows.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"All columns must have the same number of rows. Received: {lengths}.")
    if not any(lengths.values()):
        raise ValueError("There must be at least one row. Received: none.")
    return columns


def split_rows(rows, share):
    """`(rows, held_out)` as columns: the last `share` of them is held out, as Keras does it.

    Raises:
        ValueError: for a share that leaves one of them without a row.
    """
    share = share_rule("validation_split", share)
    columns = columns_of(rows, column="prompt")
    count = len(next(iter(columns.values())))
    kept = int(count * (1 - share))
    if not 0 < kept < count:
        raise ValueError(
            "`validation_split` must leave a row to train on and hold one out. Received: "
            f"validation_split={share}, {count} rows."
        )
    parts = (slice(kept), slice(kept, None))
    return tuple({name: column[part] for name, column in columns.items()} for part in parts)


def _file(path):
    """A path as one; of what is no file's name a text is more likely than that it is missing."""
    found = local_path(path, "data").expanduser()
    if not found.suffix and not found.exists():
        raise FileNotFoundError(f"There is no file {path!r}. One text is a list of one: [text].")
    return found


def _names(table):
    return getattr(table, "column_names", None) or getattr(table, "columns", None)


def _is_table(x):
    if isinstance(x, (type, keras.utils.PyDataset)):  # `PromptBatches` has columns too
        return False
    return hasattr(x, "__getitem__") and _names(x) is not None


def _holds_texts(array):
    """Whether an array, or a Series, holds texts, or whatever else isn't numbers."""
    return getattr(getattr(array, "dtype", None), "kind", "") in ("O", "U", "S")


def _listed(column):
    """A column of texts as a list; what is missing, which pandas writes as NaN, is None."""
    return [None if isinstance(v, float) and v != v else v for v in column]


def _transposed(rows, column):
    texts = _holds_texts(rows)
    if column is not None and hasattr(rows, "shape") and not texts:
        return {column: rows}
    rows = _listed(rows) if texts else list(rows)
    if column is not None and not any(isinstance(row, Mapping) for row in rows):
        return {column: rows}
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
    other = another_name(name, columns)
    if name not in columns and other:
        raise ValueError(
            f"There is no column {name!r}. Rename {other!r} if that is what it holds. Received: "
            f"the columns {sorted(columns)}."
        )
    column = lookup(columns, name, "column")
    for index, value in enumerate(column):
        if value is None:
            others = [key for key, values in columns.items() if values[index] is not None]
            message = f" {unknown_name(name, others, 'key')}" if others else " Received: None."
            raise ValueError(f"Row {index} has no {name!r}.{message}")
    return column


def another_name(name, columns):
    """The column that other people's data have for `name`, or None."""
    return next((other for other in ELSEWHERE.get(name, ()) if other in columns), None)


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
