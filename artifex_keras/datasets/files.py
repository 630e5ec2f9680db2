"""Text files and files of rows as a `Dataset`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from artifex_keras.aliases import FilePath
from artifex_keras.arguments import checked, count, optional, text, unknown_name
from artifex_keras.datasets.columns import read_columns
from artifex_keras.datasets.dataset import Dataset
from artifex_keras.datasets.rows import columns_of, required, shown
from artifex_keras.datasets.shards import file_paths, joined, name_of
from artifex_keras.datasets.text import chat_text, is_chat
from artifex_keras.datasets.tokenizers import CharacterTokenizer, as_tokenizer
from artifex_keras.trust import read_json_lines, read_text

__all__ = [
    "characters_of",
    "columns_of_files",
    "from_rows_file",
    "from_text_file",
    "place_of",
    "rows_of_columns",
]


@checked(length=count())
def from_text_file(
    path: FilePath | Sequence[FilePath], *, length: int = 128, tokenizer: Any = None
):
    """A UTF-8 text as rows of `length` ids, in order, without overlap.

    `path` may be a list of paths, whose texts follow each other.

    Ids are those of `tokenizer`, the path of one (see `load_tokenizer`), or a `Tokenizer`; without
    one they index `vocabulary`, the sorted distinct characters. An incomplete last row is left out.

    Raises:
        ValueError: for a file that is not UTF-8, or shorter than one row.

    Example:

    ```python
    from pathlib import Path
    import artifex_keras as ak

    Path("book.txt").write_text("to be or not to be, that is the question")
    dataset = ak.datasets.from_text_file("book.txt", length=8)
    print(dataset.train.shape, dataset.tokenizer.decode(dataset.train[0]))  # (5, 8) to be or
    ```
    """
    paths = file_paths("path", path)
    content = "".join(map(read_text, paths))
    tokenizer = CharacterTokenizer.of(content) if tokenizer is None else as_tokenizer(tokenizer)
    vocabulary = getattr(tokenizer, "characters", None)
    what = "tokens" if vocabulary is None else "characters"
    tokens = tokenizer.encode(content)
    rows = len(tokens) // length
    if not rows:
        raise ValueError(
            f"A text must have at least `length` {what} (--context). Received: {len(tokens)} in "
            f"{name_of(paths)!r}, length={length}."
        )
    tokens = tokens[: rows * length].reshape(rows, length)
    name = name_of(paths)
    return Dataset(name, "tokens", tokens, vocabulary=vocabulary, tokenizer=tokenizer)


@checked(prompt_key=text, completion_key=optional(text))
def from_rows_file(
    path: FilePath | Sequence[FilePath],
    *,
    prompt_key: str = "prompt",
    completion_key: str | None = None,
    tokenizer: Any = None,
):
    """The rows of a .jsonl file, an object a line, of a .csv, .tsv or .parquet file, or of a .txt
    file, whose lines are prompts; of several files where `path` is a list of paths.

    Each row is a dict with a "prompt", a text or a chat; that is what the file calls `prompt_key`.
    What it calls `completion_key` is the "completion", if that is given. Without a `tokenizer`, the
    path of one or a `Tokenizer`, there is one of all characters in the file and the end of a line,
    by which an answer then ends.

    Raises:
        ValueError: for a file without rows, and for a row without a prompt.

    Example:

    ```python
    from pathlib import Path
    import artifex_keras as ak

    Path("sums.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}')
    dataset = ak.datasets.from_rows_file(Path("sums.jsonl"))
    print(dataset.train[0])  # {'prompt': '1+1=', 'answer': '2'}
    ```
    """
    paths = file_paths("path", path)
    tokenizer = None if tokenizer is None else as_tokenizer(tokenizer)
    columns = columns_of_files(paths, "prompt")
    if prompt_key not in columns:
        message = unknown_name(prompt_key, columns, "column")
        raise ValueError(
            f"{message} `prompt_key` (--set prompt_key=NAME) says which one holds the prompts."
        )
    for index, prompt in enumerate(columns[prompt_key]):
        if not isinstance(prompt, str) and not is_chat(prompt):
            raise ValueError(
                f"`{prompt_key}` must be a text or a chat. Received: {shown(prompt)} in "
                f"{place_of(paths, index)}."
            )
    renamed = {"prompt": columns.pop(prompt_key)}
    if completion_key is not None:
        renamed["completion"] = required(columns, completion_key)
        del columns[completion_key]
    rows = rows_of_columns({**columns, **renamed})
    if tokenizer is None:
        tokenizer = CharacterTokenizer.of("\n" + "".join(map(characters_of, rows)))
    return Dataset(name_of(paths), "rows", rows, tokenizer=tokenizer)


def columns_of_files(paths, line):
    """`{name: column}` of the rows of files; the lines of a .txt file are the column `line`."""
    return columns_of(joined([_columns(path, line) for path in paths], paths))


def _columns(path, line):
    if path.suffix.lower() != ".txt":
        return read_columns(path)
    return {line: [each for each in read_text(path).splitlines() if each.strip()]}


def place_of(paths, index):
    """Where a row of files stands, as "line 7 of 'chats.jsonl'"; of a table the number of its row,
    counted from 0."""
    for path in paths:
        places = _places(path)
        if index < len(places):
            return f"{places[index]} of {str(path)!r}"
        index -= len(places)
    raise IndexError(index)


def _places(path):
    """What each row of a file is called."""
    ending = path.suffix.lower()
    if ending == ".jsonl":
        return [f"line {number}" for number, _ in read_json_lines(path)]
    if ending == ".txt":
        lines = enumerate(read_text(path).splitlines(), 1)
        return [f"line {number}" for number, line in lines if line.strip()]
    rows = len(next(iter(read_columns(path).values())))
    return [f"row {number}" for number in range(rows)]


def rows_of_columns(columns):
    """Columns as dicts in an array (N,)."""
    rows = zip(*columns.values(), strict=True)
    return np.array([dict(zip(columns, row, strict=True)) for row in rows], object)


def characters_of(value):
    """All text in a row."""
    if is_chat(value):
        return chat_text(value)
    if isinstance(value, dict):
        return "".join(map(characters_of, value.values()))
    if isinstance(value, list):
        return "".join(map(characters_of, value))
    return "" if value is None or isinstance(value, bool) else str(value)
