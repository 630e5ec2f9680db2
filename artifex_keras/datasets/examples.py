"""Files of rows to learn from: texts, prompts with completions, and chats."""

from artifex_keras.arguments import checked, text, unknown_name
from artifex_keras.datasets.dataset import Dataset
from artifex_keras.datasets.files import (
    characters_of,
    columns_of_files,
    place_of,
    rows_of_columns,
)
from artifex_keras.datasets.rows import shown
from artifex_keras.datasets.shards import file_paths, found_files, name_of
from artifex_keras.datasets.supervised import KINDS
from artifex_keras.datasets.text import chat_text, is_chat
from artifex_keras.datasets.tokenizers import CharacterTokenizer, as_tokenizer

__all__ = ["check_turns", "from_examples_file"]

ASSISTANT = "assistant"


@checked(prompt_key=text, completion_key=text)
def from_examples_file(path, *, prompt_key="prompt", completion_key="completion", tokenizer=None):
    """The rows that `SFT` learns, as a `Dataset` of dicts, in a .jsonl, .csv, .tsv or .parquet
    file, or of a .txt file, whose lines are texts; of several files where `path` is a list of them.

    All rows have "messages", a "prompt" and a "completion", or a "text"; `prompt_key` and
    `completion_key` are what the file calls the first two. Without a `tokenizer` there is one of
    all characters in the file and the end of a line, by which a text then ends.

    Raises:
        ValueError: for a row that can't be learned, with its line, and for columns of another name.
    """
    paths = file_paths("path", path)
    tokenizer = None if tokenizer is None else as_tokenizer(tokenizer)
    names = {"prompt": prompt_key, "completion": completion_key}
    columns = columns_of_files(paths, "text")
    kind = _kind(columns, names, paths)
    for name, column in _renamed(columns, kind, names).items():
        for index, value in enumerate(column):
            _check(kind, name, value, paths, index)
    rows = rows_of_columns(_renamed(columns, kind, names))
    if tokenizer is None:
        tokenizer = CharacterTokenizer.of("\n" + "".join(map(characters_of, rows)))
    return Dataset(name_of(paths), "rows", rows, tokenizer=tokenizer)


def check_turns(source, rows):
    """Raises a ValueError for a chat in which the assistant says nothing, with its line; `rows` are
    those of the files that `source` names."""
    if all(_has_turns(row) for row in rows):
        return
    paths = found_files(source) or file_paths("source", source)
    chats = columns_of_files(paths, "text")["messages"]
    index = next(i for i, chat in enumerate(chats) if not _has_turns({"messages": chat}))
    roles = ", ".join(dict.fromkeys(str(message["role"]) for message in chats[index]))
    raise ValueError(
        "A chat must have a turn of the role 'assistant' to learn from. Received: the roles "
        f"{roles} in {place_of(paths, index)}. `assistant_only=False` learns all of a chat."
    )


def _has_turns(row):
    return "messages" not in row or any(m["role"] == ASSISTANT for m in row["messages"])


# Columns


def _kind(columns, names, paths):
    """Which of `KINDS` the rows are, with all of its columns there."""
    kind = next((kind for kind in KINDS if names.get(kind, kind) in columns), None)
    if kind is None:
        near = unknown_name(names["prompt"], columns, "column")
        raise ValueError(
            "Rows to learn must have 'messages', a 'prompt' and a 'completion', or a 'text'. "
            f"Received: the columns {sorted(columns)} of {name_of(paths)!r}. {near} `prompt_key` "
            "and `completion_key` (--set prompt_key=NAME) say which ones hold them."
        )
    if kind == "prompt" and names["completion"] not in columns:
        raise ValueError(
            f"{unknown_name(names['completion'], columns, 'column')} `completion_key` "
            f"(--set completion_key=NAME) says which one of {name_of(paths)!r} holds the answers."
        )
    return kind


def _renamed(columns, kind, names):
    """The columns that rows of a kind have."""
    own = ("prompt", "completion") if kind == "prompt" else (kind,)
    return {name: columns[names.get(name, name)] for name in own}


# Rows


def _check(kind, name, value, paths, index):
    """Raises a ValueError for a value that can't be learned, with the line of its row."""
    problem = CHECKS[name](value)
    if problem:
        what = f"no {name!r}" if value is None else shown(value)
        raise ValueError(f"{problem} Received: {what} in {place_of(paths, index)}.")


def _text_problem(value):
    if not isinstance(value, str) or not value:
        return "`text` must be a text of at least one character."


def _said_problem(name, message=False):
    def check(value):
        if isinstance(value, str):
            return None
        if isinstance(value, dict) and message:
            value = [value]
        if not is_chat(value):
            return f"`{name}` must be a text or a chat."
        return _chat_problem(value)

    return check


def _chat_problem(value):
    if not is_chat(value):
        return "`messages` must be a chat, a list of {'role', 'content'}."
    try:
        chat_text(value)
    except ValueError as error:
        return str(error).partition(" Received: ")[0]


CHECKS = {
    "text": _text_problem,
    "prompt": _said_problem("prompt"),
    "completion": _said_problem("completion", message=True),
    "messages": _chat_problem,
}
