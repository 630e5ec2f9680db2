"""Prompts with the completions that a model is to learn from, as arrays of ids and masks."""

import dataclasses
from collections.abc import Callable, Sized
from typing import Any

import numpy as np

from artifex_keras.aliases import Data
from artifex_keras.arguments import checked, integer
from artifex_keras.datasets.rows import (
    another_name,
    bucket,
    columns_of,
    filled,
    ids_of,
    kept_end,
    length_limit,
    required,
    shown,
    started,
)
from artifex_keras.datasets.text import chat_text, is_chat

__all__ = ["completions", "preferences"]


@checked()
def preferences(
    rows: Data,
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    end_token_id: int | None = None,
    pad_token_id: int | None = None,
    start_token_id: int | None = None,
    chat_template: Callable[..., str] | None = None,
):
    """Prompts with a chosen and a rejected completion each, as a dict of arrays (N, T).

    "chosen" and "rejected" are int32 ids of the prompt and the completion, padded on the right;
    "chosen_mask" and "rejected_mask" float32, 1 on the completion and its end token. T is 16, 32 or
    a multiple of 64, or `max_length` where that is less.

    Prompt and completion become ids separately. What is too long loses the beginning of its prompt,
    of which one token stays in any case, then the end of its completion; the prompt is the same for
    both completions.

    Args:
        rows: a list of dicts, a dict of columns, or the path of a .jsonl file, with "prompt",
            "chosen" and "rejected": texts or ids; a prompt may be a chat, a list of {"role",
            "content"}, a completion one message, or a list of them. Without a "prompt" it is what
            both begin with: the messages that they share, or the words of the text.
        tokenizer: makes texts ids, see `as_tokenizer`.
        max_length: ids of prompt and completion at most; None cuts nothing.
        max_prompt_length: ids of a prompt at most.
        end_token_id: an id to put after each completion that doesn't end with it.
        pad_token_id: what pads (0 if None); if given, it is taken off the ends of an array's rows.
        start_token_id: an id to put before each prompt that doesn't begin with it; it is never cut.
        chat_template: a function of a chat that gives its text, see `chat_text`.

    Raises:
        ValueError: for an empty prompt or completion, texts without a tokenizer, missing columns.

    Example:

    ```python
    import artifex_keras as ak

    rows = [{"prompt": "1+1=", "chosen": "2", "rejected": "3"}]
    tokenizer = ak.datasets.CharacterTokenizer.of(".+=0123456789")
    end = tokenizer.id_of(".")
    arrays = ak.datasets.preferences(rows, tokenizer=tokenizer, end_token_id=end)
    print(arrays["chosen"].shape, arrays["chosen_mask"].sum())  # (1, 16) 2.0: "2" and the end
    ```
    """
    form = Form(
        tokenizer=tokenizer,
        template=chat_template,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
        start_token_id=start_token_id,
        end_token_id=end_token_id,
        pad_token_id=pad_token_id,
    )
    names = {"chosen": ("chosen", "chosen_mask"), "rejected": ("rejected", "rejected_mask")}
    return form.arrays(_with_prompts(columns_of(rows)), names)


@checked()
def completions(
    rows: Data,
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    end_token_id: int | None = None,
    pad_token_id: int | None = None,
    start_token_id: int | None = None,
    chat_template: Callable[..., str] | None = None,
):
    """Prompts with a completion each, as {"tokens": int32, "mask": float32}, both (N, T).

    For supervised fine-tuning; where rows have a "label", True or False for a completion that is
    wanted or not, "label" float32 (N,) comes as well. All else is as in `preferences`, with the
    columns "prompt" and "completion".

    Raises:
        ValueError: for an empty prompt or completion, texts without a tokenizer, missing columns,
            and labels that are neither true nor false.

    Example:

    ```python
    import artifex_keras as ak

    rows = [{"prompt": "1+1=", "completion": "2"}]
    tokenizer = ak.datasets.CharacterTokenizer.of(".+=0123456789")
    arrays = ak.datasets.completions(rows, tokenizer=tokenizer)
    print(arrays["tokens"].shape)  # (1, 16)
    ```
    """
    form = Form(
        tokenizer=tokenizer,
        template=chat_template,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
        start_token_id=start_token_id,
        end_token_id=end_token_id,
        pad_token_id=pad_token_id,
    )
    columns = columns_of(rows)
    arrays = form.arrays(columns, {"completion": ("tokens", "mask")})
    return arrays | ({"label": _labels(columns)} if "label" in columns else {})


def _with_prompts(columns):
    """The columns with a "prompt", where they have none: what "chosen" and "rejected" share.

    Raises:
        ValueError: for a row in which they share nothing.
    """
    if "prompt" in columns or another_name("prompt", columns):
        return columns
    pairs = list(zip(required(columns, "chosen"), required(columns, "rejected"), strict=True))
    ends = [_shared(chosen, rejected) for chosen, rejected in pairs]
    if 0 in ends:
        row = ends.index(0)
        raise ValueError(
            "Rows need a 'prompt', or a 'chosen' and a 'rejected' that begin with the same one. "
            f"Received: {shown(pairs[row][0])} and {shown(pairs[row][1])} in row {row}."
        )
    prompts = [chosen[:end] for (chosen, _), end in zip(pairs, ends, strict=True)]
    rest = [[answer[end:] for answer in pair] for pair, end in zip(pairs, ends, strict=True)]
    chosen, rejected = map(list, zip(*rest, strict=True))
    return {**columns, "prompt": prompts, "chosen": chosen, "rejected": rejected}


def _shared(chosen, rejected):
    """How many messages, letters or ids two answers share at their beginning.

    Something is left of both, and of texts whole words with the space before them, where there is
    one.
    """
    if not (isinstance(chosen, Sized) and isinstance(rejected, Sized)):
        return 0
    least = min(len(chosen), len(rejected)) - 1
    differing = (i for i in range(max(least, 0)) if np.any(chosen[i] != rejected[i]))
    end = next(differing, max(least, 0))
    if isinstance(chosen, str):
        spaces = [i for i in range(1, end + 1) if chosen[i].isspace()]
        end = spaces[-1] if spaces else end
    return end


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """How prompts and completions become ids, and how long these may be."""

    tokenizer: object
    template: object
    max_length: int | None
    max_prompt_length: int | None
    start_token_id: int | None
    end_token_id: int | None
    pad_token_id: int | None

    def __post_init__(self):
        for name in ("start_token_id", "end_token_id", "pad_token_id"):
            integer(name, getattr(self, name), optional=True)
        length_limit("max_length", self.max_length, self.start_token_id, extra=1)
        length_limit("max_prompt_length", self.max_prompt_length, self.start_token_id)

    def arrays(self, columns, names):
        """`{name of ids: (N, T), name of mask: (N, T)}` of each column of completions in `names`,
        a dict from the columns to these two names."""
        prompts = self.prompts(columns)
        endings = [self.endings(columns, name) for name in names]
        rows = [self._fitted(p, ends) for p, *ends in zip(prompts, *endings, strict=True)]
        longest = max(len(prompt) + len(end) for prompt, ends in rows for end in ends)
        width = min(bucket(longest), self.max_length or np.inf)
        arrays = {}
        for index, (tokens, mask) in enumerate(names.values()):
            pairs = [(prompt, ends[index]) for prompt, ends in rows]
            ids = [np.concatenate(pair) for pair in pairs]
            arrays[tokens] = filled(ids, width, self.pad_token_id or 0)
            arrays[mask] = _mask(pairs, width)
        return arrays

    def _ids(self, column, name):
        tokenizer, template, pad = self.tokenizer, self.template, self.pad_token_id
        return ids_of(column, name, tokenizer=tokenizer, template=template, pad=pad)

    def prompts(self, columns):
        """The prompts as rows of ids, with their start."""
        rows = self._ids(required(columns, "prompt"), "prompt")
        rows = [started(row, self.start_token_id) for row in rows]
        for index, row in enumerate(rows):
            if not len(row):
                raise ValueError(
                    f"A prompt must have at least one token. Received: none in row {index}."
                )
        return rows

    def endings(self, columns, name):
        """The completions in a column as rows of ids, with their end."""
        column = required(columns, name)
        if not hasattr(column, "shape"):
            column = [_said(value, name, i, self.template) for i, value in enumerate(column)]
        rows, end = self._ids(column, name), self.end_token_id
        for index, row in enumerate(rows):
            if not len(row):
                raise ValueError(f"`{name}` must not be empty. Received: no tokens in row {index}.")
        if end is None:
            return rows
        return [row if row[-1] == end else np.append(row, end).astype("int32") for row in rows]

    def _fitted(self, prompt, endings):
        """`(prompt, endings)`, cut to the limits."""
        room = self.max_prompt_length or len(prompt)
        if self.max_length is not None:
            least = 1 + (self.start_token_id is not None)
            room = min(room, max(least, self.max_length - max(map(len, endings))))
        prompt = kept_end(prompt, room, self.start_token_id)
        if self.max_length is not None:
            endings = [ending[: self.max_length - len(prompt)] for ending in endings]
        return prompt, endings


def _said(value, name, index, template):
    """The text of a completion that is a message or several; all else as it is."""
    messages = [value] if isinstance(value, dict) else value
    if not is_chat(messages):
        return value
    chat_text(messages[:1], lambda _: "")  # raises for what is no message
    if len(messages) == 1:
        return messages[0]["content"]
    if template is not None:
        raise ValueError(
            f"`{name}` must be one message where there is a `chat_template`. Received: "
            f"{len(messages)} messages in row {index}."
        )
    rest = chat_text(messages[1:]).removesuffix("\nassistant: ")
    return f"{messages[0]['content']}\n{rest}"


def _mask(pairs, width):
    mask = np.zeros((len(pairs), width), "float32")
    for place, (prompt, ending) in zip(mask, pairs, strict=True):
        place[len(prompt) : len(prompt) + len(ending)] = 1
    return mask


def _labels(columns):
    column = required(columns, "label")
    for index, label in enumerate(column):
        if np.ndim(label) or label not in (0, 1):
            raise ValueError(
                f"`label` must be True or False. Received: {shown(label)} in row {index}."
            )
    return np.array([float(label) for label in column], "float32")
