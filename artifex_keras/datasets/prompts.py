"""Prompts in batches, for policies that answer them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from artifex_keras import backend
from artifex_keras.aliases import Data
from artifex_keras.arguments import boolean, checked, integer, random_seed, text
from artifex_keras.datasets.batches import SeededBatches
from artifex_keras.datasets.rows import (
    bucket,
    columns_of,
    filled,
    ids_of,
    kept_end,
    length_limit,
    required,
    started,
)

__all__ = ["PromptBatches"]

OWN = ("prompt", "prompt_length", "row")  # what a batch holds in any case


@checked(seed=random_seed, shuffle=boolean, drop_remainder=boolean, prompt_key=text)
class PromptBatches(SeededBatches):
    """Batches of prompts, in an order that is a function of the seed and the epoch alone.

    A batch is a dict:

    | key | |
    |---|---|
    | "prompt" | int32 (P, W), padded on the right |
    | "prompt_length" | int32 (P,) |
    | "row" | int32 (P,), which prompts they are; `columns` is indexed by it |
    | each column of numbers | (P, ...): int32, float32 or bool |

    W is 16, 32 or a multiple of 64, whichever holds the longest prompt of the batch, so that a
    compiled step meets few shapes. On TensorFlow, whose pipelines want one, it holds the longest
    prompt of all. Steps that are fused (`steps_per_execution`) want one `width` on each backend.

    All batches have P = `batch_size` rows: the last prompts of a pass that don't fill a batch are
    left out, other ones in each pass if it is shuffled. With `drop_remainder=False`, for
    evaluation, they make a smaller batch.

    To `fit`, give `shuffle=False`: Keras would shuffle the batches once more. For epochs of so many
    batches give `steps` here, not `steps_per_epoch` there.

    Args:
        prompts: texts, chats (lists of {"role", "content"}) or rows of ids of any lengths, in a
            list; an integer array (N, length); with further columns a list of dicts, a dict of
            columns, or the path of a .jsonl file.
        batch_size: P.
        tokenizer: makes texts ids, see `as_tokenizer`.
        max_length: the ids of a prompt at most, `start_token_id` included; longer ones lose their
            beginning. None keeps all.
        start_token_id: an id to put before each prompt that doesn't begin with it.
        pad_token_id: what pads (0 if None); if given, it is taken off the ends of an array's rows.
        shuffle: a new order each pass.
        seed: of the orders; None draws one from NumPy's global state.
        steps: batches per epoch; None is one pass, otherwise passes go on across epochs.
        chat_template: a function of a chat that gives its text, see `chat_text`.
        prompt_key: the column that holds the prompts; it is called "prompt" from there on.
        width: W of all batches; None is as above.
        drop_remainder: leave the last batch of a pass out if it is smaller than the first. Fewer
            prompts than a batch are one batch.

    Attributes:
        columns: {name: list} of "prompt", as it was given, and of all columns that aren't numbers.

    Raises:
        ValueError: for texts without a tokenizer, an empty prompt, and whatever is none of these
            forms.

    Example:

    ```python
    import artifex_keras as ak

    batches = ak.datasets.PromptBatches([[5, 6], [7], [8, 9, 9]], batch_size=3, shuffle=False)
    print(batches[0]["prompt"].shape, batches[0]["prompt_length"])  # (3, 16) [2 1 3]
    ```
    """

    def __init__(
        self,
        prompts: Data,
        batch_size: int,
        *,
        tokenizer: Any = None,
        max_length: int | None = None,
        start_token_id: int | None = None,
        pad_token_id: int | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        steps: int | None = None,
        chat_template: Callable[..., str] | None = None,
        prompt_key: str = "prompt",
        width: int | None = None,
        drop_remainder: bool = True,
    ):
        start = integer("start_token_id", start_token_id, optional=True)
        pad = integer("pad_token_id", pad_token_id, optional=True)
        self.max_length = length_limit("max_length", max_length, start)
        columns = _columns(prompts, prompt_key)
        rows = ids_of(
            columns["prompt"], prompt_key, tokenizer=tokenizer, template=chat_template, pad=pad
        )
        self.prompts = [self._checked(started(row, start), i, start) for i, row in enumerate(rows)]
        super().__init__(
            len(rows),
            integer("batch_size", batch_size, minimum=1),
            shuffle=shuffle,
            seed=seed,
            steps=integer("steps", steps, minimum=1, optional=True),
            drop_remainder=drop_remainder,
        )
        self.lengths = np.array([len(row) for row in self.prompts], "int32")
        self.pad = pad or 0
        self.width = self._width(width)
        self.columns, self.numbers = _divided(columns)

    def _checked(self, row, index, start):
        if not len(row):
            raise ValueError(
                f"A prompt must have at least one token. Received: none in row {index}."
            )
        return row if self.max_length is None else kept_end(row, self.max_length, start)

    def _width(self, width):
        """The width of all batches; None where each has its own."""
        longest = self.lengths.max()
        if width is not None:
            width = integer("width", width, minimum=1)
            if width < longest:
                raise ValueError(
                    "`width` must hold the longest prompt, which a `max_length` cuts. Received: "
                    f"width={width} and a prompt of {longest} tokens in row "
                    f"{self.lengths.argmax()}."
                )
            return width
        return self._bucket(longest) if backend.name() == "tensorflow" else None

    def _bucket(self, length):
        return min(bucket(length), self.max_length or np.inf)

    def __getitem__(self, index):
        rows = np.arange(self.rows, dtype="int32")[self.rows_of(index)]
        lengths = self.lengths[rows]
        width = self.width or self._bucket(lengths.max())
        prompts = filled([self.prompts[row] for row in rows], width, self.pad)
        numbers = {name: column[rows] for name, column in self.numbers.items()}
        return {"prompt": prompts, "prompt_length": lengths, "row": rows, **numbers}


def _columns(prompts, key):
    """The columns of any form of prompts, that of the prompts called "prompt"."""
    columns = columns_of(prompts, column=key)
    given = {"prompt": required(columns, key)}
    for name, column in columns.items():
        if name in OWN and name != key:
            raise ValueError(
                f"A column can't be called {name!r} beside the prompts in {key!r}: that is what "
                "batches call their own. Rename it."
            )
        if name != key:
            given[name] = column
    return given


def _divided(columns):
    """Lists of what isn't numbers, the prompts among it, and arrays of what is."""
    arrays = {name: _numbers(column) for name, column in columns.items() if name != "prompt"}
    numbers = {name: array for name, array in arrays.items() if array is not None}
    return {name: list(c) for name, c in columns.items() if name not in numbers}, numbers


def _numbers(column):
    """The column as an int32, float32 or bool array; None if that is not what it is."""
    if hasattr(column, "shape"):
        column = ops.convert_to_numpy(column)
    elif any(isinstance(value, str) for value in column):  # NumPy would make all of them texts
        return None
    try:
        kind = np.asarray(column[0]).dtype.kind
        array = np.asarray(column) if kind in "biuf" else np.array(None)
    except ValueError:  # rows of several lengths
        return None
    if array.dtype.kind == "b":
        return array
    if array.dtype.kind == "f":
        return array.astype("float32")
    integers = array.dtype.kind in "iu"
    fits = integers and (not array.size or -(2**31) <= array.min() and array.max() < 2**31)
    return array.astype("int32") if fits else None
