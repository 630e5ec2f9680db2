"""Chats as one text, and the text of a generation as it comes."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import unknown_name

__all__ = ["TextStream", "chat_text", "is_chat"]


def is_chat(value):
    """Whether `value` is a list of messages."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], dict)


def chat_text(
    messages: Sequence[Mapping[str, Any]], template: Callable[..., str] | None = None
) -> str:
    """The text of a chat as a prompt for the assistant's answer.

    Args:
        messages: a list of {"role": ..., "content": ...}.
        template: a function of the messages that gives the text. By default each is a line
            "role: content", and "assistant: " comes last.

    Raises:
        ValueError: for messages that lack one of these, and a template that gives no text.

    Example:

    ```python
    import artifex_keras as ak

    chat = [{"role": "user", "content": "1+1="}]
    print(ak.datasets.chat_text(chat))
    ```
    """
    for message in messages:
        for key in ("role", "content"):
            if not isinstance(message, dict) or key not in message:
                keys = message if isinstance(message, dict) else ()
                raise ValueError(
                    "A message must be a dict with 'role' and 'content'. "
                    f"{unknown_name(key, keys, 'key')} Received: {message!r}."
                )
    if template is None:
        template = _lines
    text = template(messages)
    if not isinstance(text, str):
        raise ValueError(f"A chat template must give a text. Received: {text!r}.")
    return text


def _lines(messages):
    for message in messages:
        if not isinstance(message["content"], str):
            raise ValueError(
                "The 'content' of a message must be a text, or there must be a `chat_template`. "
                f"Received: {message!r}."
            )
    return "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant: "


class TextStream:
    """Prints the text of new tokens as they come: `generate(..., stream=TextStream(tokenizer))`.

    Args:
        tokenizer: turns ids into text.
        file: where to write, by default standard output.
        row: which row of the batch.
    """

    def __init__(self, tokenizer: Any, file: Any = None, row: int = 0):
        self.tokenizer, self.file, self.row = tokenizer, file, row
        self._ids, self._shown = [], ""

    def __call__(self, tokens: Tensor):
        self._ids.extend(int(token) for token in tokens[self.row])
        text = self.tokenizer.decode(self._ids)
        # The bytes of a character may come in several tokens: what is incomplete waits.
        while text.endswith("\ufffd"):
            text = text[:-1]
        print(text[len(self._shown) :], end="", flush=True, file=self.file or sys.stdout)
        self._shown = text
