"""Texts, chats and ids in the forms that people have them."""

import types

import numpy as np
import pytest

from artifex_keras.datasets import CharacterTokenizer, PromptBatches, preferences
from artifex_keras.datasets.rows import are_rows, columns_of
from artifex_keras.datasets.supervised import Supervised

LETTERS = CharacterTokenizer("# abcdefghijklmnopqrstuvwxyz:")
TEXTS = ["ab", "cde"]
IDS = [[2, 3], [4, 5, 6]]
USER = {"role": "user", "content": "a"}


def said(text):
    return {"role": "assistant", "content": text}


class Table:
    """What `datasets` and polars call a table: names, and columns by name."""

    def __init__(self, column_names, **columns):
        self.column_names, self.columns = column_names, columns

    def __getitem__(self, name):
        return self.columns[name]


@pytest.mark.parametrize(
    "x, expected",
    [
        (TEXTS, True),
        (IDS, True),
        ("rows.jsonl", True),
        (np.array(TEXTS), True),
        (np.array(TEXTS, object), True),
        ({"text": TEXTS}, True),
        ({"text": np.array(TEXTS)}, True),
        ({"prompt": np.zeros((2, 3)), "answer": ["a", "b"]}, True),
        (Table(["text"], text=TEXTS), True),
        ({"tokens": np.zeros((2, 3)), "mask": np.zeros((2, 3))}, False),
        ({"prompt": {"a": np.zeros(2)}, "chosen": np.zeros(2)}, False),
        (np.zeros((2, 3), "int32"), False),
        ((batch for batch in ()), False),
        (types.SimpleNamespace(columns=["a"]), False),
        (PromptBatches([[1, 2]], 1), False),
    ],
)
def test_rows_are_known_from_arrays_and_batches(x, expected):
    assert are_rows(x) is expected


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "ab"}, {"text": "cde"}],
        {"text": TEXTS},
        {"text": np.array(TEXTS, object)},
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        Table(["text"], text=TEXTS),
        IDS,
        [np.array(row) for row in IDS],
    ],
)
def test_texts_are_learned_in_each_form_that_they_have(rows):
    arrays = Supervised(tokenizer=LETTERS).arrays(rows)
    assert arrays["tokens"].tolist() == [row + [0] * (16 - len(row)) for row in IDS]
    assert arrays["mask"].sum(axis=1).tolist() == [2, 3]


def test_padding_of_an_array_of_ids_is_not_learned():
    padded = np.array([[2, 3, 0], [4, 5, 6]], "int32")
    arrays = Supervised(pad_token_id=0).arrays(padded)
    assert arrays["mask"].sum(axis=1).tolist() == [2, 3]
    assert Supervised().arrays(padded)["mask"].sum(axis=1).tolist() == [3, 3]


def test_a_table_of_pandas_is_rows():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["a", "b"], "answer": ["b", None], "level": [1, 2]})
    assert are_rows(frame) and are_rows(frame["prompt"])
    columns = columns_of(frame)
    assert columns["prompt"] == ["a", "b"] and columns["answer"] == ["b", None]
    assert list(columns["level"]) == [1, 2]
    assert columns_of(frame["prompt"], column="prompt") == {"prompt": ["a", "b"]}


@pytest.mark.parametrize(
    "prompts",
    [TEXTS, np.array(TEXTS), np.array(TEXTS, object), IDS, [{"prompt": t} for t in TEXTS]],
)
def test_prompts_in_each_form(prompts):
    batch = PromptBatches(prompts, 2, tokenizer=LETTERS, shuffle=False)[0]
    assert batch["prompt_length"].tolist() == [2, 3]
    assert batch["prompt"][:, :3].tolist() == [[2, 3, 0], [4, 5, 6]]


# A prompt that stands in both answers


@pytest.mark.parametrize(
    "chosen, rejected, prompt, rest",
    [
        ("q: ab", "q: cd", "q:", (" ab", " cd")),
        ("q: abc", "q: abd", "q:", (" abc", " abd")),  # whole words
        ("ab", "ac", "a", ("b", "c")),
        ("q: a", "q: a b", "q:", (" a", " a b")),  # something is left of both
        ([2, 3, 4], [2, 3, 5], [2, 3], ([4], [5])),
        ([2, 3], [2, 3, 5], [2], ([3], [3, 5])),
        ([USER, said("b")], [USER, said("c")], [USER], ([said("b")], [said("c")])),
        (
            [USER, said("b"), USER, said("c")],
            [USER, said("b"), USER, said("d")],
            [USER, said("b"), USER],
            ([said("c")], [said("d")]),
        ),
    ],
)
def test_what_both_answers_begin_with_is_the_prompt(chosen, rejected, prompt, rest):
    options = {
        "tokenizer": LETTERS,
        "chat_template": lambda chat: " ".join(m["content"] for m in chat),
    }
    found = preferences([{"chosen": chosen, "rejected": rejected}], **options)
    row = {"prompt": prompt, "chosen": rest[0], "rejected": rest[1]}
    expected = preferences([row], **options)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_answers_that_share_nothing_need_a_prompt():
    rows = [{"chosen": "ab", "rejected": "ac"}, {"chosen": "ab", "rejected": "cd"}]
    with pytest.raises(ValueError, match="need a 'prompt'.*Received: 'ab' and 'cd' in row 1"):
        preferences(rows, tokenizer=LETTERS)
    with pytest.raises(ValueError, match="Received: 3.5 and 'ab' in row 0"):
        preferences([{"chosen": 3.5, "rejected": "ab"}], tokenizer=LETTERS)


# What is said of rows that can't be used


@pytest.mark.parametrize(
    "rows, message",
    [
        (["ab", None], "Row 1 has no 'text'. Received: None"),
        ([b"ab"], r"`text` must be texts, chats or rows of token ids.*b'ab' in row 0"),
        ([("a", "b")], r"`text` must be texts.*\('a', 'b'\) in row 0"),
        ([{"text": "a"}, "b"], "Each row must be a dict. Received: 'b' in row 1"),
        ([{"prompt": "a", "response": "b"}], "no column 'completion'. Rename 'response'"),
        ([{"prompt": "a", "output": "b"}], "no column 'completion'. Rename 'output'"),
        ([{"instruction": "a", "output": "b"}], "Rename 'instruction' if it is the 'prompt'"),
        ([{"conversations": []}], "Rename 'conversations' if it is the 'messages'"),
        ([{"content": "a"}], "Rename 'content' if it is the 'text'"),
        ("ab", "no file 'ab'. One text is a list of one"),
    ],
)
def test_rows_that_cannot_be_learned(rows, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Supervised(tokenizer=LETTERS).arrays(rows)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"prompt": "a", "accepted": "b", "rejected": "c"}], "'chosen'. Rename 'accepted'"),
        ([{"question": "a", "chosen": "b", "rejected": "c"}], "'prompt'. Rename 'question'"),
        ([{"prompt": "a", "chosen": "b", "rejectd": "c"}], "Did you mean 'rejectd'"),
        (["a", "b"], "Each row must be a dict. Received: 'a' in row 0"),
    ],
)
def test_pairs_that_cannot_be_learned(rows, message):
    with pytest.raises(ValueError, match=message):
        preferences(rows, tokenizer=LETTERS)
