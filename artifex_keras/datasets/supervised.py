"""Texts, completions and chats as rows of ids with masks of what is to be learned."""

import dataclasses
import warnings

import numpy as np

from artifex_keras.arguments import integer
from artifex_keras.datasets.chats import (
    chat_ids,
    chat_pieces,
    prompting,
    template_of,
    whole_chat,
)
from artifex_keras.datasets.packing import pack_columns
from artifex_keras.datasets.preferences import Form
from artifex_keras.datasets.rows import (
    another_name,
    bucket,
    columns_of,
    filled,
    ids_of,
    kept_end,
    required,
    started,
)
from artifex_keras.datasets.text import is_chat
from artifex_keras.datasets.tokenizers import as_tokenizer

__all__ = ["KINDS", "Supervised"]

KINDS = ("messages", "prompt", "text")  # the column by which a kind of rows is known


@dataclasses.dataclass(kw_only=True)
class Supervised:
    """How rows become arrays: `arrays(rows)` gives "tokens", int32, and "mask", float32, (N, T),
    and "segments", int32, where they are packed.

    Attributes:
        tokenizer: for texts and chats.
        assistant_only: whether of a chat the assistant's turns alone count.
        packing: a row of `PACKINGS`, or None for a row each, padded on the right.
        max_length: ids of a row at most; None cuts nothing.
        end_token_ids: of which the first ends completions and texts, and any a turn of a chat.
        pad_token_id: what pads (0 if None).
        start_token_id: what every row begins with, where it isn't put there later.
        given: how many ids of a row are given rather than learned.
        chat_template: see `chats.chat_pieces`; by default the tokenizer's own.
    """

    tokenizer: object = None
    assistant_only: bool = True
    packing: str | None = None
    max_length: int | None = None
    end_token_ids: tuple | None = None
    pad_token_id: int | None = None
    start_token_id: int | None = None
    given: int = 1
    chat_template: object = None

    def __post_init__(self):
        if self.tokenizer is not None:
            self.tokenizer = as_tokenizer(self.tokenizer)
        self.chat_template = template_of(self.chat_template, self.tokenizer)
        integer("max_length", self.max_length, minimum=2, optional=True)

    def arrays(self, rows):
        """The arrays of rows: a list of dicts, a dict of columns, or the path of a file.

        Raises:
            ValueError: for rows that can't be used, or of which nothing is to be learned.
        """
        chats = isinstance(rows, (list, tuple)) and bool(rows) and is_chat(rows[0])
        columns = columns_of(rows, column="messages" if chats else "text")
        kind = next((kind for kind in KINDS if columns.get(kind) is not None), None)
        if kind is None:
            named = {another_name(kind, columns): kind for kind in KINDS}
            named.pop(None, None)
            ways = "".join(f" Rename {o!r} if it is the {k!r}." for o, k in named.items())
            raise ValueError(
                "Rows must have a 'text', a 'prompt' and a 'completion', or 'messages'."
                f"{ways} Received: the columns {sorted(columns)}."
            )
        examples = getattr(self, f"_{kind}")(columns)
        if self.packing != "wrapped":
            examples = self._learnable(self._fitted(examples))
        elif not any(mask[self.given :].any() for _, mask in examples):
            raise ValueError("No token counts in any row: there is nothing to learn.")
        return self._packed(examples) if self.packing else self._padded(examples)

    # Rows of each kind: pairs of ids and mask

    def _text(self, columns):
        column, pad = required(columns, "text"), self.pad_token_id
        rows = ids_of(column, "text", tokenizer=self.tokenizer, pad=pad)
        examples = []
        for index, row in enumerate(rows):
            if not len(row):
                raise ValueError(f"`text` must not be empty. Received: no tokens in row {index}.")
            row = self._started(self._ended(row))
            examples.append((row, np.ones(len(row), "float32")))
        return examples

    def _ended(self, row):
        ends = self.end_token_ids
        return row if not ends or row[-1] in ends else np.append(row, ends[0]).astype("int32")

    def _started(self, row):
        return started(row, self.start_token_id)

    def _prompt(self, columns):
        form = Form(
            tokenizer=self.tokenizer,
            template=prompting(self.chat_template),
            max_length=None,
            max_prompt_length=None,
            start_token_id=self.start_token_id,
            end_token_id=self.end_token_ids[0] if self.end_token_ids else None,
            pad_token_id=self.pad_token_id,
        )
        prompts, endings = form.prompts(columns), form.endings(columns, "completion")
        kept = [
            self._prompt_cut(prompt, ending)
            for prompt, ending in zip(prompts, endings, strict=True)
        ]
        self._say_cut(
            [len(p) + len(e) for p, e in zip(prompts, endings, strict=True)],
            "the prompt loses its beginning, then the completion its end",
        )
        return [
            (
                np.concatenate([prompt, ending]).astype("int32"),
                np.repeat(np.float32([0, 1]), [len(prompt), len(ending)]),
            )
            for prompt, ending in kept
        ]

    def _prompt_cut(self, prompt, ending):
        if self.max_length is None or self.packing == "wrapped":
            return prompt, ending
        least = 1 + (self.start_token_id is not None)
        prompt = kept_end(prompt, max(least, self.max_length - len(ending)), self.start_token_id)
        return prompt, ending[: self.max_length - len(prompt)]

    def _messages(self, columns):
        chats = required(columns, "messages")
        if self.tokenizer is None:
            raise ValueError("Chats need a `tokenizer`, which makes ids of them. Received: None.")
        examples = []
        for index, chat in enumerate(chats):
            if self.assistant_only:
                pieces = chat_pieces(chat, self.chat_template, index)
                ids, mask = chat_ids(pieces, self.tokenizer, self.end_token_ids)
                counted = np.flatnonzero(mask)[-1] + 1  # nothing is learned of what comes after
                ids, mask = ids[:counted], mask[:counted]
            else:
                ids = self._ended(self.tokenizer.encode(whole_chat(chat, self.chat_template)))
                mask = np.ones(len(ids), "float32")
            row = self._started(ids)
            mask = np.concatenate([np.zeros(len(row) - len(ids), "float32"), mask])
            examples.append((row, mask))
        return examples

    # Lengths

    def _say_cut(self, lengths, how):
        longer = sum(length > self.max_length for length in lengths) if self.max_length else 0
        if longer and self.packing != "wrapped":
            warnings.warn(
                f"{longer} of {len(lengths)} rows are longer than `max_length`={self.max_length} "
                f"tokens, the longest has {max(lengths)}: {how}.",
                stacklevel=2,
            )

    def _fitted(self, examples):
        """Rows of `max_length` at most; the end of longer ones is cut off."""
        self._say_cut([len(ids) for ids, _ in examples], "their ends are cut off")
        return [(ids[: self.max_length], mask[: self.max_length]) for ids, mask in examples]

    def _learnable(self, examples):
        """The rows of which a token is left that counts and has one before it."""
        left = [(ids, mask) for ids, mask in examples if mask[self.given :].any()]
        if not left:
            raise ValueError(
                "No token counts in any row: there is nothing to learn. `max_length` may have cut "
                f"all of it off. Received: max_length={self.max_length}."
            )
        if len(left) < len(examples):
            warnings.warn(
                f"{len(examples) - len(left)} of {len(examples)} rows have no token that counts "
                f"within {self.max_length} tokens: they are left out.",
                stacklevel=2,
            )
        return left

    # Arrays

    def _padded(self, examples):
        width = bucket(max(len(ids) for ids, _ in examples))
        width = min(width, self.max_length or width)
        tokens = filled([ids for ids, _ in examples], width, self.pad_token_id or 0)
        masks = np.zeros(tokens.shape, "float32")
        for place, (_, mask) in zip(masks, examples, strict=True):
            place[: len(mask)] = mask
        return {"tokens": tokens, "mask": masks}

    def _packed(self, examples):
        if self.max_length is None:
            raise ValueError(
                "`packing` needs a `max_length`, of the rows that it makes, where the network has "
                "no context that says it. Received: max_length=None."
            )
        columns = {
            "tokens": [ids for ids, _ in examples],
            "mask": [mask for _, mask in examples],
        }
        arrays = pack_columns(columns, self.max_length, self.packing)
        del arrays["positions"]
        arrays["tokens"][arrays["segments"] == 0] = self.pad_token_id or 0
        return arrays
