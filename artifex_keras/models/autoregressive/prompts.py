"""Prompts in the forms that people have them, as rows that begin on the left. NumPy only."""

import math

import numpy as np
from keras import ops

from artifex_keras.arguments import shown
from artifex_keras.datasets.rows import bucket, filled
from artifex_keras.models.data_contract import known

__all__ = ["padded", "rows_of"]


def rows_of(prompt, *, mask=None, lengths=None, pad=None, start=None):
    """The prompts as a list of integer arrays (T_b,), without padding.

    Args:
        prompt: ids: rows of any lengths in a list, an array (B, T), or a single row.
        mask: (B, T), not zero where an id is real; the real ones of a row must stand together.
        lengths: (B,), how many ids of each row are real, padding on the right.
        pad: without mask and lengths, ids that are taken off both ends of an array's rows.
        start: an id to put before each row; or None.

    Raises:
        ValueError: for anything but integers, an empty prompt, a mask with holes.
    """
    if mask is not None and lengths is not None:
        raise ValueError("Only one of `prompt_mask` and `prompt_lengths` can be given.")
    rows = _listed(prompt)
    if mask is not None:
        rows = _masked(rows, np.asarray(ops.convert_to_numpy(mask)) != 0)
    elif lengths is not None:
        rows = _shortened(rows, np.asarray(ops.convert_to_numpy(lengths)))
    elif pad is not None:
        rows = [_stripped(row, pad) for row in rows]
    if start is not None:
        rows = [np.concatenate([[start], row]).astype("int32") for row in rows]
    for index, row in enumerate(rows):
        if not len(row):
            raise ValueError(
                f"A prompt must have at least one token. Received: none in row {index}."
            )
    return rows


def _listed(prompt):
    if prompt is None or isinstance(prompt, str):
        raise ValueError(
            f"`prompt` must be token ids: rows of integers. Received: {shown(prompt)}. A tokenizer "
            "makes ids of text: tokenizer.encode(text). `sample(n)` needs no prompt."
        )
    if not isinstance(prompt, (list, tuple)):
        prompt = ops.convert_to_numpy(prompt)
    if len(prompt) and np.ndim(prompt[0]) == 0:
        prompt = [prompt]
    rows = [np.asarray(row) for row in prompt]
    if not rows:
        raise ValueError("There must be at least one prompt. Received: an empty list.")
    for row in rows:
        if row.ndim != 1 or not (np.issubdtype(row.dtype, np.integer) or not row.size):
            raise ValueError(
                "`prompt` must be token ids: rows of integers. Received: a row of shape "
                f"{row.shape} and type {row.dtype}. A tokenizer makes ids of text."
            )
    return [row.astype("int32") for row in rows]


def _masked(rows, mask):
    if mask.shape != (len(rows), len(rows[0])) or any(len(row) != mask.shape[1] for row in rows):
        raise ValueError(
            "`prompt_mask` must have the shape of `prompt`. Received: prompt_mask of shape "
            f"{mask.shape} for {len(rows)} rows, the first of length {len(rows[0])}."
        )
    if np.any(np.abs(np.diff(np.pad(mask.astype(int), [[0, 0], [1, 1]]))).sum(1) > 2):
        raise ValueError("The real tokens of a prompt must stand together: `prompt_mask` has gaps.")
    return [row[keep] for row, keep in zip(rows, mask, strict=True)]


def _shortened(rows, lengths):
    fits = lengths.shape == (len(rows),) and all(
        0 <= n <= len(row) for n, row in zip(lengths, rows, strict=True)
    )
    if not fits:
        raise ValueError(
            "`prompt_lengths` must say for each row how many of its tokens are real. Received: "
            f"{lengths.tolist()} for rows of {[len(row) for row in rows]}."
        )
    return [row[:n] for row, n in zip(rows, lengths, strict=True)]


def _stripped(row, pad):
    real = np.flatnonzero(row != pad)
    return row[real[0] : real[-1] + 1] if len(real) else row[:0]


def padded(rows, room=None):
    """`(ids, lengths)`: int32 (B, P), zeros on the right, and (B,). P is a `bucket`, or `room`
    where that is less and the rows fit into it."""
    lengths = np.array([len(row) for row in rows], "int32")
    width = bucket(lengths.max())
    if room is not None and lengths.max() <= room < width:
        width = room
    return filled(rows, width), lengths


# Rows to learn from


def rows_hint(shape, vocabulary_size):
    """How data of `shape` become rows of ids; nothing where that is unknown."""
    if len(shape) == 1:
        return " One row needs an axis for the batch: tokens[None]."
    if shape[-1] == vocabulary_size and len(shape) == 3:
        return " One-hot tokens become ids by tokens.argmax(axis=-1)."
    rows = f"tokens.reshape(-1, {math.prod(shape[1:])})" if None not in shape[1:] else "a reshape"
    return f" {rows} makes rows of them."


def check_not_shifted(tokens, labels):
    """Raises a ValueError for labels that are each the next token: the model moves them itself."""
    tokens, labels = known(tokens), None if labels is None else known(labels)
    if tokens is None or labels is None or labels.dtype.kind == "b" or tokens.shape[1] < 3:
        return
    shifted = np.array_equal(labels[:, :-1], tokens[:, 1:])
    if shifted and not np.array_equal(labels, tokens):
        raise ValueError(
            "Labels must stand where their tokens do: the model asks each place for the next one "
            "itself. Received: labels that are the tokens shifted by one already, by which it "
            "would learn the next but one. Give the whole rows and no labels: fit(tokens)."
        )
