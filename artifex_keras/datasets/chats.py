"""Chats as pieces of text: what the assistant says, and all else."""

import functools
import inspect
import os
from typing import NamedTuple

import numpy as np

from artifex_keras.datasets.rows import shown
from artifex_keras.datasets.text import chat_text, is_chat

__all__ = ["Piece", "chat_ids", "chat_pieces", "prompting", "template_of", "whole_chat"]

PROBE = "\x00probe\x00"  # a message that no chat has
FLAG = "add_generation_prompt"


class Piece(NamedTuple):
    """A part of a chat's text; of an assistant's turn, what the message says and how it ends."""

    text: str
    ending: str = ""
    assistant: bool = False


def template_of(template, tokenizer):
    """The template to use: `template`, else the one that the tokenizer brings, else None."""
    own = getattr(tokenizer, "tokenizer", tokenizer)  # within a wrapper of ours
    applied = getattr(own, "apply_chat_template", None)
    if template is not None or applied is None or not getattr(own, "chat_template", True):
        return template
    gives_ids = "tokenize" in inspect.signature(applied).parameters
    return functools.partial(applied, tokenize=False) if gives_ids else applied


def prompting(template):
    """`template` as one by which a chat always ends with the assistant's header."""
    return None if template is None else _flagged(template, True)


def chat_pieces(messages, template=None, index=0):
    """The text of a chat as a list of `Piece`: each turn of the assistant is one.

    Turns are found by rendering growing parts of the chat: what stands before a turn is the prompt
    by which it would be generated. A template that takes `add_generation_prompt` is asked with it
    and without; one that doesn't, always ends with the assistant's header, and where a turn ends
    is seen from what it puts before the next message.

    Args:
        messages: a list of {"role", "content"}.
        template: as in `chat_text`, or one that also takes `add_generation_prompt`.
        index: of the row, for errors.

    Raises:
        ValueError: for what is no chat, one in which the assistant says nothing, and a template in
            whose text the turns can't be found.
    """
    if not is_chat(messages):
        raise ValueError(
            "`messages` must be a chat, a list of {'role', 'content'}. Received: "
            f"{shown(messages)} in row {index}."
        )
    chat_text(messages, lambda _: "")  # raises for what is no message
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        roles = ", ".join(dict.fromkeys(str(message["role"]) for message in messages))
        raise ValueError(
            "A chat must have a turn of the role 'assistant' to learn from. Received: none in row "
            f"{index}, whose roles are {roles}. `assistant_only=False` learns all of a chat."
        )
    pieces, done = [], ""
    for turn in turns:
        before = _prompt(messages[:turn], template)
        text, ending = _turn(messages[: turn + 1], before, template, index)
        pieces.append(Piece(_rest(before, done, index)))
        pieces.append(Piece(text, ending, assistant=True))
        done = before + text + ending
    if turns[-1] + 1 < len(messages):
        pieces.append(Piece(_rest(_chat_text(messages, template), done, index)))
    return [piece for piece in pieces if piece.text or piece.ending or piece.assistant]


def whole_chat(messages, template=None):
    """The text of a chat without a header of the assistant at its end, where that can be had."""
    chat_text(messages, lambda _: "")
    return _chat_text(messages, template)


def chat_ids(pieces, tokenizer, ends):
    """`(ids, mask)` of pieces: int32 and float32, 1 at what the assistant says and its end.

    A turn ends with the first of the end tokens `ends` that stands in the text of its ending. If
    none does, the first of `ends` is put after what the message says; without any, the whole ending
    counts.
    """
    ids, mask = [], []

    def add(new, counts):
        ids.append(np.asarray(new, "int32"))
        mask.append(np.full(len(new), counts, "float32"))

    for text, ending, assistant in pieces:
        if not assistant:
            add(tokenizer.encode(text), 0)
            continue
        said, after = tokenizer.encode(text), tokenizer.encode(ending)
        kept = len(after)
        if ends:
            places = np.flatnonzero(np.isin(after, ends))
            kept = places[0] + 1 if len(places) else 0
            said = said if len(places) else np.append(said, ends[0])
        add(said, 1)
        add(after[:kept], 1)
        add(after[kept:], 0)
    return np.concatenate(ids), np.concatenate(mask)


# Rendering


def _asks(template):
    """Whether a template takes `add_generation_prompt`."""
    try:
        return FLAG in inspect.signature(template).parameters
    except (TypeError, ValueError):
        return False


def _flagged(template, prompt):
    return functools.partial(template, **{FLAG: prompt}) if _asks(template) else template


def _prompt(messages, template):
    """The text of a chat that ends with the assistant's header."""
    return chat_text(messages, _flagged(template, True))


def _chat_text(messages, template):
    if template is None:
        return chat_text(messages).removesuffix("assistant: ")
    return chat_text(messages, _flagged(template, False))


def _turn(messages, before, template, index):
    """`(what the last message says, its ending)` as the template writes it after `before`."""
    text = _chat_text(messages, template)
    if template is not None and not _asks(template):
        text = _before_the_header(messages, template, text, index)
    turn = _rest(text, before, index)
    said = str(messages[-1]["content"]).strip()
    at = turn.find(said)
    if not turn or at < 0:
        return turn, ""
    return turn[: at + len(said)], turn[at + len(said) :]


def _before_the_header(messages, template, text, index):
    """`text` of a chat without the assistant's header at its end.

    How a message of the user begins is what stands before its content both after this chat and
    alone; the turn ends before that. Where that leaves it no ending, for the template begins each
    chat with a system message of its own, an ending is what assistant and user have in common.
    """
    probe = {"role": "user", "content": PROBE}
    after, found, _ = chat_text([*messages, probe], template).partition(PROBE)
    first = chat_text([probe], template).partition(PROBE)[0]
    shared = 0
    while shared < min(len(after), len(first)) and after[-1 - shared] == first[-1 - shared]:
        shared += 1
    turn = after[: len(after) - shared]
    if turn.rstrip().endswith(str(messages[-1]["content"]).rstrip()):
        turn = os.path.commonprefix([text, after])
    if not found or not text.startswith(turn):
        raise ValueError(_not_found(index))
    return turn


def _rest(text, before, index):
    """`text` behind `before`, with which it must begin."""
    if not text.startswith(before):
        raise ValueError(_not_found(index))
    return text[len(before) :]


def _not_found(index):
    return (
        "The assistant's turns can't be found in the text of this `chat_template`: with one more "
        "message its text must begin as it did, and each message must stand in it as it is. "
        f"Received: row {index}, of which it changes the beginning. A template that takes "
        "`add_generation_prompt` may say where a turn ends; `assistant_only=False` needs no turns."
    )
